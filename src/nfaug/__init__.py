"""nfaug: normalizing-flow augmentation for image classifiers."""

import importlib
from typing import TYPE_CHECKING, Any

from .io.version import __version__

if TYPE_CHECKING:
    from .augment.config import MixConfig
    from .augment.transform import NFAugment
    from .checkpoint.checkpoint import Checkpoint, CheckpointError, load
    from .classes.gaussians import ClassGaussians
    from .classes.pca_fit import ClasswisePCA
    from .data.open import open_dataset, wrap_dataset
    from .fitting import fit
    from .flows.flow import Flow, FlowConfig, MefConfig

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
    "wrap_dataset",
]

# The module of each name. Modules and sub-packages are imported when they are first used, so that
# `nfaug --help` does not wait for torch.
_MODULES = {
    "Checkpoint": "checkpoint.checkpoint",
    "CheckpointError": "checkpoint.checkpoint",
    "ClassGaussians": "classes.gaussians",
    "ClasswisePCA": "classes.pca_fit",
    "Flow": "flows.flow",
    "FlowConfig": "flows.flow",
    "MefConfig": "flows.flow",
    "MixConfig": "augment.config",
    "NFAugment": "augment.transform",
    "fit": "fitting",
    "load": "checkpoint.checkpoint",
    "open_dataset": "data.open",
    "wrap_dataset": "data.open",
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
