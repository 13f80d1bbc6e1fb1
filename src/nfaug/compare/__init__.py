"""Does an augmentation help on these images? Classifiers with and without it, over a few seeds."""

from .report import Comparison
from .run import compare
from .settings import CompareSettings

__all__ = ["CompareSettings", "Comparison", "compare"]
