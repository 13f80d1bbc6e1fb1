"""Readers of image files: a folder of class folders, or a tar of one.

Readers hold no open file, so they can be copied into worker processes and shared by threads.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .class_folders import LABELS_FILE, SYNONYMS, arrange, split_kind
from .decode import IMAGE_ENDINGS, decode_image
from .readers import Reader

__all__ = ["FileReader", "FolderReader", "TarReader", "is_tar"]

SAMPLED_FILES = 1024  # files whose contents `contents_hash` covers
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


class FileReader(Reader):
    """Encoded image files."""

    threads = True

    @abstractmethod
    def read_bytes(self, index: int) -> bytes:
        """The contents of a file."""

    def peek(self, index: int) -> Image.Image:
        return self.read(index, header_only=True)

    def contents_hash(self, indices: Sequence[int]) -> str:
        count = min(SAMPLED_FILES, len(indices))
        places = torch.linspace(0, len(indices) - 1, count, dtype=torch.float64).round().long()
        hasher = hashlib.sha256()
        for place in places.tolist():
            hasher.update(self.read_bytes(indices[place]))
        return hasher.hexdigest()

    def read(self, index: int, header_only: bool = False) -> Image.Image:
        data = self.read_bytes(index)  # a missing file is an OSError, not a damaged image
        name, limit = self.name(index), self.max_pixels
        return decode_image(data, name, max_pixels=limit, header_only=header_only)


class FolderReader(FileReader):
    """Image files in class folders. Hidden files are ignored, symbolic links are followed.

    Raises:
        ValueError: If the folder does not have the layout of `arrange`.
    """

    def __init__(self, root: Path, split: str, *, labels: bool = True) -> None:
        self.root = root
        self.where = str(root)
        files, folders = _walk(str(root))
        images = [path for path in files if path.lower().endswith(IMAGE_ENDINGS)]
        tables = {
            path: (root / path).read_bytes()
            for path in files
            if labels and path.rpartition("/")[2] == LABELS_FILE
        }
        layout = arrange(images, folders, split, self.where, labels=labels, tables=tables)
        self.paths, self.classes, self.complete = layout.paths, layout.classes, layout.complete
        self.targets = torch.tensor(layout.labels)

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index])

    def read_bytes(self, index: int) -> bytes:
        return (self.root / self.paths[index]).read_bytes()

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        for index in indices:
            path = self.paths[index]
            yield f"{path}\0{os.path.getsize(self.root / path)}\n".encode(errors="surrogateescape")


def _walk(root: str) -> tuple[list[str], list[str]]:
    """Relative paths of regular files and of folders below root.

    Below each class folder, a real folder is read once, however many links lead to it, so links
    cost linear time and never loop. Folders come before links to folders, so that a folder keeps
    its own path.
    """
    files: list[str] = []
    folders: list[str] = []
    top = _identity(root)
    own, pending = _list(root, "", files)
    starts = list[tuple[str, set[tuple[int, int]]]]()
    for folder in [*own, *pending]:
        identity = _identity(f"{root}/{folder}")
        if split_kind(folder) not in SYNONYMS or identity == top:
            starts.append((folder, {top}))
            continue
        folders.append(folder)  # the classes are below it
        inner, linked = _list(f"{root}/{folder}", f"{folder}/", files)
        starts += [(path, {top, identity}) for path in [*inner, *linked]]
    for start, seen in starts:
        stack, links = [start], list[str]()
        while stack or links:
            path = stack.pop() if stack else links.pop(0)
            identity = _identity(f"{root}/{path}")
            if identity in seen:
                continue
            seen.add(identity)
            folders.append(path)
            inner, linked = _list(f"{root}/{path}", f"{path}/", files)
            stack += reversed(inner)
            links += linked
    return files, folders


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _list(folder: str, prefix: str, files: list[str]) -> tuple[list[str], list[str]]:
    """Append the regular files of a folder; return its folders and its links to folders."""
    own, links = list[str](), list[str]()
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat()
            except OSError:  # a link to nothing, or to itself
                continue
            if stat.S_ISDIR(status.st_mode):
                (links if entry.is_symlink() else own).append(prefix + entry.name)
            elif stat.S_ISREG(status.st_mode):  # neither pipes nor devices, which may block
                files.append(prefix + entry.name)
    return own, links


class TarReader(FileReader):
    """Image files in a tar of class folders. They are read in place, without unpacking.

    Raises:
        ValueError: If the file is not a complete, uncompressed tar, or does not have the layout of
            `arrange`.
    """

    def __init__(self, path: Path, split: str, *, labels: bool = True) -> None:
        self.path = path
        self.where = str(path)
        images: dict[str, tarfile.TarInfo] = {}
        tables: dict[str, bytes] = {}
        folders = []
        for member in _members(path):
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            name = "/".join(parts)
            if any(part.startswith(".") for part in parts):
                continue
            table = labels and parts[-1:] == [LABELS_FILE]
            if member.isdir():
                folders.append(name)
            elif table or name.lower().endswith(IMAGE_ENDINGS):
                if not member.isreg() or member.issparse():
                    raise ValueError(
                        f"{name} in {path} is a link or a sparse file, which cannot be read in "
                        "place; make the tar with --dereference --hard-dereference"
                    )
                if table:
                    tables[name] = self._read(member.offset_data, member.size)
                else:
                    images[name] = member  # a later member replaces an earlier one
        layout = arrange(images, folders, split, self.where, labels=labels, tables=tables)
        self.paths, self.classes, self.complete = layout.paths, layout.classes, layout.complete
        self.targets = torch.tensor(layout.labels)
        self.offsets = np.array([images[path].offset_data for path in self.paths], np.int64)
        self.sizes = np.array([images[path].size for path in self.paths], np.int64)

    def name(self, index: int) -> str:
        return f"{self.paths[index]} in {self.path}"

    def read_bytes(self, index: int) -> bytes:
        return self._read(int(self.offsets[index]), int(self.sizes[index]))

    def _read(self, offset: int, size: int) -> bytes:
        # Opened for each read: workers that share a handle would share its position.
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        for index in indices:
            yield f"{self.paths[index]}\0{self.sizes[index]}\n".encode(errors="surrogateescape")


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, or is compressed and may hold one."""
    with path.open("rb") as file:
        return file.read(6).startswith(COMPRESSED) or tarfile.is_tarfile(path)


def _members(path: Path) -> list[tarfile.TarInfo]:
    with open(path, "rb") as file:
        if file.read(6).startswith(COMPRESSED):
            raise ValueError(
                f"{path} is compressed, and images are read from a tar in place; decompress it, "
                "or unpack it to a folder"
            )
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                members = tar.getmembers()
                end = tar.offset
        except tarfile.TarError as error:
            raise ValueError(f"{path} is not a tar file, or it is damaged ({error})") from error
        file.seek(end)
        # tarfile takes a damaged header for the end of the archive.
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"{path} is damaged at byte {end}, after {len(members)} members")
    return members
