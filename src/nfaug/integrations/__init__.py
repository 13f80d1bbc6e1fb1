"""Adapters of NFA to the pipelines of other libraries."""

import importlib
from typing import Any

_ADAPTERS = ("albumentations", "timm", "torchvision")


def __getattr__(name: str) -> Any:
    if name in _ADAPTERS:  # imported when it is first used, like the library that it adapts to
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(_ADAPTERS)
