"""nfaug: normalizing-flow augmentation for image classifiers."""

import importlib
from typing import TYPE_CHECKING, Any

from .io.version import __version__

if TYPE_CHECKING:
    from .augment.config import MixConfig
    from .augment.transform import NFAugment
    from .checkpoint.checkpoint import Checkpoint, load
    from .checkpoint.manifest import CheckpointError
    from .classes.gaussians import ClassGaussians
    from .classes.pca import ClasswisePCA
    from .data.open import open_dataset
    from .fitting.checkpoints import fit
    from .flows.config import FlowConfig
    from .flows.flow import Flow
    from .flows.mef_config import MefConfig

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ClassGaussians",
    "ClasswisePCA",
    "Flow",
    "FlowConfig",
    "MefConfig",
    "MixConfig",
    "NFAugment",
    "__version__",
    "fit",
    "load",
    "open_dataset",
]

# The module of each name. Modules and sub-packages are imported when they are first used, so that
# `nfaug --help` does not wait for torch.
_MODULES = {
    "Checkpoint": "checkpoint.checkpoint",
    "CheckpointError": "checkpoint.manifest",
    "ClassGaussians": "classes.gaussians",
    "ClasswisePCA": "classes.pca",
    "Flow": "flows.flow",
    "FlowConfig": "flows.config",
    "MefConfig": "flows.mef_config",
    "MixConfig": "augment.config",
    "NFAugment": "augment.transform",
    "fit": "fitting.checkpoints",
    "load": "checkpoint.checkpoint",
    "open_dataset": "data.open",
}
_PACKAGES = ("bank", "compare", "hub", "integrations", "pictures", "training")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MODULES:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        value = getattr(module, name)
        globals()[name] = value  # the next look-up does not call this function
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(__all__).union(_PACKAGES))
