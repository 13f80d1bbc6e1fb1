"""A folder of class folders, and the list of files in a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..image_files import IMAGE_ENDINGS, ImageDecodeError
from ..source import FileSource, Request, Source, read_part
from .contents import HEAD
from .layout import arrange, check_class_folders, natural_key

_MOST_PATHS = 100


def open_folder(
    root: Path, files: Sequence[str], unread: Sequence[str], request: Request
) -> Source:
    """The images of a folder; `files` are their relative paths, `unread` what is no data.

    Raises:
        ValueError: A class folder has nothing but `unread` in it.
    """
    images = arrange(files, request.split, str(root), labels=request.labels)
    if request.labels:
        check_class_folders(images, unread, str(root))
    return FolderSource(
        where=str(root),
        classes=images.classes,
        targets=images.targets,
        root=root / images.folder,
        paths=images.paths,
    )


@dataclass(eq=False, kw_only=True)
class FolderSource(FileSource):
    """Image files in a folder."""

    root: Path

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index])

    def read_bytes(self, index: int) -> bytes:
        path = self.root / self.paths[index]
        try:
            return read_part(path, self.name(index))
        except OSError:
            if path.exists() or not path.is_symlink():
                raise
            raise ImageDecodeError(
                f"{path} is a link to a file that is not there; restore the file, or skip such "
                'links with on_error="skip" (--on-error skip)'
            ) from None


def list_files(root: Path) -> list[str]:
    """Relative paths of the regular files below a folder, in natural order, without hidden ones.

    Links are followed, except a link to a folder that contains the link.

    Raises:
        ValueError: A hundred paths lead to the same folder through links.
        OSError: A folder cannot be read, or is a link to one that is not there.
    """
    files: list[str] = []
    visits: Counter[str] = Counter()  # by the path without links
    for folder, subfolders, names in os.walk(root, onerror=_raise, followlinks=True):
        real = os.path.realpath(folder)
        if real in map(os.path.realpath, Path(folder).parents):
            subfolders.clear()
            continue
        visits[real] += 1
        if visits[real] > _MOST_PATHS:  # links to links multiply
            raise ValueError(f"over {_MOST_PATHS} links lead to {real}: remove those in {root}")
        visible = [subfolder for subfolder in subfolders if not is_hidden(subfolder)]
        subfolders[:] = sorted(visible, key=natural_key)  # `os.walk` enters those that are left
        relative = Path(folder).relative_to(root).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        for name in names:
            if not is_hidden(name) and _is_file(root / (prefix + name)):
                files.append(prefix + name)
    return sorted(files, key=natural_key)


def _is_file(path: Path) -> bool:
    """Whether this is a file, and no pipe. A broken link to an image is one: reading it fails.

    Raises:
        FileNotFoundError: It may be a broken link to a class or a shard.
    """
    if path.is_file():
        return True
    try:
        path.stat()
    except FileNotFoundError:
        ending = path.suffix.lower()
        if ending in ("", ".tar"):
            raise FileNotFoundError(
                f"{path} is a link to something that is not there: restore it, or remove the link"
            ) from None
        return ending in IMAGE_ENDINGS
    except OSError:  # a link to itself, which hides nothing
        return False
    return False


def head_of(path: Path) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as file:
        return file.read(HEAD)


def _raise(error: OSError) -> None:
    raise error


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is one that an operating system adds to data."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "Thumbs.db")
