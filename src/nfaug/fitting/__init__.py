"""Fit a flow to the classes of a dataset: from a flow and images to a checkpoint."""

from .checkpoints import fit, fit_images, open_fitted
from .classes import FittedClasses, KeptClasses, fit_classes
from .opening import check_channels, common_size, load_base, open_images

__all__ = [
    "FittedClasses",
    "KeptClasses",
    "check_channels",
    "common_size",
    "fit",
    "fit_classes",
    "fit_images",
    "load_base",
    "open_fitted",
    "open_images",
]
