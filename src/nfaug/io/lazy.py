"""Packages whose modules are imported when one of their names is first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package, which imports the module of a name.

    Settings are in modules without torch, which takes more than a second to import: a command
    shows its help, and the error about an option, without it.

    Args:
        package: The `__name__` of the package.
        modules: The module of each name, below the package.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next look-up does not come here
        return value

    return find
