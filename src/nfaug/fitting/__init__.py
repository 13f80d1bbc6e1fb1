"""Fit a flow to the classes of a dataset: from a flow and images to a checkpoint."""

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
