"""Shards in WebDataset's layout: tars in which the files of a sample share the start of a name."""

from __future__ import annotations

import re
from pathlib import Path
from tarfile import TarInfo

import torch

from ..classes import numbered
from ..decode import IMAGE_ENDINGS
from ..readers import Reader, Request
from .shards import shards_of
from .tars import MemberReader, members, read_member

__all__ = ["open_webdataset"]

NAMES_FILE = "classnames.txt"  # a class name a line, in label order
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # up to the first dot of the name


def open_webdataset(request: Request) -> Reader | None:
    """Open a folder of shards, or one shard.

    A sample is the files that share the name up to its first dot: 000012.jpg and 000012.cls, the
    label in decimal digits. Of several images, such as 000012.jpg and 000012.mask.png, the one
    without a second dot counts.

    Raises:
        ValueError: If a shard is damaged, two files have the same name, or a sample has no image,
            several, or no label.
    """
    found = shards_of(request.path, ".tar", request.split)
    if found is None:
        return None
    shards, whole = found
    places, labels, paths = list[tuple[int, int, int]](), list[int](), list[str]()
    for number, shard in enumerate(shards):
        for key, parts in _samples(shard).items():
            images = [x for x in parts if f".{x.rpartition('.')[2]}" in IMAGE_ENDINGS]
            images = [x for x in images if "." not in x] or images
            if len(images) != 1 or "cls" not in parts:
                raise ValueError(
                    f"{key} in {shard} must have one image and one .cls; got {sorted(parts)}"
                )
            image, label = parts[images[0]], parts["cls"]
            digits = read_member(shard, label.offset_data, min(label.size, 18))
            if not digits.strip().isdigit():
                raise ValueError(f"{key}.cls in {shard} must be a whole number; got {digits!r}")
            places.append((number, image.offset_data, image.size))
            labels.append(int(digits))
            paths.append(f"{shard.name}/{key}.{images[0]}")
    if not places:
        raise ValueError(f"{request.data} holds no samples of WebDataset, such as 0.jpg and 0.cls")
    targets = torch.tensor(labels)
    return MemberReader(
        where=str(request.path),
        classes=_class_names(shards[0].parent, targets),
        targets=targets,
        paths=paths,
        complete=whole,
        tars=shards,
        places=torch.tensor(places),
    )


def _samples(shard: Path) -> dict[str, dict[str, TarInfo]]:
    """The files of each sample by their extensions."""
    samples: dict[str, dict[str, TarInfo]] = {}
    for name, member in members(shard):
        if member.isfile() and (match := _KEY.fullmatch(name)):
            parts, extension = samples.setdefault(match[1], {}), match[2].lower()
            if extension in parts:
                raise ValueError(f"{shard} holds {name!r} twice; keys of samples must be distinct")
            parts[extension] = member
    return samples


def _class_names(home: Path, targets: torch.Tensor) -> list[str]:
    """The lines of `classnames.txt` beside the shards or one folder up, or else numbers."""
    for file in (home / NAMES_FILE, home.parent / NAMES_FILE):
        if file.is_file():
            return file.read_text("utf-8").splitlines()
    return numbered(targets)
