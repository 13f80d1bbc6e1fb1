"""Parts on `NFAugment`: waits, the cost of a call, CPU against GPU, a training step around it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet50

import nfaug
from nfaug.augment.engine import Engine
from nfaug.augment.transform import NFAugment
from nfaug.classes.pca import ClasswisePCA

from .tools import CLASSES, MEAN, STD, Card, normalised, pictures, samples, tf32

__all__ = ["agree", "calls", "step", "waits"]


class _Autoencoder(nn.Module):
    """Images to latents of an eighth of their side, and back, by random weights."""

    latent_channels = 4
    factor = 8
    input_range = (0.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.to_latents = nn.Conv2d(3, 4, 8, 8)
        self.to_pixels = nn.ConvTranspose2d(4, 3, 8, 8)

    def encode(self, images: Tensor) -> Tensor:
        return self.to_latents(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.to_pixels(latents)


def _on_latents(card: Card) -> Any:
    data = torch.utils.data.TensorDataset(*pictures(30, 64))
    base = card.bundled("pixels")
    return nfaug.fit(base, data, autoencoder=_Autoencoder(), rank=2, progress=False)


def waits(card: Card) -> None:
    """How often a call makes the host wait, after the first batches, which do."""
    sources: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
        "rgb32": (lambda: card.bundled("rgb32"), {}),
        "rgb32, regions": (lambda: card.bundled("rgb32"), {"mix": "regions"}),
        "rgb32, noise": (lambda: card.bundled("rgb32"), {"noise": 0.1}),
        "rgb32, p of each class": (lambda: card.bundled("rgb32"), {"p": [0.5] * CLASSES}),
        "pixels": (lambda: card.pixels(16 if card.tiny else 64), {}),
        "latents of an autoencoder": (lambda: _on_latents(card), {}),
    }
    count = 20 if card.tiny else 40
    rgb32 = card.bundled("rgb32")
    for name, (source, options) in sources.items():
        with card.case(name):
            nfa = NFAugment(source(), mean=MEAN, std=STD, gate=None, **options)
            images, labels = samples(rgb32, count, 64)
            images = images.to(card.device)
            floats = normalised(images)
            card.settled(nfa, images, labels)
            card.settled(nfa, floats, labels)
            there = labels.to(card.device)
            batches = {
                "uint8": (images, there),
                "floats": (floats, there),
                "labels on the CPU": (floats, labels),
            }
            for form, batch in batches.items():
                card.note(name, **{form: card.waits(lambda a=nfa, batch=batch: a(*batch))})
            card.note(name, share_changed=nfa.stats()["applied"] / nfa.stats()["seen"])


def _many_classes(card: Card, dim: int, classes: int) -> ClasswisePCA:
    """Random axes of many classes; no cost depends on which."""
    rank = 2 if card.tiny else 64
    each = 4
    axes = torch.linalg.qr(torch.randn(dim, rank, device=card.device))[0].T.half()
    of_class = torch.arange(classes, device=card.device)
    ones = torch.ones(classes, device=card.device)
    return ClasswisePCA(
        {
            "mean": torch.zeros(classes, dim, device=card.device),
            "axes": axes.expand(classes, -1, -1).contiguous(),
            "eigenvalues": torch.ones(classes, rank, device=card.device),
            "ranks": torch.full_like(of_class, rank),
            "counts": torch.full_like(of_class, each),
            "gate_distance": 1e9 * ones,
            "gate_energy": 1e9 * ones,
            "memory": torch.randn(classes * each, rank, device=card.device).half(),
            "memory_labels": of_class.repeat_interleave(each),
        }
    )


def _sources(card: Card) -> Iterator[tuple[str, int, bool, Callable[[], Any]]]:
    """Name, size of the images, whether they are floats, and the flow."""
    large = 48 if card.tiny else 224

    def many() -> Any:
        flow = card.bundled("rgb32").flow
        return Engine(flow, _many_classes(card, flow.config.dim, 70 if card.tiny else 1000))

    yield "rgb32, uint8", 32, False, lambda: card.bundled("rgb32")
    yield "rgb32, floats", large, True, lambda: card.bundled("rgb32")
    yield "rgb32 of 1,000 classes, floats", large, True, many
    yield "pixels at 128, floats", large, True, lambda: card.pixels(16 if card.tiny else 128)


def calls(card: Card) -> None:
    """The cost of a call alone: time, launches, memory."""
    rgb32 = card.bundled("rgb32")
    for name, size, floating, source in _sources(card):
        for batch in (20,) if card.tiny else (128, 256):
            with card.case(f"{name}, {size} px, batch {batch}"):
                nfa = NFAugment(source(), mean=MEAN, std=STD, gate=None)
                images, labels = samples(rgb32, batch, size)
                images = images.to(card.device)
                labels = labels.to(card.device)
                if floating:
                    images = normalised(images)
                card.settled(nfa, images, labels)

                def job(a: Any = nfa, x: Tensor = images, y: Tensor = labels) -> None:
                    a(x, y)

                case = f"{name}, {size} px, batch {batch}"
                ms, host_ms = card.time(job)
                changed = nfa.stats()["applied"] / nfa.stats()["seen"]
                card.note(case, ms=ms, host_ms=host_ms, share_changed=changed)
                card.note_cost(case, job)


def agree(card: Card) -> None:
    """The same draws on the CPU and on the card, in grey levels, and twice on the card."""
    size = 48 if card.tiny else 224
    for name, side, floating in (("uint8", 32, False), ("floats", size, True)):
        for mix in ("axis", "regions"):
            with card.case(f"rgb32, {mix}, {name}, {side} px"):
                rgb32 = card.bundled("rgb32")
                images, labels = samples(rgb32, 20 if card.tiny else 100, side)
                if floating:
                    images = images / 255
                nfa = NFAugment(rgb32, p=1.0, mix=mix, gate=None)
                draws = nfa.draw(labels)
                here, _ = nfa.replay(images, labels, draws)
                changed = int((here != images).flatten(1).any(1).sum())
                placed = images.to(card.device)
                there, _ = nfa.replay(placed, labels, draws)
                again, _ = nfa.replay(placed, labels, draws)
                scale = 255 if floating else 1
                off = (there.cpu().float() - here.float()).abs() * scale
                card.note(
                    f"rgb32, {mix}, {name}, {side} px",
                    mean_levels=float(off.mean()),
                    most_levels=float(off.max()),
                    images_changed=changed,
                    images_off_by_2_levels=int((off.flatten(1).amax(1) > 1.5).sum()),
                    the_same_twice=bool(torch.equal(there, again)),
                )


class _Step:
    """A training step of a classifier in bfloat16, channels-last."""

    def __init__(self, card: Card) -> None:
        network = resnet18 if card.tiny else resnet50
        model: nn.Module = network(num_classes=CLASSES)
        self.device = card.device
        self.model = model.to(card.device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def _compiled(card: Card, nfa: NFAugment) -> Callable[[Tensor, Tensor], Any]:
    """NFA with a compiled flow."""
    flow: Any = nfa.engine.on(card.device)[0]
    names = ["latents", "decode"]
    for name in names:
        setattr(flow, name, card.compiled(getattr(flow, name)))

    def augment(images: Tensor, labels: Tensor) -> Any:
        result = nfa(images, labels)
        unused = [name for name in names if not getattr(flow, name).calls]
        if unused:  # it would be timed as it is without a compiler
            raise RuntimeError(f"NFAugment did not call what was compiled: {unused}")
        return result

    return augment


def _ways(card: Card) -> dict[str, Callable[[Tensor, Tensor], Any] | None]:
    """The ways to run NFA in a step; the plain step comes first."""
    rgb32 = card.bundled("rgb32")
    pixels = card.pixels(16 if card.tiny else 128)
    options: dict[str, Any] = {"p": 0.5, "mean": MEAN, "std": STD, "gate": None}
    return {
        "no NFA": None,
        "rgb32": NFAugment(rgb32, **options),
        "pixels at 128": NFAugment(pixels, **options),
        "rgb32, graphs": NFAugment(rgb32, cuda_graphs=True, **options),
        "rgb32, compiled": _compiled(card, NFAugment(rgb32, **options)),
    }


def step(card: Card) -> None:
    """A step of ResNet-50 with each way to run NFA, in turns; images are uploaded in each."""
    train = _Step(card)
    ways = _ways(card)
    size = 32 if card.tiny else 224
    steps = 1 if card.tiny else 10
    for batch in (8,) if card.tiny else (128, 256):
        images, labels = samples(card.bundled("rgb32"), batch, size)
        images = normalised(images)
        if card.is_gpu:
            images = images.pin_memory()
            labels = labels.pin_memory()

        def loop(nfa: Any, images: Tensor = images, labels: Tensor = labels) -> None:
            for _ in range(steps):
                x = images.to(card.device, non_blocking=True)
                y = labels.to(card.device, non_blocking=True)
                if nfa is not None:
                    x, y = nfa(x, y)
                train(x, y)

        jobs: dict[str, Callable[[], object]] = {}
        for name, nfa in ways.items():
            with card.case(f"{name}, batch {batch}"), tf32(False):  # compiled flows follow it
                loop(nfa)  # what fails here takes no turns
                jobs[name] = lambda nfa=nfa, loop=loop: loop(nfa)
        with card.case(f"batch {batch}"), tf32(False):
            seconds = card.turns(jobs)
            for name, own in seconds.items():
                ratios = [a / b for a, b in zip(own, seconds["no NFA"], strict=True)]
                card.note(
                    f"{name}, batch {batch}",
                    ms=1e3 * statistics.median(own) / steps,
                    ratio=statistics.median(ratios),
                    lowest=min(ratios),
                    highest=max(ratios),
                    peak_MiB=card.peak(jobs[name]),
                )
