"""Tars of class folders, read in place without unpacking."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch

from ..decode import IMAGE_ENDINGS
from ..readers import FileReader, Reader, Request
from .layout import arrange

__all__ = ["MemberReader", "members", "open_tar", "read_member"]

ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(eq=False, kw_only=True)
class MemberReader(FileReader):
    """Files inside tars; `places` are the number of the tar, the offset and the size, (N, 3)."""

    tars: list[Path]
    places: torch.Tensor
    paths: list[str]

    def name(self, index: int) -> str:
        return f"{self.paths[index]} in {self.tars[self.places[index, 0]]}"

    def read_bytes(self, index: int) -> bytes:
        number, offset, size = self.places[index].tolist()
        return read_member(self.tars[number], offset, size)


def read_member(tar: Path, offset: int, size: int) -> bytes:
    """Bytes of a tar, which is opened each time: workers would share an open file's position."""
    with tar.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def open_tar(request: Request) -> Reader | None:
    """The images of a tar of class folders; None for another file and for a shard."""
    path = request.path
    if not path.name.lower().endswith(ENDINGS) or not path.is_file():
        return None
    listed = members(path)
    if any(name.endswith(".cls") for name, _ in listed):
        return None
    images: dict[str, tarfile.TarInfo] = {}
    for name, member in listed:
        if name.lower().endswith(IMAGE_ENDINGS) and not member.isdir():
            if not member.isreg() or member.issparse():
                raise ValueError(
                    f"{name} in {path} is a link or a sparse file, which cannot be read in place; "
                    "make the tar with --dereference --hard-dereference"
                )
            images[name] = member  # a later member replaces an earlier one
    folders = [name for name, member in listed if member.isdir()]
    root, found = arrange(images, folders, request.split, str(path), labels=request.labels)
    chosen = [images[root + name] for name in found["paths"]]
    places = torch.tensor([(0, member.offset_data, member.size) for member in chosen])
    return MemberReader(where=str(path), tars=[path], places=places, **found)


def members(path: Path) -> list[tuple[str, tarfile.TarInfo]]:
    """The members of an uncompressed tar by their plain names, without hidden ones.

    Raises:
        ValueError: If the file is compressed, damaged or no tar.
    """
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                found, end = tar.getmembers(), tar.offset
        except tarfile.TarError as error:
            raise ValueError(
                f"{path} is damaged, or not an uncompressed tar, which is read in place ({error})"
            ) from error
        file.seek(end)
        # tarfile takes a damaged header for the end of the archive.
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"{path} is damaged at byte {end}, after {len(found)} members")
    named = [([x for x in m.name.split("/") if x not in ("", ".")], m) for m in found]
    return [("/".join(x), m) for x, m in named if not any(part.startswith(".") for part in x)]
