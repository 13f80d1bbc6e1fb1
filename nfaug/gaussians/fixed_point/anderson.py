"""Safeguarded Anderson acceleration of a fixed-point iteration on (mu, log v)."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Anderson", "State"]

#: Means and variances.
State: TypeAlias = tuple[Tensor, Tensor]


class Anderson:
    r"""Leaps from the last few steps, and a way back where a leap made things worse.

    With x the state, g the damped step from it, f = g - x, and the differences :math:`\Delta F`,
    :math:`\Delta G` of f and g over up to ``depth`` former steps,

    .. math:: x \leftarrow g - \Delta G\, \gamma, \quad
              \gamma = \arg\min_\gamma |f - \Delta F \gamma|

    (Anderson 1965; Walker and Ni 2011). It keeps 2 ``depth`` + 3 states.

    Args:
        depth: How many former steps are used, at least 1.
        fixed: The index of what stays fixed in the state, 0 for means and 1 for variances, or None.
        bounds: Onto which variances are projected after a leap.
    """

    def __init__(self, depth: int, fixed: int | None, bounds: tuple[float, float] | None) -> None:
        self.depth = depth
        self.moving = [i for i in (0, 1) if i != fixed]
        self.bounds = bounds
        #: Whether the state is a leap, with a plain step to go back to.
        self.ahead = False
        self._residual = math.inf
        self._plain = torch.empty(0)
        self._last: tuple[Tensor, Tensor] | None = None
        self._differences: list[tuple[Tensor, Tensor]] = []

    def rejects(self, residual: float, out_of_range: bool) -> bool:
        """Whether a leap is to be taken back: it left the range, or the residual has grown."""
        return self.ahead and (out_of_range or not residual <= self._residual)

    def retreat(self, state: State) -> None:
        """Put the plain step in place of the leap, and forget what led to it."""
        self._write(self._plain, state)
        self.ahead = False
        self._last = None
        self._differences.clear()

    def leap(self, state: State, following: State, residual: float) -> None:
        """Overwrite the damped step ``following`` from ``state`` by a better guess."""
        x, g = self._flat(state), self._flat(following)
        f = g - x
        if self._last is not None:
            self._differences.append((f - self._last[0], g - self._last[1]))
            del self._differences[: -self.depth]
        self._last = (f, g)
        self.ahead = bool(self._differences)
        if not self.ahead:
            return
        self._plain, self._residual = g, residual
        moves = torch.stack([df for df, _ in self._differences])
        # Normal equations: a handful of unknowns, and a poor guess is taken back anyway.
        gram = moves @ moves.T
        gram.diagonal().mul_(1 + 1e-12).add_(torch.finfo(gram.dtype).tiny)
        gamma = torch.linalg.lstsq(gram, (moves @ f)[:, None]).solution[:, 0]
        leapt = g.clone()
        for coefficient, (_, dg) in zip(gamma.tolist(), self._differences, strict=True):
            leapt.sub_(dg, alpha=coefficient)
        self._write(leapt, following)

    def _flat(self, state: State) -> Tensor:
        return torch.cat([(state[i].log() if i else state[i]).flatten() for i in self.moving])

    def _write(self, flat: Tensor, state: State) -> None:
        parts = flat.split([state[i].numel() for i in self.moving])
        for i, part in zip(self.moving, parts, strict=True):
            part = part.view_as(state[i])
            state[i].copy_(part.exp() if i else part)
            if i and self.bounds is not None:
                state[i].clamp_(*self.bounds)
