"""Parts on a classifier's training step, with each way to run NFA in it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet50

from nfaug.augment.transform import NFAugment

from .card import CLASSES, MEAN, STD, Card, samples, searching, tf32

__all__ = ["compiled", "small", "step"]

Way = Callable[[Tensor, Tensor], Any] | None
_OPTIONS: dict[str, Any] = {"p": 0.5, "mean": MEAN, "std": STD, "gate": None}


class _Step:
    """A training step of a classifier in bfloat16, channels-last."""

    def __init__(self, card: Card, network: Callable[..., nn.Module]) -> None:
        self.device = card.device
        self.model = network(num_classes=CLASSES)
        self.model.to(card.device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def step(card: Card) -> None:
    """A step of ResNet-50 at 224 pixels."""
    rgb32 = card.bundled("rgb32")
    pixels = card.pixels(16 if card.tiny else 128)
    ways: dict[str, Way] = {
        "no NFA": None,
        "pixels at 128": NFAugment(pixels, **_OPTIONS),
        "rgb32": NFAugment(rgb32, **_OPTIONS),
    }
    _at_224(card, ways)


def compiled(card: Card) -> None:
    """The same with a compiled flow, which takes minutes to compile."""
    nfa = NFAugment(card.bundled("rgb32"), **_OPTIONS)
    _at_224(card, {"no NFA": None, "rgb32, compiled": _with_compiled_flow(card, nfa)})


def _at_224(card: Card, ways: dict[str, Way]) -> None:
    train = _Step(card, resnet18 if card.tiny else resnet50)
    for batch in (8,) if card.tiny else (128, 256):
        _turns(card, train, ways, batch, 32 if card.tiny else 224)


def small(card: Card) -> None:
    """A step of ResNet-18 at 32 and 64 pixels, which takes the host longer than the GPU."""
    train = _Step(card, resnet18)
    rgb32 = card.bundled("rgb32")
    for size in (32, 64):
        ways: dict[str, Way] = {
            "no NFA": None,
            "pixels": NFAugment(card.pixels(size), **_OPTIONS),
            "rgb32": NFAugment(rgb32, **_OPTIONS),
        }
        _turns(card, train, ways, 8 if card.tiny else 128, size)


def _with_compiled_flow(card: Card, nfa: NFAugment) -> Way:
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


def _turns(card: Card, train: _Step, ways: dict[str, Way], batch: int, size: int) -> None:
    """Time a step with each way in turns; uint8 images are uploaded and normalised in each.

    "no NFA" is the plain step, of which ratios are taken. cuDNN tries its algorithms.
    """
    steps = 1 if card.tiny else 10
    mean = 255 * torch.tensor(MEAN, device=card.device)[:, None, None]
    std = 255 * torch.tensor(STD, device=card.device)[:, None, None]
    images, labels = samples(card.bundled("rgb32"), batch, size)
    if card.is_gpu:
        images = images.pin_memory()
        labels = labels.pin_memory()

    def loop(way: Way) -> None:
        for _ in range(steps):
            x = images.to(card.device, non_blocking=True).float().sub_(mean).div_(std)
            y = labels.to(card.device, non_blocking=True)
            if way is not None:
                x, y = way(x, y)
            train(x, y)

    jobs: dict[str, Callable[[], object]] = {}
    with searching(), tf32(False):  # compiled flows follow it
        for name, way in ways.items():
            case = f"{name}, {size} px, batch {batch}"
            with card.case(case):
                loop(way)  # what fails here takes no turns
                jobs[case] = lambda way=way: loop(way)
        with card.case(f"{size} px, batch {batch}"):
            seconds = card.turns(jobs)
            plain = seconds[f"no NFA, {size} px, batch {batch}"]
            for case, own in seconds.items():
                ratios = [a / b for a, b in zip(own, plain, strict=True)]
                card.note(
                    case,
                    ms=1e3 * statistics.median(own) / steps,
                    ratio=statistics.median(ratios),
                    lowest=min(ratios),
                    highest=max(ratios),
                    peak_MiB=card.peak(jobs[case]),
                )
