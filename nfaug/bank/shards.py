"""Shards of a bank, which several processes make, and the merged bank over them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .format import MANIFEST, SHARD_FOLDER, Manifest, array_sha256, differences
from .reader import Bank

__all__ = ["Shard", "merge_bank", "shard_manifests"]

_OWN = ("images", "first")  # settings in which the shards of a bank differ


@dataclass(frozen=True)
class Shard:
    """Part `part` of `parts`, counted from 0.

    Raises:
        ValueError: They are not whole numbers with 0 <= part < parts.
    """

    part: int
    parts: int

    def __post_init__(self) -> None:
        whole = type(self.part) is int and type(self.parts) is int
        if not whole or not 0 <= self.part < self.parts <= 99_999:
            raise ValueError(
                "a shard is i/n, or (i, n), with whole numbers i from 0 to n - 1, such as 0/8 for "
                f"the first of 8; got {self.part!r} and {self.parts!r}"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard "i/n"."""
        part, _, parts = text.partition("/")
        whole = re.fullmatch(r"\d{1,5}/\d{1,5}", text)
        return cls(int(part), int(parts)) if whole else cls(part, parts)  # type: ignore[arg-type]

    def folder(self, out: Path) -> Path:
        """The folder of this shard."""
        return out / f"shard-{self.part:05}-of-{self.parts:05}"

    def rows(self, images: int, batch_size: int) -> range:
        """Positions of the shard's images: whole batches, because draws depend on the batch.

        Raises:
            ValueError: There are fewer batches than shards.
        """
        batches = -(-images // batch_size)
        if batches < self.parts:
            raise ValueError(
                f"{images} images in batches of {batch_size} give {batches} shards; got "
                f"{self.parts}. Use fewer shards or a smaller batch size"
            )
        first, last = (batches * i // self.parts for i in (self.part, self.part + 1))
        return range(first * batch_size, min(images, last * batch_size))

    def check_beside(self, out: Path, planned: Manifest) -> None:
        """Check that the shard can be merged with what `out` holds, before it is made.

        Raises:
            FileExistsError: `out` holds a bank in one piece, or shards of another division.
            ValueError: It holds shards of another bank, or of other images.
        """
        found = shard_manifests(out)
        if len(found) not in (0, self.parts) or (not found and (out / MANIFEST).exists()):
            held = f"{len(found)} shards, not {self.parts}" if found else "a bank in one piece"
            raise FileExistsError(f"{out} holds {held}: remove it, or choose another directory")
        for folder, made in found.items():
            if made is not None and folder != self.folder(out):
                _check_same_bank(folder, made, planned)


def shard_manifests(out: Path) -> dict[Path, Manifest | None]:
    """The folder of each shard of a bank, in order, with its manifest; None if it has none yet.

    Raises:
        ValueError: `out` has shards of different divisions, or a damaged manifest.
    """
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    counts = sorted({int(match[2]) for name in names if (match := SHARD_FOLDER.fullmatch(name))})
    if len(counts) > 1:
        raise ValueError(f"{out} has shards of {' and of '.join(map(str, counts))}: remove some")
    folders = [Shard(part, parts).folder(out) for parts in counts for part in range(parts)]
    return {
        folder: Manifest.load(folder) if (folder / MANIFEST).is_file() else None
        for folder in folders
    }


def merge_bank(out: str | Path) -> Bank:
    """Make one bank of the shards in a directory. Nothing is copied: it refers to their files.

    Raises:
        ValueError: A shard is missing or not complete, or shards are of different banks or images.
    """
    path = Path(out).expanduser()
    found = shard_manifests(path)
    missing = [folder.name for folder, made in found.items() if made is None or not made.complete]
    if missing or not found:
        raise ValueError(
            f"{len(missing)} of {len(found)} shards of {path} are not complete: "
            f"{', '.join(missing[:3])}. Make them with: nfaug bank --shard i/n"
        )
    shards, first = [Bank(folder) for folder in found], 0
    for shard in shards:
        _check_same_bank(shard.path, shard.manifest, shards[0].manifest)
        if shard.manifest.first != first:
            raise ValueError(f"{shard.path} does not begin at image {first}: make it again")
        first += len(shard)
    stats = [shard.manifest.stats for shard in shards]
    merged = replace(
        shards[0].manifest,
        images=first,
        done=first,
        labels_sha256=array_sha256(np.concatenate([shard.labels for shard in shards])),
        hashes_sha256=array_sha256(np.concatenate([shard.hashes for shard in shards])),
        stats={name: sum(each.get(name, 0) for each in stats) for name in stats[0]},
        shards=tuple(folder.name for folder in found),
    )
    merged.save(path)  # atomically, so that two processes may do it
    return Bank(path)


def _check_same_bank(folder: Path, found: Manifest, planned: Manifest) -> None:
    if shown := differences(found, planned, *_OWN):
        raise ValueError(
            f"{folder} is a shard of another bank, or of other images: {shown}. Remove the shards "
            "of that bank, or choose another directory"
        )
