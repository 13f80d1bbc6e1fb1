"""Does an augmentation help on these images? Classifiers with and without it, over a few seeds."""

from typing import TYPE_CHECKING

from nfaug.io.lazy import lazily

if TYPE_CHECKING:
    from .classifier import Classifier, small_cnn
    from .config import CompareConfig
    from .images import CompareImages, open_parts, read_images
    from .methods import METHODS
    from .report import Comparison
    from .run import compare
    from .transforms import spec_augment, transform_of

__all__ = [
    "METHODS",
    "Classifier",
    "CompareConfig",
    "CompareImages",
    "Comparison",
    "compare",
    "open_parts",
    "read_images",
    "small_cnn",
    "spec_augment",
    "transform_of",
]

_MODULES = {
    "Classifier": "classifier",
    "small_cnn": "classifier",
    "CompareConfig": "config",
    "CompareImages": "images",
    "open_parts": "images",
    "read_images": "images",
    "Comparison": "report",
    "METHODS": "methods",
    "compare": "run",
    "spec_augment": "transforms",
    "transform_of": "transforms",
}
__getattr__ = lazily(__name__, _MODULES)
