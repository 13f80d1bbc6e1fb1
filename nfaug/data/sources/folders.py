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

    Links are followed, but for a link to a folder around it.
    """
    files, folders = list[str](), list[str]()
    for place, inner, names in os.walk(root, followlinks=True):
        if os.path.realpath(place) in map(os.path.realpath, Path(place).parents):
            inner.clear()
            continue
        below = Path(place).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        folders.append(prefix.rstrip("/"))
        inner[:] = [name for name in inner if not name.startswith(".")]
        files += [prefix + name for name in names if not name.startswith(".")]
    return [file for file in files if os.path.isfile(root / file)], folders  # no pipes
