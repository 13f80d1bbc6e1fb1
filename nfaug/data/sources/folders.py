"""A folder of class folders, and the list of files in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..readers import FileReader, Reader, Request, read_part
from .layout import arrange, natural_key

__all__ = ["is_hidden", "list_files", "open_folder"]


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
        ValueError: Two paths lead to the same folder through links, so that its images would be
            read twice, or have two classes.
    """
    files = list[str]()
    places: dict[str, str] = {}  # of each folder that was seen, by its path without links
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in map(os.path.realpath, Path(place).parents):
            folders.clear()
            continue
        if real in places:
            raise ValueError(f"{places[real]} and {place} are the same folder: remove one link")
        places[real] = place
        folders[:] = sorted((x for x in folders if not is_hidden(x)), key=natural_key)
        below = Path(place).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        files += [prefix + name for name in names if not is_hidden(name)]
    regular = [file for file in files if os.path.isfile(root / file)]  # no pipes
    return sorted(regular, key=natural_key)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder holds no data: `.DS_Store`, or what a Mac adds to archives."""
    return name.startswith(".") or name == "__MACOSX"
