"""nfaug: normalizing-flow augmentation for image classifiers."""

import importlib
from types import ModuleType

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

# Sub-packages that are imported when they are first used, as in `nfaug.bank.BankDataset`.
_LAZY = ("bank", "fixed_point", "hub", "integrations", "training")


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
