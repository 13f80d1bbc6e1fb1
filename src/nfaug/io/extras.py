"""The libraries of the extras: an error about a missing one says how to install it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec

#: The extra of pyproject.toml that installs a library, by the name that is imported.
EXTRAS = {
    "albumentations": "albumentations",
    "ema_pytorch": "train",
    "matplotlib": "train",
    "ray": "ray",
    "scipy": "train",
    "sklearn": "train",
    "tensorboard": "train",
    "timm": "train",
    "torchvision": "train",
}


@contextlib.contextmanager
def optional_imports() -> Iterator[None]:
    """Say how to install a library of `EXTRAS` that an import inside the block does not find.

    Any other error stays as it is. Blocks may be nested.

    Raises:
        ModuleNotFoundError: The library is not installed; `name` is what was imported.

    >>> with optional_imports():
    ...     from torchvision.transforms import v2
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.partition(".")[0] not in EXTRAS:
            raise
        raise _missing(name) from error


def require(*libraries: str) -> None:
    """Check that libraries of `EXTRAS` are installed, without importing them.

    Args:
        libraries: Their names, such as "torchvision" and "sklearn".

    Raises:
        ModuleNotFoundError: One is not; the first of them.

    >>> require("torchvision", "sklearn", "scipy", "matplotlib")
    """
    for name in libraries:
        if find_spec(name) is None:
            raise _missing(name)


def _missing(name: str) -> ModuleNotFoundError:
    # Its text depends on the name alone: an outer block makes the same error of it.
    extra = EXTRAS[name.partition(".")[0]]
    return ModuleNotFoundError(
        f'No module named {name!r}. In your clone of nfaug, run: pip install -e ".[{extra}]"',
        name=name,
    )
