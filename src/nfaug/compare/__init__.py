"""Does an augmentation help on these images? Classifiers with and without it, over a few seeds."""

from .classifier import Classifier, small_cnn
from .config import CompareConfig
from .images import Images, open_parts, read_images
from .report import Comparison
from .rows import ROWS
from .run import compare
from .transforms import spec_augment, transform_of

__all__ = [
    "ROWS",
    "Classifier",
    "CompareConfig",
    "Comparison",
    "Images",
    "compare",
    "open_parts",
    "read_images",
    "small_cnn",
    "spec_augment",
    "transform_of",
]
