"""Parts on flows: the card's rates, exact images, the limit of encode and decode, training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.convolutions import Convolutions
from benchmarks.flow import example_flow
from nfaug.classes.gaussians import ClassGaussians
from nfaug.flows import networks
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig
from nfaug.training import TrainConfig
from nfaug.training.loop import FlowLoss
from nfaug.training.optimizer import FlowOptimizer

from .card import CLASSES, Card, pictures, searching, tf32

__all__ = ["exact", "limit", "rates", "train"]

_TINY = FlowConfig(3, (8, 8), MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8)))
_IMAGES = 50_000  # of CIFAR, which the paper trains on for 500 epochs
_EPOCHS = 500
_LAYOUTS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}


def rates(card: Card) -> None:
    """What the card can do: matrix products, copies, launches."""
    n = 128 if card.tiny else 8192
    a = torch.randn(n, n, device=card.device)
    matmul = torch.backends.cuda.matmul
    for kind in ("float32", "TF32", "bfloat16"):
        with card.case(f"matrix product, {kind}"):
            factor = a.bfloat16() if kind == "bfloat16" else a
            matmul.allow_tf32 = kind == "TF32"
            ms, _ = card.time(lambda x=factor: x @ x)
            matmul.allow_tf32 = False
            card.note(f"matrix product, {kind}", TFLOP_per_s=2 * n**3 / ms / 1e9)
    with card.case("copy"):
        ms, _ = card.time(a.clone)
        card.note("copy", GB_per_s=2 * 4 * a.numel() / ms / 1e6)
    with card.case("small kernel"):
        one = torch.ones(1, device=card.device)
        whole, queued = card.time(lambda: one.add_(1), calls=1000)
        card.note("small kernel", us=1e3 * whole, us_of_the_host=1e3 * queued)


def exact(card: Card) -> None:
    """Images that do not come back bit for bit, whatever the script around the flow sets."""
    count = 8 if card.tiny else 4096
    for name in ("rgb32", "fashion-mnist"):
        checkpoint = card.bundled(name)
        flow = checkpoint.flow.freeze()
        size = flow.codec.image_size[0]
        generator = torch.Generator("cpu").manual_seed(0)
        own = checkpoint.sample(count, generator=generator)
        others = pictures(count, size, flow.codec.channels)[0].to(card.device)
        for kind, images in (("samples", own), ("pictures", others)):
            for on in (False, True):
                with card.case(f"{name}, {kind}, TF32 {_words(on)}"), tf32(on):
                    _round_trip(card, f"{name}, {kind}, TF32 {_words(on)}", flow, images, 256)
            with card.case(f"{name}, {kind}, cudnn.benchmark"), searching():
                _round_trip(card, f"{name}, {kind}, cudnn.benchmark", flow, images, 256)
            with card.case(f"{name}, {kind}, batches of 7"):
                few = images[:700]
                _round_trip(card, f"{name}, {kind}, batches of 7", flow, few, 7)
    _exact_compiled(card, count)


def _exact_compiled(card: Card, count: int) -> None:
    """A compiled flow follows the TF32 of the script."""
    with card.case("rgb32, compiled"):
        checkpoint = card.bundled("rgb32")
        flow: Any = checkpoint.flow.freeze()
        flow.encode = card.compiled(flow.encode)
        flow.decode = card.compiled(flow.decode)
        images = checkpoint.sample(count, generator=torch.Generator("cpu").manual_seed(0))
        for on in (False, True):
            with tf32(on):
                _round_trip(card, f"rgb32, samples, compiled, TF32 {_words(on)}", flow, images, 256)


def _words(on: bool) -> str:
    return "on" if on else "off"


@torch.no_grad()
def _round_trip(card: Card, case: str, flow: Any, images: Tensor, batch: int) -> None:
    wrong = 0
    levels = 0
    for part in images.split(batch):
        back = flow.decode(flow.encode(part)[0])
        off = (back.int() - part.int()).abs().flatten(1).amax(1)
        wrong += int((off > 0).sum())
        levels = max(levels, int(off.max()))
    card.note(case, images=len(images), wrong=wrong, levels=levels)


def limit(card: Card) -> None:
    """Encode and decode beside the convolutions alone, which are the card's limit."""
    batches = (2,) if card.tiny else (64, 256, 512)
    rgb32 = card.bundled("rgb32").flow
    flows = {"paper": example_flow(_paper(card), str(card.device)), "rgb32": rgb32}
    for name, flow in flows.items():
        for batch in batches:
            with card.case(f"{name}, batch {batch}"):
                best = _convolutions(card, name, flow, batch)
                for order, layout in _LAYOUTS.items():
                    with mock.patch.object(networks, "ACCELERATOR_LAYOUT", layout):
                        _directions(card, f"{name}, batch {batch}, {order}", flow, batch, best)


