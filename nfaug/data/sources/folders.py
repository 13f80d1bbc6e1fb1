"""A folder of class folders, and the list of files in a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..readers import FileReader, Reader, Request, read_part
from .layout import arrange, natural_key

__all__ = ["is_hidden", "list_files", "open_folder"]

_MOST_PATHS = 100


def open_folder(root: Path, files: Sequence[str], request: Request) -> Reader:
    """The images of a folder; `files` are their relative paths."""
    below, found = arrange(files, request.split, str(root), labels=request.labels)
    return FolderReader(where=str(root), root=root / below, **found)


@dataclass(eq=False, kw_only=True)
class FolderReader(FileReader):
    """Image files in a folder."""

    root: Path
    paths: list[str]

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index])

    def read_bytes(self, index: int) -> bytes:
        return read_part(self.root / self.paths[index], self.name(index))


def list_files(root: Path) -> list[str]:
    """Relative paths of the regular files below a folder, in natural order, without hidden ones.

    Links are followed, but for a link to a folder around it.

    Raises:
        ValueError: A hundred paths lead to the same folder through links.
    """
    files = list[str]()
    visits: Counter[str] = Counter()  # by the path without links
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in map(os.path.realpath, Path(place).parents):
            folders.clear()
            continue
        visits[real] += 1
        if visits[real] > _MOST_PATHS:  # links to links multiply
            raise ValueError(f"over {_MOST_PATHS} links lead to {real}: remove those in {root}")
        folders[:] = sorted((x for x in folders if not is_hidden(x)), key=natural_key)
        below = Path(place).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        files += [prefix + name for name in names if not is_hidden(name)]
    regular = [file for file in files if os.path.isfile(root / file)]  # no pipes
    return sorted(regular, key=natural_key)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder holds no data: `.DS_Store`, or what a Mac adds to archives."""
    return name.startswith(".") or name == "__MACOSX"
