"""Does an augmentation help on these images? Classifiers with and without it, over a few seeds."""

from .classifier import small_cnn
from .config import CompareConfig
from .report.comparison import Comparison
from .run import compare
from .transforms import spec_augment

__all__ = ["CompareConfig", "Comparison", "compare", "small_cnn", "spec_augment"]
