"""Image files: a folder of class folders, or a tar of one.

Readers hold no open file, so they can be copied into worker processes and shared by threads.
"""

from __future__ import annotations

import io
import os
import tarfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .layout import IMAGE_ENDINGS, arrange
from .readers import ImageDecodeError, Reader

__all__ = ["FileReader", "FolderReader", "TarReader"]

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


class FileReader(Reader):
    """Encoded image files."""

    threads = True

    @abstractmethod
    def read_bytes(self, index: int) -> bytes:
        """The contents of a file."""

    def peek(self, index: int) -> Image.Image:
        return self._open(index, decode=False)

    def read(self, index: int) -> Image.Image:
        return self._open(index, decode=True)

    def _open(self, index: int, decode: bool) -> Image.Image:
        data = self.read_bytes(index)  # not in the try: a file that is gone is not corrupt
        try:
            image = Image.open(io.BytesIO(data))
            if decode:
                image.load()
        except Exception as error:  # PIL raises a dozen kinds for corrupt files
            raise ImageDecodeError(
                f"{self.name(index)} cannot be decoded ({type(error).__name__}: {error}); repair "
                'or remove it, or skip such files with on_error="skip"'
            ) from error
        return image


class FolderReader(FileReader):
    """Image files in class folders; hidden ones are left out, symbolic links are followed.

    Raises:
        ValueError: If the folder is not laid out as `arrange` asks.
    """

    def __init__(self, root: Path, split: str, *, labels: bool = True) -> None:
        self.root = root
        self.where = str(root)
        files: list[str] = []
        folders: list[str] = []
        _walk(str(root), "", frozenset(), files, folders)
        layout = arrange(files, folders, split, self.where, labels=labels)
        self.paths, self.classes, self.complete = layout.paths, layout.classes, layout.complete
        self.targets = torch.tensor(layout.labels)

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index])

    def read_bytes(self, index: int) -> bytes:
        return (self.root / self.paths[index]).read_bytes()

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        for index in indices:
            path = self.paths[index]
            yield f"{path}\0{os.path.getsize(self.root / path)}\n".encode()


def _walk(
    folder: str, prefix: str, above: frozenset[str], files: list[str], folders: list[str]
) -> None:
    """Collect the relative paths of image files and of folders."""
    above = above | {os.path.realpath(folder)}
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                if entry.name.lower().endswith(IMAGE_ENDINGS):
                    files.append(path)
            elif os.path.realpath(entry.path) not in above:  # a link upwards would never end
                folders.append(path)
                _walk(entry.path, f"{path}/", above, files, folders)


class TarReader(FileReader):
    """Image files in a tar of class folders, read in place: nothing is unpacked.

    Raises:
        ValueError: If it is not a whole, uncompressed tar, or not laid out as `arrange` asks.
    """

    def __init__(self, path: Path, split: str, *, labels: bool = True) -> None:
        self.path = path
        self.where = str(path)
        members: dict[str, tarfile.TarInfo] = {}
        folders = []
        for member in _members(path):
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            name = "/".join(parts)
            if any(part.startswith(".") for part in parts):
                continue
            if member.isdir():
                folders.append(name)
            elif name.lower().endswith(IMAGE_ENDINGS):
                if not member.isreg() or member.issparse():
                    raise ValueError(
                        f"{name} in {path} is a link or a sparse file, which cannot be read in "
                        "place; make the tar with --dereference --hard-dereference"
                    )
                members[name] = member  # a later member replaces an earlier one
        layout = arrange(members, folders, split, self.where, labels=labels)
        self.paths, self.classes, self.complete = layout.paths, layout.classes, layout.complete
        self.targets = torch.tensor(layout.labels)
        self.offsets = np.array([members[path].offset_data for path in self.paths], np.int64)
        self.sizes = np.array([members[path].size for path in self.paths], np.int64)

    def name(self, index: int) -> str:
        return f"{self.paths[index]} in {self.path}"

    def read_bytes(self, index: int) -> bytes:
        # Opened at each read: workers that share a handle would share its position.
        with open(self.path, "rb") as file:
            file.seek(int(self.offsets[index]))
            return file.read(int(self.sizes[index]))

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        for index in indices:
            yield f"{self.paths[index]}\0{self.sizes[index]}\n".encode()


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
