"""Shards of a bank, which several processes make, and the merged bank over them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .format import LABELS, MANIFEST, Manifest, labels_sha256
from .reader import Bank

__all__ = ["Shard", "complete_shards", "merge_bank", "shard_folders"]

_FOLDER = re.compile(r"shard-(\d{5})-of-(\d{5})")


class Shard(NamedTuple):
    """Part `part` of `parts`, counted from 0."""

    part: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard "i/n".

        Raises:
            ValueError: It is not of this form, or i is not in 0..n-1.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not found or not 0 <= int(found[1]) < int(found[2]) <= 99_999:
            raise ValueError(
                f"a shard is i/n with i from 0 to n - 1, such as 0/8 for the first of 8; got {text}"
            )
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> Shard | None:
        """The shard of this process, or None for a process on its own.

        Processes of `torchrun` and `accelerate launch` are numbered by RANK, tasks of a SLURM job
        array by SLURM_ARRAY_TASK_ID, and ranks within tasks by both.

        Raises:
            ValueError: SLURM's variables do not number the tasks from 0: some are missing, or the
                ids have gaps.
        """
        found = os.environ if environment is None else environment
        shard = cls(int(found.get("RANK") or 0), int(found.get("WORLD_SIZE") or 1))
        if "SLURM_ARRAY_TASK_ID" in found:
            names = ("COUNT", "MIN", "MAX")
            if missing := [x for x in names if f"SLURM_ARRAY_TASK_{x}" not in found]:
                raise ValueError(
                    "SLURM sets SLURM_ARRAY_TASK_COUNT, _MIN and _MAX beside SLURM_ARRAY_TASK_ID; "
                    f"here {', '.join(f'SLURM_ARRAY_TASK_{x}' for x in missing)} is missing. Pass "
                    "--shard i/n, or --shard off for a process on its own"
                )
            task, count, least, most, step = (
                int(found.get(f"SLURM_ARRAY_TASK_{x}", "1")) for x in ("ID", *names, "STEP")
            )
            tasks, number = (most - least) // step + 1, (task - least) // step
            if count != tasks:
                raise ValueError(
                    "the tasks of the job array have gaps, so their ids do not number the shards: "
                    "pass --shard i/n"
                )
            shard = cls(number * shard.parts + shard.part, tasks * shard.parts)
        return shard if shard.parts > 1 else None

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

    def check_folder(self, out: Path) -> None:
        """Check that `out` holds no other bank and no shards of another division.

        Raises:
            FileExistsError: It does.
        """
        if (out / MANIFEST).exists() and not Manifest.load(out).shards:
            raise FileExistsError(f"{out} holds a bank of one process; choose another directory")
        others = {count for _, count in _found(out)} - {self.parts}
        if others:
            raise FileExistsError(
                f"{out} holds shards of {min(others)}, not of {self.parts}: remove them, or choose "
                "another directory"
            )


def shard_folders(out: Path) -> list[Path]:
    """Folders of all shards of a bank, in order, whether they exist or not.

    Raises:
        ValueError: `out` has no shards, or shards of different divisions.
    """
    counts = Counter(count for _, count in _found(out))
    if len(counts) != 1:
        found = f"shards of {' and of '.join(map(str, sorted(counts)))}" if counts else "no shards"
        raise ValueError(
            f"{out} has {found}; it must hold the shards of one bank (nfaug bank --shard i/n)"
        )
    (count,) = counts
    return [Shard(index, count).folder(out) for index in range(count)]


def complete_shards(out: Path) -> int:
    """Number of complete shards of a bank."""
    return sum(map(_complete, shard_folders(out)))


def merge_bank(out: str | Path) -> Bank:
    """Make one bank of the shards in a directory. Nothing is copied: it refers to their files.

    Raises:
        ValueError: A shard is missing or not complete, or shards are of different banks.
    """
    path = Path(out).expanduser()
    folders = shard_folders(path)
    missing = [folder.name for folder in folders if not _complete(folder)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{len(missing)} of {len(folders)} shards of {path} are not complete: "
            f"{', '.join(missing[:3])}{more}. Run their nfaug bank commands again"
        )
    made = [Manifest.load(folder) for folder in folders]
    labels = np.concatenate([np.load(folder / LABELS) for folder in folders])
    stats: Counter[str] = Counter()
    for part in made:
        stats.update(part.stats)
    merged = replace(
        made[0],
        images=len(labels),
        done=len(labels),
        labels_sha256=labels_sha256(labels),
        stats={name: stats[name] for name in made[0].stats},
        shards=tuple(folder.name for folder in folders),
    )
    own = ("images", "labels_sha256", "first", "shards")
    first = 0
    for folder, part in zip(folders, made, strict=True):
        ours, theirs = merged.settings(), part.settings()
        differing = [name for name in ours if name not in own and ours[name] != theirs[name]]
        if differing or part.first != first:
            what = ", ".join(differing) or f"first image {part.first}, not {first}"
            raise ValueError(f"{folder} is of another bank than the first shard: {what}")
        first += part.images
    merged.save(path)  # atomically, so that two processes may do it
    return Bank(path)


def _complete(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and Manifest.load(folder).complete


def _found(out: Path) -> list[tuple[int, int]]:
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    matches = [match for name in names if (match := _FOLDER.fullmatch(name))]
    return [(int(match[1]), int(match[2])) for match in matches]
