"""nfaug: normalizing-flow augmentation for image classifiers."""

from .augment import NFAugment
from .checkpoint import Checkpoint, CheckpointError, load
from .fitting import fit
from .flow import Flow, FlowConfig
from .gaussians import ClassGaussians
from .pca import ClasswisePCA

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ClassGaussians",
    "ClasswisePCA",
    "Flow",
    "FlowConfig",
    "NFAugment",
    "__version__",
    "fit",
    "load",
]
