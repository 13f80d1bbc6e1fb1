"""Assign files to splits and classes. Only paths are looked at."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

__all__ = ["MissingSplitError", "arrange", "choose_split", "shards_of", "split_kind"]

UNLABELLED = "images"  # the class of images without classes
SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval"),
    "test": ("test", "testing"),
}
_WORDS = "|".join(sorted({word for words in SYNONYMS.values() for word in words}, key=len)[::-1])
_SPLIT = re.compile(rf"(?:^|[-_./])({_WORDS})(?=[-_./\d])", re.IGNORECASE)


class MissingSplitError(ValueError):
    """The data do not have the requested split."""


def split_kind(split: str) -> str:
    """Map "val", "testing", ... to "train", "validation" or "test"; keep other words."""
    return next((kind for kind, words in SYNONYMS.items() if split.lower() in words), split)


def choose_split(splits: Iterable[str], split: str, where: str) -> str:
    """The name of a split, or a MissingSplitError.

    "test" may be validation images, but not the other way round: settings must not be chosen on
    test images.
    """
    names, wanted = sorted(splits), split_kind(split)
    kinds = (wanted, "validation") if wanted == "test" else (wanted,)
    found = [name for kind in kinds for name in names if split_kind(name) == kind]
    if split not in names and not found:
        shown = ", ".join(map(repr, names))
        raise MissingSplitError(f"{where} has the splits {shown}; got split={split!r}")
    return split if split in names else found[0]


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key that orders numbers by value and ignores case, as timm orders classes."""
    parts: list[str | int] = [*re.split(r"([0-9]+)", name.lower())]
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name


def shards_of(path: Path, ending: str, split: str) -> list[Path]:
    """The shards of a split, in natural order; none if there is no file of this ending.

    They lie in the folder `path`, or in one folder for each split; `path` may also be one shard.
    The names of folders and files tell the split (train/0.tar, val-00000-of-00001.parquet); shards
    without such a word are a training split.
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
    return splits[choose_split(splits, split, str(path))] if splits else []


def arrange(
    files: Iterable[str], folders: Iterable[str], split: str, where: str, *, labels: bool = True
) -> tuple[str, dict[str, Any]]:
    """Select the images of a split and label each with its class.

    A single folder around everything is skipped. Below it are class folders, or split folders
    (train, val, test, ...) of class folders. Images at any depth in a class folder belong to it;
    images outside of class folders are left out. A held-out split has the classes of the training
    split, so that their labels agree. Data without split folders are a training split.

    Args:
        files: All image files, as relative paths with forward slashes.
        folders: Folders, so that empty ones are noticed. Those of `files` may be left out.
        split: The name of a split folder, or a usual word for it.
        where: The name of the data in messages.
        labels: Whether folders are classes. If not, all images of the split are one class.

    Returns:
        The folder of the split, which is "" or ends in a slash, and arguments of a `Reader`: the
        `paths` below it, `classes` and `targets`.

    Raises:
        MissingSplitError: If the data do not have the split.
        ValueError: If there are no images, no class folders with images, or a held-out class is not
            one of training.
    """
    files = sorted(files, key=natural_key)
    folders = {*folders, *(path.rpartition("/")[0] for path in files)}
    root, home = _split_folders(files, folders, split, where)
    paths = [path[len(root) :] for path in files if path.startswith(root)]
    if not paths:
        raise ValueError(f"{where} holds no images in {root or 'it'}")
    if not labels:
        targets = torch.zeros(len(paths), dtype=torch.int64)
        return root, {"paths": paths, "classes": [UNLABELLED], "targets": targets}
    paths = [path for path in paths if "/" in path]
    if not paths:
        raise ValueError(
            f"{where} has no classes: it must hold class folders with images (class/name.jpg). "
            "Images without classes train a flow with --prior.kind single; a folder with a "
            "metadata.csv (file_name,label) is read as hfds/FOLDER"
        )
    classes = sorted(_children(folders, home), key=natural_key)
    index = {name: label for label, name in enumerate(classes)}
    names = [path.partition("/")[0] for path in paths]
    if unknown := sorted({*names} - {*classes}):
        raise ValueError(
            f"{where} has the class {unknown[0]!r} in {root} but not in {home}, which defines the "
            "classes"
        )
    if len(classes) == 1:
        warnings.warn(
            f"{where} has only one class, {classes[0]!r}; to tell classes apart, give each one a "
            "folder",
            stacklevel=2,
        )
    targets = torch.tensor([index[name] for name in names])
    return root, {"paths": paths, "classes": classes, "targets": targets}


def _children(folders: set[str], root: str) -> set[str]:
    """The names of the folders directly below a folder."""
    return {path[len(root) :].partition("/")[0] for path in folders if path.startswith(root)} - {""}


def _split_folders(files: list[str], folders: set[str], split: str, where: str) -> tuple[str, str]:
    """The folder of a split, and the folder that defines its classes."""
    root = _unwrapped(files, folders)
    kinds = {name: split_kind(name) for name in _children(folders, root)}
    known = {*kinds.values()} & {*SYNONYMS}
    # A folder called train is not enough: it may be a class beside bus and car.
    if known and (known == {*kinds.values()} or ("train" in known and len(known) > 1)):
        chosen = choose_split(kinds, split, where)
        order = (chosen, *kinds)
        train = next((name for name in order if kinds[name] == "train"), chosen)
        return f"{root}{chosen}/", f"{root}{train}/"
    choose_split(("train",), split, where)
    return root, root


def _unwrapped(files: list[str], folders: set[str]) -> str:
    """The folder inside all folders that hold nothing but one other folder."""
    root = ""
    while files and len(names := _children(folders, root)) == 1:
        inner = f"{root}{min(names)}/"
        if split_kind(min(names)) in SYNONYMS or any(
            not path.startswith(inner) or "/" not in path[len(inner) :] for path in files
        ):
            break
        root = inner
    return root
