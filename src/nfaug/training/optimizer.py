"""Adamax with warm-up, gradient clipping, skipped steps and a moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nfaug.flows.flow import Flow

from .config import TrainConfig

MAX_BAD_STEPS = 20  # so many in a row end the run, or return it to its last saved state
_EMA_POWER = 0.75  # warm-up of the average: its decay at step n is at most 1 - (1 + n)^-0.75


class TrainingDiverged(ArithmeticError):
    """Training diverged: too many steps in a row, or the latents, are not finite.

    Lower the learning rate, `lr`, or set `flow.max_scale` or `augmentation.noise`.

    Example:
        >>> issubclass(TrainingDiverged, ArithmeticError)
        True
    """


def learning_rate(config: TrainConfig, step: int, done: float) -> float:
    """Learning rate of step `step` (from 0) when a share `done` of the run is over.

    lr * min(1, (step + 1) / warmup_steps) * (0.505 + 0.495 cos(pi * done)); the last factor is 1 if
    `optim.decay` is "constant".
    """
    warmup = min(1.0, (step + 1) / max(1, config.optim.warmup_steps))
    decay = 1.0
    if config.optim.decay == "cosine":
        decay = 0.505 + 0.495 * math.cos(math.pi * done)
    return config.lr * warmup * decay


class FlowOptimizer:
    """Adamax (arXiv:1412.6980) on a flow, and the moving average of its weights.

    Create it after the flow's data-dependent initialisation: the average starts from the weights
    at that moment.

    Attributes:
        average: The flow with averaged weights.
        steps: Steps so far, skipped ones included.
        skipped: Steps skipped because the loss or the gradient was not finite.
        skipped_in_a_row: Skipped steps since the last finite one.
        rate: Learning rate of the last step.
        scale: Factor of every learning rate; each rollback halves it.
    """

    def __init__(self, flow: Flow, config: TrainConfig) -> None:
        from ema_pytorch import EMA  # `train` has checked that it is installed

        self.flow: Flow = flow
        self.config: TrainConfig = config
        self.ema: Any = EMA(  # ema_pytorch has no types
            flow,
            beta=config.optim.ema_decay,
            power=_EMA_POWER,
            update_after_step=0,
            update_every=1,
            include_online_model=False,
            use_foreach=True,
        )
        self.optimizer: torch.optim.Adamax = torch.optim.Adamax(flow.parameters(), lr=config.lr)
        self.steps: int = 0
        self.skipped: int = 0
        self.skipped_in_a_row: int = 0
        self.scale: float = 1.0

    @property
    def average(self) -> Flow:
        flow: Flow = self.ema.ema_model
        return flow

    @property
    def rate(self) -> float:
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def step(self, loss: Tensor, done: float, numbers: Tensor) -> tuple[bool, list[float]]:
        """Take a step; return whether it was not skipped, and the values of `numbers`.

        They are read together with the gradient's norm, before the step is queued: each read makes
        the host wait for the GPU.

        Args:
            loss: The loss to differentiate, perhaps of this process's rows alone.
            done: Share of the run that is over.
            numbers: (m,), the loss to check first.

        Raises:
            TrainingDiverged: If `MAX_BAD_STEPS` steps in a row are not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.scale * learning_rate(self.config, self.steps, done)
        self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.flow.parameters(), self.config.optim.clip_norm)
        *values, norm_number = torch.cat([numbers, norm.to(numbers)[None]]).tolist()
        loss_number = values[0]
        if math.isfinite(loss_number) and math.isfinite(norm_number):
            self.optimizer.step()
            self.flow.clip_()
            self.ema.update()
            self.skipped_in_a_row = 0
            return True, values
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MAX_BAD_STEPS:
            raise TrainingDiverged(
                f"{self.skipped_in_a_row} steps in a row were not finite (loss {loss_number}, "
                f"gradient norm {norm_number}); {self.advice()}"
            )
        return False, values

    def advice(self) -> str:
        """Which settings to change if training diverges."""
        optim = self.config.optim
        return (
            f"try a smaller lr than {self.config.lr:g}, a longer optim.warmup_steps than "
            f"{optim.warmup_steps}, or a smaller optim.clip_norm than {optim.clip_norm:g}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a step reads or writes, by name: weights, moments and average."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.flow.state_dict().items():
            tensors[f"flow.{name}"] = tensor
        for name, tensor in self.ema.state_dict().items():
            tensors[f"ema.{name}"] = tensor
        for number, moments in self.optimizer.state_dict()["state"].items():
            for name, tensor in moments.items():
                tensors[f"optimizer.{number}.{name}"] = tensor
        return tensors

    def facts(self) -> dict[str, Any]:
        """Everything else that a step depends on, as JSON values."""
        return {
            "steps": self.steps,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "rate_scale": self.scale,
            "rate": self.rate,
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Restore the state that `tensors()` and `facts()` returned."""

        def part(prefix: str) -> dict[str, Tensor]:
            names = [name for name in tensors if name.startswith(prefix)]
            return {name.removeprefix(prefix): tensors[name] for name in names}

        self.flow.load_state_dict(part("flow."))
        self.ema.load_state_dict(part("ema."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in part("optimizer.").items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = tensor.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for group in self.optimizer.param_groups:
            group["lr"] = facts["rate"]
        self.steps = facts["steps"]
        self.skipped = facts["skipped"]
        self.skipped_in_a_row = facts["skipped_in_a_row"]
        self.scale = facts["rate_scale"]
