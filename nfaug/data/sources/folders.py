"""A folder of class folders."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from ..decode import IMAGE_ENDINGS
from ..readers import FileReader, Reader, Request
from .layout import arrange

__all__ = ["open_folder"]

_SHARDS = (".tar", ".parquet")  # data that may lie beside images


def open_folder(request: Request) -> Reader | None:
    """The images of a folder, or None if it holds none.

    Image folders win over other data beside them, with a warning; images at the top, such as a
    picture of shards, do not.
    """
    root = request.path
    if not root.is_dir():
        return None
    files, folders = _walk(root)
    images = [path for path in files if path.lower().endswith(IMAGE_ENDINGS)]
    shards = [path for path in files if path.lower().endswith(_SHARDS)]
    in_folders = any("/" in path for path in images) or not request.labels
    if not images or (shards and not in_folders):
        return None
    if shards:
        shown = ", ".join(shards[:3]) + (", ..." if len(shards) > 3 else "")
        warnings.warn(f"{root} is read as folders of images, without {shown}", stacklevel=4)
    below, found = arrange(images, folders, request.split, str(root), labels=request.labels)
    return FolderReader(where=str(root), root=root / below, **found)


@dataclass(eq=False, kw_only=True)
class FolderReader(FileReader):
    """Image files in a folder."""

    root: Path
    paths: list[str]

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index])

    def read_bytes(self, index: int) -> bytes:
        return (self.root / self.paths[index]).read_bytes()


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Relative paths of the regular files and of the folders below root, without hidden ones.

    Links are followed. A folder that several paths lead to is read once, by a path without a link
    if there is one beside it, and the other paths are left out with a warning.
    """
    files, folders, again, seen = list[str](), list[str](), list[str](), set[str]()
    for place, inner, names in os.walk(root, followlinks=True):
        below = Path(place).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        if (real := os.path.realpath(place)) in seen:
            again.append(below)
            inner.clear()
            continue
        seen.add(real)
        folders.append(prefix.rstrip("/"))
        inner[:] = [name for name in sorted(inner) if not name.startswith(".")]
        inner.sort(key=lambda name: os.path.islink(f"{place}/{name}"))
        files += [prefix + name for name in names if not name.startswith(".")]
    if again:
        warnings.warn(
            f"{root} has {len(again)} links to folders that are read already, which are left out: "
            f"{again[0]}",
            stacklevel=5,
        )
    return [file for file in files if os.path.isfile(root / file)], folders  # no pipes
