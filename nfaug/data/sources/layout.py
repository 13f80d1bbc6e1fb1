"""Assign files to splits and classes. Only paths are looked at."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch

__all__ = [
    "MissingSplitError",
    "arrange",
    "choose_split",
    "natural_key",
    "shards_of",
    "split_of",
    "splits_among",
]

UNLABELLED = "images"  # the class of images without classes
SPLIT_WORDS = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "val", "valid", "valset", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "testset"),
}
_SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_LETTERS = re.compile(r"[^\W\d_]+")
_COUNTED = re.compile(r"-\d+-of-(\d+)\.")  # train-00000-of-00005.parquet


class MissingSplitError(ValueError):
    """The data do not have the requested split."""


def split_of(name: str) -> str | None:
    """The split that a folder's or a file's name tells: "train", "validation", "test" or None.

    Words are runs of letters, in any case: those of "train2017", "seg_train" and "Training set" are
    words for training. A name with words for two splits tells none.

    >>> split_of("val2017"), split_of("seg_train"), split_of("latest")
    ('validation', 'train', None)
    """
    word = _split_word(name)
    return None if word is None else _SPLIT_OF_WORD[word]


def _split_word(name: str) -> str | None:
    """The word of a name that tells its split; None if there is none, or words of two splits."""
    words = [word for word in _LETTERS.findall(name.lower()) if word in _SPLIT_OF_WORD]
    splits = {_SPLIT_OF_WORD[word] for word in words}
    return words[0] if len(splits) == 1 else None


def _family(name: str) -> str:
    """The name with "*" in place of split words: "seg_*" for seg_train and seg_test."""

    def replaced(match: re.Match[str]) -> str:
        word = match[0].lower()
        return "*" if word in _SPLIT_OF_WORD else word

    return _LETTERS.sub(replaced, name)


def choose_split(names: Iterable[str], split: str, where: str) -> str:
    """The name of a split.

    "test" may be validation images, but not the other way round: settings must not be chosen on
    test images.

    Args:
        names: The names of the splits, such as folders: "train2017", "val2017".
        split: One of them, or a word for a split, such as "val".
        where: The name of the data in messages.

    Raises:
        MissingSplitError: The data do not have the split.
        ValueError: Several names tell this split.
    """
    names = sorted(names)
    wanted = _SPLIT_OF_WORD.get(split.lower())
    if wanted is None and split in names:
        return split
    found = [name for name in names if wanted is not None and split_of(name) == wanted]
    if not found and wanted == "test":
        found = [name for name in names if split_of(name) == "validation"]
    if not found:
        shown = ", ".join(map(repr, names))
        raise MissingSplitError(f"{where} has the splits {shown}; got split={split!r}")
    if len(found) > 1:
        raise ValueError(
            f"{where} holds {found[0]!r} and {found[1]!r}, which both may be its {wanted} split: "
            "move one elsewhere, or merge them"
        )
    return found[0]


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key that orders numbers by value and ignores case, as timm orders classes."""
    parts: list[str | int] = [*re.split(r"([0-9]+)", name.lower())]
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name


def shards_of(files: Iterable[str], split: str, where: str) -> list[str]:
    """The shards of a split, in natural order.

    The name of a file, or else of its folder, tells its split: val-00000-of-00001.parquet,
    train/0.tar. Shards are a training split if no name tells one.

    Args:
        files: All shards, as relative paths with forward slashes.
        split: A word for a split.
        where: The name of the data in messages.

    Raises:
        MissingSplitError: The data do not have the split.
        ValueError: Some names tell a split and others do not, different words tell the same one, or
            the shards of the split lie in several folders.
    """
    shards: dict[str | None, list[str]] = {}
    for file in sorted(files, key=natural_key):
        folder, _, name = file.rpartition("/")
        shards.setdefault(_split_word(name) or _split_word(folder), []).append(file)
    unnamed = shards.pop(None, [])
    if unnamed and shards:
        named = next(iter(shards.values()))
        raise ValueError(
            f"{where} holds {named[0]}, whose name tells its split, and {unnamed[0]}, whose name "
            "does not: rename it, or move it elsewhere"
        )
    if unnamed:
        shards["train"] = unnamed
    words = [word for word in shards if word is not None]
    found = shards[choose_split(words, split, where)]
    folders = sorted({file.rpartition("/")[0] for file in found})
    if len(folders) > 1:
        raise ValueError(
            f"the {split} split of {where} lies in the folders {folders[0] or '.'!r} and "
            f"{folders[1]!r}, which may be different data: pass the path of one of them"
        )
    counted = [match for match in map(_COUNTED.search, found) if match]
    if counted and len(counted) < int(counted[0][1]):
        warnings.warn(
            f"{where} holds {len(counted)} of {int(counted[0][1])} shards, such as {found[0]}; the "
            "others are not read",
            stacklevel=4,
        )
    return found