def _convolutions(card: Card, name: str, flow: Flow, batch: int) -> float:
    """Time the convolutions in each type and layout; return the best ms in full float32."""
    types = {"float32": torch.float32, "TF32": torch.float32, "bfloat16": torch.bfloat16}
    found = {}
    for kind, dtype in types.items():
        for order, layout in _LAYOUTS.items():
            alone = Convolutions(flow, batch, dtype, layout)
            with tf32(kind == "TF32"):
                ms, _ = card.time(alone, calls=3)
            found[kind, order] = ms
            case = f"{name}, batch {batch}, convolutions alone, {kind}, {order}"
            card.note(case, images_per_s=1e3 * batch / ms, TFLOP_per_s=alone.flop / ms / 1e9)
    return min(found["float32", order] for order in _LAYOUTS)


@torch.no_grad()
def _directions(card: Card, case: str, flow: Flow, batch: int, best: float) -> None:
    """Time encode and decode, with weights in the present layout of accelerators."""
    frozen = flow.freeze()
    images = pictures(batch, frozen.codec.image_size[0])[0].to(card.device)
    z, _ = frozen.encode(images)
    jobs: dict[str, Callable[[], object]] = {
        "encode": lambda: frozen.encode(images),
        "decode": lambda: frozen.decode(z),
    }
    for way, job in jobs.items():
        ms, host_ms = card.time(job, calls=3)
        card.note(
            f"{case}, {way}",
            images_per_s=1e3 * batch / ms,
            TFLOP_per_s=batch * frozen.config.flop / ms / 1e9,
            share_of_the_limit=best / ms,
            host_ms=host_ms,
        )
        card.note_cost(f"{case}, {way}", job)


def _paper(card: Card) -> FlowConfig:
    return _TINY if card.tiny else FlowConfig()


def train(card: Card) -> None:
    """Steps of training: the loss, the gradient, Adamax and the average."""
    paper = _paper(card)
    rgb32 = _TINY if card.tiny else card.bundled("rgb32").flow.config
    bf16 = {"bf16": True}
    cases: list[tuple[str, FlowConfig, int, dict[str, Any], bool]] = [
        ("paper", paper, 512, {}, True),
        ("paper, backward in float32, too", paper, 512, {}, False),
        ("paper, bf16", paper, 512, bf16, True),
        ("paper, recompute", paper, 512, {"recompute": "steps"}, True),
        ("paper, one GPU of 8", paper, 64, {}, True),
        ("paper, bf16, one GPU of 8", paper, 64, bf16, True),
        ("rgb32", rgb32, 512, {}, True),
    ]
    for name, config, batch, options, on in cases:
        count = 4 if card.tiny else batch
        with card.case(f"{name}, batch {batch}"), tf32(on):
            job = _step(card, config, count, options)
            ms, host_ms = card.time(job, calls=3)
            card.note(
                f"{name}, batch {batch}",
                images_per_s=1e3 * count / ms,
                hours_to_500_epochs=_EPOCHS * _IMAGES * ms / count / 3.6e6,
                ms=ms,
                host_ms=host_ms,
            )
            card.note_cost(f"{name}, batch {batch}", job)


def _step(
    card: Card, config: FlowConfig, count: int, options: dict[str, Any]
) -> Callable[[], object]:
    flow = example_flow(config, str(card.device)).train()
    flow.configure_training(**options)
    optimizer = FlowOptimizer(flow, TrainConfig(lr=1e-6))
    model = FlowLoss(flow)
    means = torch.zeros(CLASSES, config.dim)
    gaussians = ClassGaussians(means, torch.ones_like(means)).to(card.device)
    images, labels = pictures(count, config.image_size[0])
    images = images.to(card.device)
    labels = labels.to(card.device)
    noise = torch.rand(count, *config.shape, device=card.device)

    def step() -> None:
        loss = model(images, noise, labels, gaussians).sum() / count
        stepped, _ = optimizer.step(loss, 0.5, loss.detach()[None])
        if not stepped:
            raise ArithmeticError("the step was skipped: its loss or gradient is not finite")

    return step
