"""The loop of the fixed point: it evaluates an update until nothing moves any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .anderson import Anderson, State
from .config import (
    FixedPointConfig,
    FixedPointDivergence,
    FixedPointResult,
    FixedPointStep,
)

__all__ = ["State", "StepReport", "iterate"]


class StepReport(NamedTuple):
    """What one evaluation of the update saw: divergences (K, K) and, per class, (K,) each."""

    kl: Tensor
    mean_moves: Tensor
    variance_moves: Tensor
    out_of_range: Tensor


def iterate(
    step: Callable[[State, State], StepReport],
    state: State,
    config: FixedPointConfig,
    weight: float,
) -> FixedPointResult:
    """The loop that all solvers share: ``step(state, following)`` writes the next state.

    What ``config.fit`` keeps fixed is one and the same tensor in both states.
    """
    fixed = {"means": 1, "covariances": 0, "both": None}[config.fit]
    following: State = (
        state[0] if fixed == 0 else torch.empty_like(state[0]),
        state[1] if fixed == 1 else torch.empty_like(state[1]),
    )
    anderson = Anderson(config.anderson, fixed, config.variance_bounds) if config.anderson else None
    history: list[FixedPointStep] = []
    converged = False
    for iteration in range(1, config.max_iterations + 1):
        report = step(state, following)
        bad = bool(report.out_of_range.any())
        if bad and (anderson is None or not anderson.ahead):
            worst = int(report.out_of_range.nonzero()[0])
            raise FixedPointDivergence(iteration, worst, weight, config.advice(), history)
        entry = _record(iteration, report)
        if anderson is not None and anderson.rejects(entry.residual, bad):
            anderson.retreat(state)
            continue
        history.append(entry)
        converged = entry.residual <= config.tolerance
        if converged or iteration == config.max_iterations:
            break
        # Never into the last iteration: nothing could take it back.
        if anderson is not None and iteration + 1 < config.max_iterations:
            anderson.leap(state, following, entry.residual)
        elif anderson is not None:
            anderson.ahead = False
        state, following = following, state
    # The state before the last step: it is the one that the residual belongs to.
    return FixedPointResult(*state, converged, iteration, history[-1].residual, history)


def _record(iteration: int, report: StepReport) -> FixedPointStep:
    kl, classes = report.kl, len(report.kl)
    mean = float(kl.sum()) / (classes * (classes - 1))  # the diagonal is zero
    # In place, and put back: a copy of all but the diagonal would cost more than the rest.
    kl.diagonal().fill_(torch.inf)
    least = float(kl.min())
    kl.diagonal().zero_()
    return FixedPointStep(
        iteration,
        mean_residual=float(report.mean_moves.max()),
        variance_residual=float(report.variance_moves.max()),
        kl_min=least,
        kl_mean=mean,
    )
