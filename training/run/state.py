"""The state of a run: everything that the next step depends on, as one thing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...gaussians.gaussians import ClassGaussians
from .optimizer import FlowOptimizer

__all__ = ["RunState", "Snapshot"]


@dataclass
class Snapshot:
    """A state at rest: tensors by name, and the rest as JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass
class RunState:
    """A run between two of its steps.

    Attributes:
        optimizer: weights, their average and moments, and the count of steps.
        gaussians, prior: the class gaussians, and how they were found.
        noise, choice: what draws dequantisation noise and augmentation, on the device; and data
            order and samples, on the CPU.
        epoch, position: the epoch, from 1, and how many of its batches are done.
        order: the epoch's images in order; None between two epochs.
        elapsed: seconds of training, those of earlier processes included.
        rollbacks: how often the run went back to an earlier state.
        finished: whether the last epoch is over.
        best: the lowest bits/dim of held-out images.
        history, losses: the rows of the log; bits/dim of every step that was not skipped.
    """

    optimizer: FlowOptimizer
    gaussians: ClassGaussians
    prior: dict[str, Any]
    noise: torch.Generator
    choice: torch.Generator
    epoch: int = 1
    position: int = 0
    order: Tensor | None = None
    elapsed: float = 0.0
    rollbacks: int = 0
    finished: bool = False
    best: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def snapshot(self) -> Snapshot:
        """A copy, on the CPU."""
        tensors = self.optimizer.tensors()
        tensors |= {f"gaussians.{k}": value for k, value in self.gaussians.state_dict().items()}
        tensors["noise"] = self.noise.get_state()
        tensors["choice"] = self.choice.get_state()
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        if self.order is not None:
            tensors["order"] = self.order
        copied = {
            k: value.detach().to("cpu", copy=True).contiguous() for k, value in tensors.items()
        }
        facts = {
            "optimizer": self.optimizer.facts(),
            "prior": dict(self.prior),
            "epoch": self.epoch,
            "position": self.position,
            "elapsed": self.elapsed,
            "rollbacks": self.rollbacks,
            "finished": self.finished,
            "best": self.best,
            "history": [dict(row) for row in self.history],
        }
        return Snapshot(copied, facts)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot.

        Raises:
            RuntimeError: its weights are of another flow.
        """
        tensors, facts = snapshot.tensors, snapshot.facts
        self.optimizer.restore(tensors, facts["optimizer"])
        device = self.optimizer.flow.device
        self.gaussians = gaussians_of(tensors).to(device)
        self.prior = dict(facts["prior"])
        self.noise.set_state(tensors["noise"])
        self.choice.set_state(tensors["choice"])
        self.losses = tensors["losses"].tolist()
        self.order = tensors["order"].clone() if "order" in tensors else None
        self.epoch, self.position = facts["epoch"], facts["position"]
        self.elapsed, self.rollbacks = facts["elapsed"], facts["rollbacks"]
        self.finished = facts["finished"]
        self.best = math.inf if facts["best"] is None else facts["best"]
        self.history = [
            {name: math.nan if value is None else value for name, value in row.items()}
            for row in facts["history"]
        ]


def gaussians_of(tensors: Mapping[str, Tensor]) -> ClassGaussians:
    """The class gaussians among the tensors of a snapshot."""
    parts = (tensors[f"gaussians.{name}"] for name in ("means", "variances", "counts"))
    return ClassGaussians(*parts)
