"""nfaug: normalizing-flow augmentation for image classifiers."""

import importlib
from typing import TYPE_CHECKING, Any

from .io.version import __version__

if TYPE_CHECKING:
    from .augment.transform import NFAugment
    from .checkpoint.checkpoint import Checkpoint, CheckpointError, load
    from .classes.gaussians import ClassGaussians
    from .classes.pca_fit import ClasswisePCA
    from .fitting import fit
    from .flows.flow import Flow, FlowConfig, MefSettings

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ClassGaussians",
    "ClasswisePCA",
    "Flow",
    "FlowConfig",
    "MefSettings",
    "NFAugment",
    "__version__",
    "fit",
    "load",
]

# Modules of names, and sub-packages, that are imported when they are first used: `nfaug --help`
# does not wait for torch.
_MODULES = {
    **dict.fromkeys(("Checkpoint", "CheckpointError", "load"), "checkpoint.checkpoint"),
    **dict.fromkeys(("Flow", "FlowConfig", "MefSettings"), "flows.flow"),
    "ClassGaussians": "classes.gaussians",
    "ClasswisePCA": "classes.pca_fit",
    "NFAugment": "augment.transform",
    "fit": "fitting",
}
_PACKAGES = ("bank", "compare", "hub", "integrations", "training")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MODULES:
        found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})
