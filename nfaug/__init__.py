"""nfaug: normalizing-flow augmentation for image classifiers."""

from .augment.transform import NFAugment
from .checkpoint.checkpoint import Checkpoint, CheckpointError, load
from .fitting import fit
from .flows.flow import Flow, FlowConfig
from .gaussians.gaussians import ClassGaussians
from .io.version import __version__
from .pca.fit import ClasswisePCA

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
