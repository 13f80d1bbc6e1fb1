"""Fit a flow to the classes of a dataset: from a flow and images to a checkpoint."""

from typing import TYPE_CHECKING

from ..io.lazy import lazily

if TYPE_CHECKING:
    from .checkpoints import fit, fit_images, fit_source, open_fitted
    from .classes import FittedClasses, fit_classes
    from .config import FitConfig, PCAConfig
    from .opening import check_channels, common_size, load_base, open_images
    from .run import FinishedClasses, FitRun

__all__ = [
    "FinishedClasses",
    "FitConfig",
    "FitRun",
    "FittedClasses",
    "PCAConfig",
    "check_channels",
    "common_size",
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
    "check_channels": "opening",
    "common_size": "opening",
    "load_base": "opening",
    "open_images": "opening",
    "FinishedClasses": "run",
    "FitRun": "run",
}
__getattr__ = lazily(__name__, _MODULES)
