"""The flows that come with the package, under names that begin with `builtin:`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUILTIN", "builtin_directory", "builtin_names"]

BUILTIN = "builtin:"
_FOLDER = Path(__file__).parent / "builtin"


def builtin_names() -> list[str]:
    """The names of the bundled flows, each with its `builtin:`."""
    return sorted(BUILTIN + file.parent.name for file in _FOLDER.glob("*/config.json"))


def builtin_directory(name: str) -> Path:
    """The checkpoint directory of a bundled flow.

    Raises:
        FileNotFoundError: there is none of this name; the message lists those that there are.
    """
    if name not in builtin_names():
        raise FileNotFoundError(
            f"no bundled flow is called {name!r}; there are {', '.join(builtin_names()) or 'none'}"
        )
    return _FOLDER / name.removeprefix(BUILTIN)