def arrange(
    files: Iterable[str], split: str, where: str, *, labels: bool = True
) -> tuple[str, dict[str, Any]]:
    """Select the images of a split and label each with its class.

    A single folder around everything is skipped. Below it are class folders, or split folders
    (train, val, test, ...) of class folders. Images at any depth in a class folder belong to it;
    images outside of class folders are left out. A held-out split has the classes of the training
    split, so that their labels agree. Data without split folders are a training split.

    Args:
        files: All image files, as relative paths with forward slashes.
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
    root, home = _split_folders(files, split, where)
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
            "Images without classes train a flow with --prior.kind single. Labels in a table are "
            "read in Python: pass a list of (image, label), or a torch data set, to nfaug.fit"
        )
    classes = sorted(_folders(files, home), key=natural_key)
    index = {name: label for label, name in enumerate(classes)}
    names = [path.partition("/")[0] for path in paths]
    if unknown := sorted({*names} - {*classes}):
        raise ValueError(
            f"{where} has the class {unknown[0]!r} in {root} but not in {home}, which defines the "
            "classes: give both the same class folders, or move this one elsewhere"
        )
    _warn_of_classes(classes, where)
    targets = torch.tensor([index[name] for name in names])
    return root, {"paths": paths, "classes": classes, "targets": targets}


def _warn_of_classes(classes: Sequence[str], where: str) -> None:
    """Warn of a single class, and of classes whose names look like splits."""
    if len(classes) == 1:
        warnings.warn(
            f"{where} has only one class, {classes[0]!r}; to tell classes apart, give each one a "
            "folder",
            stacklevel=3,
        )
    known = [name for name in classes if split_of(name)]
    plain = [name for name in known if _is_plain(name)]
    suspects = known if len({split_of(name) for name in known}) > 1 else plain
    if suspects:
        shown = ", ".join(map(repr, suspects[:3]))
        warnings.warn(
            f"{where} has classes whose names look like splits: {shown}. If they are splits, keep "
            "nothing but split folders beside them",
            stacklevel=3,
        )


def _is_plain(name: str) -> bool:
    """Whether a name is a word for a split and nothing but digits and signs beside it."""
    return _LETTERS.findall(_family(name)) == [] and split_of(name) is not None


def _folders(files: Collection[str], root: str) -> set[str]:
    """The names of the folders directly below a folder, if there are files in them."""
    inside = [path[len(root) :] for path in files if path.startswith(root)]
    return {path.partition("/")[0] for path in inside if "/" in path}


def _split_folders(files: list[str], split: str, where: str) -> tuple[str, str]:
    """The folder of a split, and the folder that defines its classes."""
    root = _unwrapped(files)
    names = _folders(files, root)
    splits = splits_among(names)
    if not splits:
        choose_split(("train",), split, where)
        return root, root
    if others := sorted(names - {*splits}):
        warnings.warn(
            f"{where} has the splits {', '.join(sorted(splits))}; the folders beside them, such as "
            f"{others[0]!r}, are not read",
            stacklevel=4,
        )
    chosen = choose_split(splits, split, where)
    home = chosen
    if "train" in map(split_of, splits):
        relatives = [name for name in splits if _family(name) == _family(chosen)]
        trained = [name for name in relatives if split_of(name) == "train"]
        home = choose_split(trained or splits, "train", where)
    return _without_echo(files, f"{root}{chosen}/"), _without_echo(files, f"{root}{home}/")


def _without_echo(files: list[str], folder: str) -> str:
    """The folder of a split, or the only folder in it if that repeats it: seg_train/seg_train."""
    names = _folders(files, folder)
    inner = f"{folder}{min(names, default='')}/"
    within = [path[len(folder) :] for path in files if path.startswith(folder)]
    repeats = len(names) == 1 and split_of(min(names)) == split_of(folder)
    return inner if repeats and all(path.count("/") > 1 for path in within) else folder


def splits_among(names: Collection[str]) -> list[str]:
    """The folders that are splits; none if all folders are classes.

    Splits are called by plain words (train, Test, val2017), if training is among them or nothing is
    beside them: `train` beside bus and car may be a class. Otherwise splits are folders whose names
    differ in the word alone, such as seg_train and seg_test, and not freight train and test tube.

    Raises:
        ValueError: There are two such families of names, with a training split each.
    """
    plain = sorted(name for name in names if _is_plain(name))
    if plain and len(plain) == len(names):
        return plain
    if _holds_training(plain):
        return plain
    families: dict[str, list[str]] = {}
    for name in sorted(names):
        if split_of(name):
            families.setdefault(_family(name), []).append(name)
    found = [family for family in families.values() if _holds_training(family)]
    if len(found) > 1:
        raise ValueError(
            f"{found[0]} and {found[1]} may both be the splits: move the others elsewhere, or pass "
            "the path of one folder"
        )
    if found:
        return found[0]
    alone = [family for family in families.values() if len(family) == len(names) > 1]
    return alone[0] if alone else []


def _holds_training(names: Collection[str]) -> bool:
    """Whether names tell a training split and another one."""
    splits = {split_of(name) for name in names}
    return "train" in splits and len(splits) > 1


def _unwrapped(files: list[str]) -> str:
    """The folder inside all folders that hold nothing but one other folder."""
    root = ""
    while files and len(names := _folders(files, root)) == 1:
        name = min(names)
        inner = f"{root}{name}/"
        below = [path[len(inner) :] for path in files if path.startswith(inner)]
        outside = len(below) < len(files)
        if _is_plain(name) or outside or not all("/" in path for path in below):
            break
        root = inner
    return root
