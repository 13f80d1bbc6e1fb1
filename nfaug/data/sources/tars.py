"""Tars, read in place without unpacking: one of class folders, or shards in WebDataset's layout."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..classes import numbered
from ..decode import IMAGE_ENDINGS
from ..readers import FileReader, Reader, Request, read_part
from .folders import is_hidden
from .layout import arrange, shards_of

__all__ = ["open_tar", "open_webdataset"]

NAMES_FILE = "classnames.txt"  # a class name a line, in label order
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # up to the first dot of the name
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # headers whose content, such as a long name, tarfile keeps in memory
_LONGEST_NAME = 2**24  # bytes
_MOST_DIGITS = 18  # of a label in a .cls file, with line ends


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
        return read_part(self.tars[number], self.name(index), offset, size)


def open_tar(path: Path, request: Request) -> Reader:
    """The images of a tar of class folders, or the samples of a single shard of WebDataset."""
    members = _members(path)
    if any(name.endswith(".cls") for name, _ in members):
        return open_webdataset(path.parent, [path.name], request)
    images: dict[str, tarfile.TarInfo] = {}
    for name, member in members:
        if name.lower().endswith(IMAGE_ENDINGS) and not member.isdir():
            if not member.isreg() or member.issparse():
                raise ValueError(
                    f"{name} in {path} is a link or a sparse file, which cannot be read in place; "
                    "make the tar with --dereference --hard-dereference"
                )
            images[name] = member  # a later member replaces an earlier one
    root, found = arrange(images, request.split, str(path), labels=request.labels)
    chosen = [images[root + name] for name in found["paths"]]
    places = torch.tensor([(0, member.offset_data, member.size) for member in chosen])
    return MemberReader(where=str(path), tars=[path], places=places, **found)


def open_webdataset(root: Path, files: Sequence[str], request: Request) -> Reader:
    """The samples of shards; `files` are their paths below the folder `root`.

    A sample is the files that share the name up to its first dot: 000012.jpg and 000012.cls, the
    label in decimal digits. Of several images, such as 000012.jpg and 000012.mask.png, the one
    without a second dot counts.

    Raises:
        ValueError: If a shard is damaged, two files have the same name, or a sample has no image,
            several, or no label.
    """
    shards = [root / file for file in shards_of(files, request.split, request.data)]
    samples = [sample for number, shard in enumerate(shards) for sample in _samples(shard, number)]
    if not samples:
        raise ValueError(f"{request.data} holds no samples of WebDataset, such as 0.jpg and 0.cls")
    paths, places, labels = zip(*samples, strict=True)
    targets = torch.tensor(labels)
    return MemberReader(
        where=request.data,
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
        match = _KEY.fullmatch(name)
        if member.isfile() and match:
            parts = samples.setdefault(match[1], {})
            extension = match[2].lower()
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
            image = parts[images[0]]
            label = parts["cls"]
            file.seek(label.offset_data)
            digits = file.read(min(label.size, _MOST_DIGITS))
            if label.size > _MOST_DIGITS or not digits.strip().isdigit():
                raise ValueError(
                    f"{key}.cls in {shard} must be a whole number; got {label.size} bytes that "
                    f"start with {digits!r}"
                )
            place = (number, image.offset_data, image.size)
            yield f"{shard.name}/{key}.{images[0]}", place, int(digits)


def _class_names(home: Path, targets: torch.Tensor) -> list[str]:
    """The lines of `classnames.txt` beside the shards or one folder up, or else numbers."""
    for file in (home / NAMES_FILE, home.parent / NAMES_FILE):
        if file.is_file():
            return file.read_text("utf-8").splitlines()
    return numbered(targets)


class _Member(tarfile.TarInfo):
    """A header of a tar, without sizes that tarfile does not check.

    It would read members of a size below 0 for ever, and an extended header of any size at once.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        extends = member.type in _EXTENSIONS and member.size > _LONGEST_NAME
        if member.size < 0 or extends:
            raise tarfile.ReadError(f"a header says that {member.size} bytes follow it")
        return member


def _members(path: Path) -> list[tuple[str, tarfile.TarInfo]]:
    """The members of an uncompressed tar by their plain names, without hidden ones.

    Raises:
        ValueError: If the file is compressed, damaged or no tar.
    """
    found = list[tuple[str, tarfile.TarInfo]]()
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
                for member in tar:
                    if member.size < 0:  # an extended header can give it, too
                        raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
                    parts = [part for part in member.name.split("/") if part not in ("", ".")]
                    if not any(map(is_hidden, parts)):
                        found.append(("/".join(parts), member))
                end = tar.offset
        except (tarfile.TarError, RecursionError) as error:  # of a thousand extended headers
            raise ValueError(
                f"{path} is damaged, or not an uncompressed tar, which is read in place ({error})"
            ) from error
        file.seek(end)
        # tarfile takes a damaged header for the end of the archive.
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"{path} is damaged at byte {end}, after {len(found)} members")
    return found
