"""Does an augmentation help on these images? Classifiers with and without it, over a few seeds."""

from .config import CompareConfig
from .report import Comparison
from .run import compare

__all__ = ["CompareConfig", "Comparison", "compare"]
