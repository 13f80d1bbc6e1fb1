"""Parts on `NFAugment`: waits, the cost of a call, CPU against GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import nfaug
from nfaug.augment.engine import Engine
from nfaug.augment.transform import NFAugment
from nfaug.classes.pca import ClasswisePCA

from .card import CLASSES, MEAN, STD, Card, normalised, pictures, samples

__all__ = ["agree", "calls", "waits"]


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
    side = 16 if card.tiny else 128
    yield "pixels at 128, floats", large, True, lambda: card.pixels(side)


def calls(card: Card) -> None:
    """The cost of a call alone: time, launches, memory."""
    rgb32 = card.bundled("rgb32")
    for name, size, floating, source in _sources(card):
        for batch in (20,) if card.tiny else (128, 256):
            case = f"{name}, {size} px, batch {batch}"
            with card.case(case):
                nfa = NFAugment(source(), mean=MEAN, std=STD, gate=None)
                images, labels = samples(rgb32, batch, size)
                images = images.to(card.device)
                labels = labels.to(card.device)
                if floating:
                    images = normalised(images)
                card.settled(nfa, images, labels)

                def job(a: Any = nfa, x: Tensor = images, y: Tensor = labels) -> None:
                    a(x, y)

                ms, host_ms = card.time(job)
                changed = nfa.stats()["applied"] / nfa.stats()["seen"]
                card.note(case, ms=ms, host_ms=host_ms, share_changed=changed)
                card.note_cost(case, job)


def agree(card: Card) -> None:
    """The same draws on the CPU and on the card, in gray levels, and twice on the card."""
    size = 48 if card.tiny else 224
    for name, side, floating in (("uint8", 32, False), ("floats", size, True)):
        for mix in ("axis", "regions"):
            case = f"rgb32, {mix}, {name}, {side} px"
            with card.case(case):
                _agree(card, case, side, floating, mix=mix)


def _agree(card: Card, case: str, side: int, floating: bool, **options: Any) -> None:
    rgb32 = card.bundled("rgb32")
    images, labels = samples(rgb32, 20 if card.tiny else 100, side)
    if floating:
        images = images / 255
    nfa = NFAugment(rgb32, p=1.0, gate=None, **options)
    draws = nfa.draw(labels)
    here, _ = nfa.replay(images, labels, draws)
    changed = int((here != images).flatten(1).any(1).sum())
    placed = images.to(card.device)
    there, _ = nfa.replay(placed, labels, draws)
    again, _ = nfa.replay(placed, labels, draws)
    scale = 255 if floating else 1
    off = (there.cpu().float() - here.float()).abs() * scale
    card.note(
        case,
        mean_levels=float(off.mean()),
        most_levels=float(off.max()),
        images_changed=changed,
        images_off_by_2_levels=int((off.flatten(1).amax(1) > 1.5).sum()),
        the_same_twice=bool(torch.equal(there, again)),
    )
