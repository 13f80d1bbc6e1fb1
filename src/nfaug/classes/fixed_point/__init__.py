"""The fixed-point iteration for class Gaussians (Enescu & Sahbi 2024, Eqs. 5-7, 9 and 10)."""

from .config import FixedPointConfig, FixedPointDivergence, FixedPointResult
from .solver import solve

__all__ = ["FixedPointConfig", "FixedPointDivergence", "FixedPointResult", "solve"]
