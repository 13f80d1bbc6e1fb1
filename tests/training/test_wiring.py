"""Every setting of a training run reaches the steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tools.nfa import TensorImages
from torch import Tensor
from torch.nn import functional as F

from nfaug.data.augmentation import FlowAugmentation
from nfaug.flows.layers import Step
from nfaug.flows.mef import MatrixExpCoupling
from nfaug.training import TrainConfig, TrainResult, loop, train
from nfaug.training.config import OptimConfig

CHANGES: list[dict[str, Any]] = [
    {"augmentation": FlowAugmentation(hflip=True)},
    {"augmentation": FlowAugmentation(noise=20.0)},
    {"augmentation": FlowAugmentation(rotation=20.0)},
    {"augmentation": FlowAugmentation(brightness=0.2, contrast=0.2)},
    {"optim": OptimConfig(warmup_steps=2, clip_norm=1e-3)},
    {"optim": OptimConfig(warmup_steps=0)},
    {"optim": OptimConfig(warmup_steps=2, bf16=True)},
    {"lr": 3e-3},
    {"batch_size": 18},
    {"seed": 1},
]


@pytest.fixture(scope="module")
def base(
    tiny_images: TensorImages, tiny_config: TrainConfig, tiny_result: TrainResult
) -> tuple[TrainConfig, TrainResult]:
    """A run from a fixed start, with class gaussians that stay those of the start."""
    prior = dataclasses.replace(tiny_config.prior, refit_epoch=0)
    config = dataclasses.replace(tiny_config, prior=prior)
    return config, train(
        tiny_images, config=config, checkpoint=tiny_result.checkpoint, progress=False
    )


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_setting_changes_the_losses(
    changes: dict[str, Any],
    base: tuple[TrainConfig, TrainResult],
    tiny_images: TensorImages,
    tiny_result: TrainResult,
) -> None:
    config, plain = base
    start = tiny_result.checkpoint
    other = dataclasses.replace(config, **changes)
    assert (
        train(tiny_images, config=other, checkpoint=start, progress=False).loss[-1]
        != plain.loss[-1]
    )


def test_recompute_and_bfloat16_are_those_of_the_flow_in_training(
    tiny_images: TensorImages, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, bool]] = set()
    forward = loop.FlowLoss.forward

    def watched(self: loop.FlowLoss, *given: Any) -> Tensor:
        seen.add((self.flow.recompute, self.flow.bf16))
        return forward(self, *given)

    monkeypatch.setattr(loop.FlowLoss, "forward", watched)
    optim = OptimConfig(warmup_steps=2, recompute="steps", bf16=True)
    train(
        tiny_images, config=dataclasses.replace(tiny_config, epochs=1, optim=optim), progress=False
    )
    assert seen == {("steps", True)}


def test_bounds_hold_after_every_step(tiny_images: TensorImages, tiny_config: TrainConfig) -> None:
    """With a learning rate that leads far beyond them."""
    flow = dataclasses.replace(tiny_config.flow, max_scale=1.05, bound=0.8)
    optim = OptimConfig(warmup_steps=0, ema_decay=0.0)
    config = dataclasses.replace(tiny_config, flow=flow, lr=0.5, epochs=4, optim=optim)
    made = train(tiny_images, config=config, progress=False).checkpoint.flow
    couplings = [module for module in made.modules() if isinstance(module, MatrixExpCoupling)]
    bounds = [coupling.exponent_bound() for coupling in couplings]
    steps = [module for module in made.modules() if isinstance(module, Step)]
    scales = [F.softplus(step.actnorm.scale).max().item() for step in steps]
    assert len(bounds) == len(scales) == 2
    assert max(bounds) <= 0.8 * (1 + 1e-5)
    assert max(scales) <= 1.05 * (1 + 1e-5)
    assert max(bounds) > 0.7 or max(scales) > 1.04, "a bound was reached"


def test_a_flow_that_was_trained_in_bfloat16_is_used_in_float32(
    tiny_images: TensorImages, tiny_config: TrainConfig
) -> None:
    """Where gradients are recorded, too: `encode` was off by 0.04, and `decode` by levels."""
    optim = OptimConfig(warmup_steps=2, recompute="steps", bf16=True)
    config = dataclasses.replace(tiny_config, optim=optim)
    flow = train(tiny_images, config=config, progress=False).checkpoint.flow
    images = tiny_images.images[:12]
    with torch.no_grad():
        latents, _ = flow.encode(images)
    assert torch.equal(flow.encode(images)[0], latents)
    assert torch.equal(flow.decode(latents), images)
