"""Tars, read in place without unpacking: one of class folders, or shards in WebDataset's layout."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..classes import numbered
from ..decode import IMAGE_ENDINGS
from ..readers import FileReader, Reader, Request
from .layout import arrange, shards_of

__all__ = ["open_tar", "open_webdataset"]

ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
NAMES_FILE = "classnames.txt"  # a class name a line, in label order
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # up to the first dot of the name


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
        # Opened each time: workers would share the position of an open file.
        with self.tars[int(number)].open("rb") as file:
            file.seek(offset)
            return file.read(size)


def open_tar(request: Request) -> Reader | None:
    """The images of a tar of class folders; None for another file and for a shard."""
    path = request.path
    if not path.name.lower().endswith(ENDINGS) or not path.is_file():
        return None
    listed = _members(path)
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


def open_webdataset(request: Request) -> Reader | None:
    """Open a folder of shards, or one shard.

    A sample is the files that share the name up to its first dot: 000012.jpg and 000012.cls, the
    label in decimal digits. Of several images, such as 000012.jpg and 000012.mask.png, the one
    without a second dot counts.

    Raises:
        ValueError: If a shard is damaged, two files have the same name, or a sample has no image,
            several, or no label.
    """
    shards = shards_of(request.path, ".tar", request.split)
    if not shards:
        return None
    samples = [sample for number, shard in enumerate(shards) for sample in _samples(shard, number)]
    if not samples:
        raise ValueError(f"{request.data} holds no samples of WebDataset, such as 0.jpg and 0.cls")
    paths, places, labels = zip(*samples, strict=True)
    targets = torch.tensor(labels)
    return MemberReader(
        where=str(request.path),
        classes=_class_names(shards[0].parent, targets),
        targets=targets,
        paths=list(paths),
        tars=shards,
        places=torch.tensor(places),
    )


def _samples(shard: Path, number: int) -> Iterator[tuple[str, tuple[int, int, int], int]]:
    """The path, the place (see `MemberReader`) and the label of each sample of a shard."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for name, member in _members(shard):
        if member.isfile() and (match := _KEY.fullmatch(name)):
            parts, extension = samples.setdefault(match[1], {}), match[2].lower()
            if extension in parts:
                raise ValueError(f"{shard} holds {name!r} twice; keys of samples must be distinct")
            parts[extension] = member
    with shard.open("rb") as file:
        for key, parts in samples.items():
            images = [x for x in parts if f".{x.rpartition('.')[2]}" in IMAGE_ENDINGS]
            images = [x for x in images if "." not in x] or images
            if len(images) != 1 or "cls" not in parts:
                raise ValueError(
                    f"{key} in {shard} must have one image and one .cls; got {sorted(parts)}"
                )
            image, label = parts[images[0]], parts["cls"]
            file.seek(label.offset_data)
            digits = file.read(min(label.size, 18))
            if not digits.strip().isdigit():
                raise ValueError(f"{key}.cls in {shard} must be a whole number; got {digits!r}")
            place = (number, image.offset_data, image.size)
            yield f"{shard.name}/{key}.{images[0]}", place, int(digits)


def _class_names(home: Path, targets: torch.Tensor) -> list[str]:
    """The lines of `classnames.txt` beside the shards or one folder up, or else numbers."""
    for file in (home / NAMES_FILE, home.parent / NAMES_FILE):
        if file.is_file():
            return file.read_text("utf-8").splitlines()
    return numbered(targets)


def _members(path: Path) -> list[tuple[str, tarfile.TarInfo]]:
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
