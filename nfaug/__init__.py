"""nfaug: normalizing-flow augmentation for image classifiers."""

import importlib
from typing import TYPE_CHECKING, Any

from .io.version import __version__

if TYPE_CHECKING:
    from .augment.hardest import hardest
    from .augment.transform import NFAugment
    from .checkpoint.checkpoint import Checkpoint, CheckpointError, load
    from .fitting import fit
    from .flows.flow import Flow, FlowConfig
    from .gaussians.gaussians import ClassGaussians
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
    "hardest",
    "load",
]

# Modules of names, and sub-packages, that are imported when they are first used: `nfaug --help`
# does not wait for torch.
_MODULES = {
    **dict.fromkeys(("Checkpoint", "CheckpointError", "load"), "checkpoint.checkpoint"),
    **dict.fromkeys(("Flow", "FlowConfig"), "flows.flow"),
    "ClassGaussians": "gaussians.gaussians",
    "ClasswisePCA": "pca.fit",
    "NFAugment": "augment.transform",
    "fit": "fitting",
    "hardest": "augment.hardest",
}
_PACKAGES = ("bank", "fixed_point", "hub", "integrations", "training")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MODULES:
        found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_PACKAGES})
