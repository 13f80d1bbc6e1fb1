"""Folders of shards: which files belong to a split."""

from __future__ import annotations

import re
from pathlib import Path

from .layout import SYNONYMS, choose_split, natural_key, split_kind

__all__ = ["shards_of"]

_WORDS = "|".join(sorted({word for words in SYNONYMS.values() for word in words}, key=len)[::-1])
_SPLIT = re.compile(rf"(?:^|[-_./])({_WORDS})(?=[-_./\d])", re.IGNORECASE)


def shards_of(path: Path, ending: str, split: str) -> tuple[list[Path], bool] | None:
    """The shards of a split, in natural order, and whether it is the training split.

    They lie in the folder `path`, or in one folder for each split; `path` may also be one shard.
    The names of folders and files tell the split (train/0.tar, val-00000-of-00001.parquet); shards
    without such a word are a training split. None if there is no file of this ending.
    """
    home, found = path, [*path.glob(f"*{ending}")]
    for part in path.glob("*/"):
        if part.name == "data" or split_kind(part.name) in SYNONYMS:
            found += part.glob(f"*{ending}")
    if path.suffix == ending:
        home, found = path.parent, [path]
    splits: dict[str, list[Path]] = {}
    for file in sorted(filter(Path.is_file, found), key=lambda file: natural_key(file.as_posix())):
        word = _SPLIT.search(file.relative_to(home).as_posix())
        splits.setdefault(word[1].lower() if word else "train", []).append(file)
    if not splits:
        return None
    chosen = choose_split(splits, split, str(path))
    return splits[chosen], split_kind(chosen) == "train"
