"""Fit a flow to the classes of a dataset: from a flow and images to a checkpoint."""

from typing import TYPE_CHECKING

from ..io.lazy import lazily

if TYPE_CHECKING:
    from .checkpoints import fit, fit_images, fit_source, load_base, open_fitted, open_images
    from .classes import FittedClasses, fit_classes
    from .config import FitConfig, PCAConfig
    from .run import FinishedClasses, FitRun

__all__ = [
    "FinishedClasses",
    "FitConfig",
    "FitRun",
    "FittedClasses",
    "PCAConfig",
    "fit",
    "fit_classes",
    "fit_images",
    "fit_source",
    "load_base",
    "open_fitted",
    "open_images",
]

_MODULES = {
    "fit": "checkpoints",
    "fit_images": "checkpoints",
    "fit_source": "checkpoints",
    "open_fitted": "checkpoints",
    "FittedClasses": "classes",
    "fit_classes": "classes",
    "FitConfig": "config",
    "PCAConfig": "config",
    "load_base": "checkpoints",
    "open_images": "checkpoints",
    "FinishedClasses": "run",
    "FitRun": "run",
}
__getattr__ = lazily(__name__, _MODULES)
