"""Tars, read in place without unpacking: one of class folders, or shards in WebDataset's layout."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from ...io.errors import reading
from ..classes import numbered, unique_names
from ..image_files import IMAGE_ENDINGS
from ..source import FileSource, Request, Source, read_part
from .contents import HEAD, is_image, sort_out, warn_of_unknown
from .folders import is_hidden
from .layout import arrange, check_class_folders, shards_of

NAMES_FILE = "classnames.txt"  # a class name a line, in label order
_KEY = re.compile(
    r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL
)  # the key of a sample ends at the name's first dot
# Headers whose content, such as a long name, tarfile keeps in memory.
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_LONGEST_NAME = 2**24  # bytes
_MOST_DIGITS = 18  # bytes of a .cls file: the digits of a label, and line ends


class _Sample(NamedTuple):
    """A sample of a shard.

    Attributes:
        path: The path of its image: that of the shard, then that in the shard.
        place: The place of its image; see `MemberSource`.
        label: Its label.
    """

    path: str
    place: tuple[int, int, int]
    label: int


@dataclass(eq=False, kw_only=True)
class MemberSource(FileSource):
    """Files inside tars.

    Attributes:
        tars: The tars.
        places: The index of an image's tar, its offset in the tar and its size in bytes, (N, 3).
    """

    tars: list[Path]
    places: Tensor

    def name(self, index: int) -> str:
        return f"{self.paths[index]} in {self.tars[self.places[index, 0]]}"

    def read_bytes(self, index: int) -> bytes:
        number, offset, size = self.places[index].tolist()
        return read_part(self.tars[number], self.name(index), offset, size)


def open_tar(path: Path, request: Request) -> Source:
    """The images of a tar of class folders, or the samples of a single shard of WebDataset."""
    members = _members(path)
    if any(name.endswith(".cls") for name, _ in members):
        return open_webdataset(path.parent, [path.name], request)
    files: dict[str, tarfile.TarInfo] = {}
    for name, member in members:
        if not member.isdir():
            _check_in_place(path, name, member)
            files[name] = member  # a later member replaces an earlier one
    with path.open("rb") as file:
        images, unknown = sort_out(files, lambda name: _head(file, files[name]))
    warn_of_unknown(unknown, str(path))
    arranged = arrange(images, request.split, str(path), labels=request.labels)
    if request.labels:
        check_class_folders(arranged, unknown, str(path))
    places = []
    for image_path in arranged.paths:
        member = files[arranged.folder + image_path]
        places.append((0, member.offset_data, member.size))
    return MemberSource(
        where=str(path),
        classes=arranged.classes,
        targets=arranged.targets,
        tars=[path],
        places=torch.tensor(places),
        paths=arranged.paths,
    )


def _check_in_place(path: Path, name: str, member: tarfile.TarInfo) -> None:
    """Raise ValueError for a member of a tar that is no plain file."""
    if not member.isreg() or member.issparse():
        raise ValueError(
            f"{name} in {path} is a link or a sparse file, which cannot be read in place; make the "
            "tar with --dereference --hard-dereference"
        )


def _head(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    """The first bytes of a member of an open tar."""
    file.seek(member.offset_data)
    return file.read(min(HEAD, member.size))


def open_webdataset(root: Path, files: Sequence[str], request: Request) -> Source:
    """The samples of shards; `files` are their paths below the folder `root`.

    A sample consists of the files whose names are equal up to the first dot: an image, 000012.jpg,
    and its label in decimal digits, 000012.cls. Of several images, such as 000012.jpg and
    000012.mask.png, the one without a second dot counts.

    Raises:
        ValueError: If a shard is damaged, two files have the same name, or a sample has no image,
            several, or no label.
    """
    shards = [root / file for file in shards_of(files, request.split, request.data)]
    samples: list[_Sample] = []
    for number, shard in enumerate(shards):
        samples += _samples(shard, number)
    if not samples:
        raise ValueError(f"{request.data} holds no samples of WebDataset, such as 0.jpg and 0.cls")
    targets = torch.tensor([sample.label for sample in samples])
    return MemberSource(
        where=request.data,
        classes=_class_names(shards[0].parent, targets),
        targets=targets,
        paths=[sample.path for sample in samples],
        tars=shards,
        places=torch.tensor([sample.place for sample in samples]),
    )


def _samples(shard: Path, number: int) -> Iterator[_Sample]:
    """The samples of a shard, which is the tar of this number."""
    # The members of each sample by what follows the key in their names, such as "jpg".
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    others: dict[str, tarfile.TarInfo] = {}
    for name, member in _members(shard):
        if member.isdir():
            continue
        _check_in_place(shard, name, member)
        match = _KEY.fullmatch(name)
        if match is None:
            others[name] = member
            continue
        parts = samples.setdefault(match[1], {})
        extension = match[2].lower()
        if extension in parts:
            raise ValueError(f"{shard} holds {name!r} twice; keys of samples must be distinct")
        parts[extension] = member
    with shard.open("rb") as file:
        images, unknown = sort_out(others, lambda name: _head(file, others[name]))
        warn_of_unknown(images + unknown, str(shard))
        for key, parts in samples.items():
            images = _images_among(parts, file)
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
            yield _Sample(
                path=f"{shard.name}/{key}.{images[0]}",
                place=(number, image.offset_data, image.size),
                label=int(digits),
            )


def _images_among(parts: Mapping[str, tarfile.TarInfo], file: BinaryIO) -> list[str]:
    """The extensions of a sample that are images; with several, those without a second dot."""
    images = [extension for extension in parts if _is_image(extension)]
    if not images:  # an ending that is not known, such as .jfif
        images = [name for name, member in parts.items() if is_image(_head(file, member))]
    if len(images) > 1:
        images = [extension for extension in images if "." not in extension] or images
    return images


def _is_image(extension: str) -> bool:
    """Whether an extension, such as "jpg" or "mask.png", is one of an image."""
    _, _, ending = extension.rpartition(".")
    return f".{ending}" in IMAGE_ENDINGS


def _class_names(folder: Path, targets: Tensor) -> list[str]:
    """The lines of `classnames.txt` in the folder of the shards or one up, or else numbers."""
    for file in (folder / NAMES_FILE, folder.parent / NAMES_FILE):
        if file.is_file():
            with reading(file):
                # Windows begins it with a mark.
                lines = file.read_text("utf-8-sig").removesuffix("\n").split("\n")
                return unique_names(lines)  # other characters that end a line may be in a name
    return numbered(targets)


class _Member(tarfile.TarInfo):
    """A header of a tar, whose size is checked.

    tarfile would read a member whose size is below 0 for ever, and an extended header of any size
    at once into memory.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        too_long = member.type in _EXTENSIONS and member.size > _LONGEST_NAME
        if member.size < 0 or too_long:
            raise tarfile.ReadError(f"a header says that {member.size} bytes follow it")
        return member


def _members(path: Path) -> list[tuple[str, tarfile.TarInfo]]:
    """The members of an uncompressed tar by their plain names, without hidden ones.

    Raises:
        ValueError: If the file is compressed, damaged or no tar.
    """
    members: list[tuple[str, tarfile.TarInfo]] = []
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
                for member in tar:
                    if member.size < 0:  # an extended header can give it, too
                        raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
                    parts = [part for part in member.name.split("/") if part not in ("", ".")]
                    if not any(map(is_hidden, parts)):
                        members.append(("/".join(parts), member))
                end = tar.offset
        # A thousand extended headers in a row are a RecursionError.
        except (tarfile.TarError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged, or not an uncompressed tar, which is read in place ({error})"
            ) from error
        # tarfile takes a damaged header for the end of the archive, and a second one is behind it.
        file.seek(end)
        for block in iter(lambda: file.read(2**20), b""):
            if block.strip(b"\0"):
                raise ValueError(
                    f"{path} is damaged at byte {end}, after {len(members)} members, or holds more "
                    "than one tar: unpack them, and pack them into one"
                )
    return members
