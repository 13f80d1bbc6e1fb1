"""The fixed-point iteration for class Gaussians (Enescu & Sahbi 2024, Eqs. 5-7, 9 and 10)."""

from typing import TYPE_CHECKING

from ...io.lazy import lazily

if TYPE_CHECKING:
    from .config import FixedPointConfig, FixedPointDivergence, FixedPointResult
    from .solver import solve

__all__ = ["FixedPointConfig", "FixedPointDivergence", "FixedPointResult", "solve"]

_MODULES = {
    "FixedPointConfig": "config",
    "FixedPointDivergence": "config",
    "FixedPointResult": "config",
    "solve": "solver",
}
__getattr__ = lazily(__name__, _MODULES)
