"""Assign files to splits and classes. Only paths are looked at."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..classes import composed

UNLABELLED = "images"  # the class of images without classes
# Splits of other names are known by what their folders hold, and are asked for by name.
_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "valset"), "validation"),
    **dict.fromkeys(("dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
_LETTERS = re.compile(r"[^\W\d_]+")
_COUNTED = re.compile(r"-\d+-of-(\d+)\.")  # train-00000-of-00005.tar


class MissingSplitError(ValueError):
    """The data do not have the requested split."""


class Arrangement(NamedTuple):
    """The images of a split with their classes.

    Attributes:
        folder: The folder of the split, which is "" or ends in a slash.
        paths: The path of each image below that folder.
        classes: Class names in label order.
        targets: The label of each image, int64, shape (N,).
    """

    folder: str
    paths: list[str]
    classes: list[str]
    targets: Tensor


def _split_of(name: str) -> str | None:
    """The split that a folder's name is a word for: "train", "validation", "test" or None.

    >>> _split_of("val"), _split_of("Train"), _split_of("val-0")
    ('validation', 'train', None)
    """
    return _SPLIT_OF_WORD.get(name.lower())


def _word_in(name: str) -> str:
    """The word for a split in a name; empty if there is none, or if there are words for two splits.

    Words are runs of letters, in any case: that of "Train-00000-of-00005.tar" is "train".
    """
    words = [word for word in _LETTERS.findall(name.lower()) if _split_of(word)]
    splits = set(map(_split_of, words))
    return words[0] if len(splits) == 1 else ""


def choose_split(names: Iterable[str], split: str, where: str) -> str:
    """The name of a split.

    "test" may be validation images, but not the other way round: settings must not be chosen on
    test images.

    Args:
        names: The names of the splits, such as folders: "Train", "val".
        split: One of them, or a word for a split, such as "val".
        where: The name of the data in messages.

    Raises:
        MissingSplitError: The data do not have the split.
        ValueError: Several names tell this split.
    """
    names = sorted(names)
    wanted = _split_of(split)
    if wanted is None and split in names:
        return split
    matching: list[str] = []
    if wanted is not None:
        matching = [name for name in names if _split_of(name) == wanted]
    if wanted == "test" and not matching:
        matching = [name for name in names if _split_of(name) == "validation"]
    if not matching:
        shown = ", ".join(map(repr, names))
        raise MissingSplitError(f"{where} has the splits {shown}; got split={split!r}")
    if len(matching) > 1:
        raise ValueError(
            f"{where} holds {matching[0]!r} and {matching[1]!r}, which both may be its {wanted} "
            "split: move one elsewhere, or merge them"
        )
    return matching[0]


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sort key that orders numbers by value and ignores case, as timm orders classes."""
    parts: list[str | tuple[int, str]] = list(re.split(r"([0-9]+)", name.lower()))
    for position in range(1, len(parts), 2):  # text and numbers alternate
        digits = str(parts[position]).lstrip("0")
        parts[position] = len(digits), digits  # Python reads at most 4,300 digits as a number
    return parts, name


def shards_of(files: Iterable[str], split: str, where: str) -> list[str]:
    """The shards of a split, in natural order.

    The name of a file, or else of its folder, tells its split: val-00000-of-00001.tar,
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
    shards: dict[str, list[str]] = {}
    for file in sorted(files, key=natural_key):
        folder, _, name = file.rpartition("/")
        shards.setdefault(_word_in(name) or _word_in(folder), []).append(file)
    unnamed = shards.pop("", [])
    if unnamed and shards:
        named = next(iter(shards.values()))
        raise ValueError(
            f"{where} holds {named[0]}, whose name tells its split, and {unnamed[0]}, whose name "
            "does not: rename it, or move it elsewhere"
        )
    if unnamed:
        shards["train"] = unnamed
    chosen = shards[choose_split(shards, split, where)]
    folders = sorted({file.rpartition("/")[0] for file in chosen})
    if len(folders) > 1:
        raise ValueError(
            f"the {split} split of {where} lies in the folders {folders[0] or '.'!r} and "
            f"{folders[1]!r}, which may be different data: pass the path of one of them"
        )
    counted = [match for match in map(_COUNTED.search, chosen) if match]
    if counted:
        total = int(counted[0][1])
        if len(counted) < total:
            warnings.warn(
                f"{where} holds {len(counted)} of {total} shards, such as {chosen[0]}; the others "
                "are not read",
                stacklevel=4,
            )
    return chosen


def arrange(files: Iterable[str], split: str, where: str, *, labels: bool = True) -> Arrangement:
    """Select the images of a split and label each with its class.

    A single folder around everything is skipped. Below it are class folders, or split folders
    (train, val, test, ...) of class folders. Images at any depth in a class folder belong to it;
    images outside of class folders are left out. A held-out split has the classes of the training
    split, so that their labels agree. Data without split folders are a training split.

    Folders of other names that look like splits (see `_alike`) are an error, unless `split` is the
    name of one. Folders in a split folder are always classes.

    Args:
        files: All image files, as relative paths with forward slashes.
        split: The name of a split folder, or a usual word for it.
        where: The name of the data in messages.
        labels: Whether folders are classes. If not, all images of the split are one class.

    Raises:
        MissingSplitError: If the data do not have the split.
        ValueError: If there are no images, no class folders with images, folders look like splits,
            or a held-out class is not one of training.
    """
    files = sorted(files, key=natural_key)
    root, home = _split_folders(files, split, where, labels)
    paths = _below(files, root)
    if not paths:
        raise ValueError(f"{where} holds no images in {root or 'it'}")
    if not labels:
        targets = torch.zeros(len(paths), dtype=torch.int64)
        return Arrangement(root, paths, [UNLABELLED], targets)
    paths = [path for path in paths if "/" in path]
    if not paths:
        raise ValueError(
            f"{where} has no classes: it must hold class folders with images (class/name.jpg). "
            "Images without classes train a flow with --prior.kind single. Labels in a table are "
            "read in Python: pass a list of (image, label), or a torch dataset, to nfaug.fit"
        )
    classes = sorted({composed(name) for name in _folders(files, home)}, key=natural_key)
    labels_of_classes = {name: label for label, name in enumerate(classes)}
    class_of_path = [composed(path.partition("/")[0]) for path in paths]
    unknown = sorted(set(class_of_path) - set(classes))
    if unknown:
        raise ValueError(
            f"{where} has the class {unknown[0]!r} in {root} but not in {home}, which defines the "
            "classes: give both the same class folders, or move this one elsewhere"
        )
    _warn_of_classes(classes, where)
    targets = torch.tensor([labels_of_classes[name] for name in class_of_path])
    return Arrangement(root, paths, classes, targets)


def check_class_folders(images: Arrangement, unread: Iterable[str], where: str) -> None:
    """Raise ValueError if a folder beside the classes has no image, so that labels may be others.

    Args:
        images: The images of a split.
        unread: Relative paths of files that are neither images nor text.
        where: The name of the data in messages.
    """
    for path in _below(unread, images.folder):
        folder, slash, _ = path.partition("/")
        if slash and composed(folder) not in images.classes:
            raise ValueError(
                f"the folder {images.folder}{folder} of {where} is beside the classes and has no "
                f"image that can be read ({images.folder}{path}): convert its images to PNG or "
                "JPEG, or remove it"
            )


def _warn_of_classes(classes: Sequence[str], where: str) -> None:
    """Warn of a single class, and of classes whose names look like splits."""
    if len(classes) == 1:
        warnings.warn(
            f"{where} has only one class, {classes[0]!r}; to tell classes apart, give each one a "
            "folder",
            stacklevel=3,
        )
    suspects = [name for name in classes if _word_in(name)]
    if len({_split_of(_word_in(name)) for name in suspects}) < 2:  # one may well be a class
        suspects = [name for name in suspects if _split_of(name)]
    if suspects:
        shown = ", ".join(map(repr, suspects[:3]))
        warnings.warn(
            f"{where} has classes whose names look like splits: {shown}. If they are splits, keep "
            "nothing but split folders beside them",
            stacklevel=3,
        )


def _below(files: Iterable[str], folder: str) -> list[str]:
    """The paths of the files in a folder, relative to it."""
    return [path[len(folder) :] for path in files if path.startswith(folder)]


def _folders(files: Collection[str], root: str) -> set[str]:
    """The names of the folders directly below a folder, if there are files in them."""
    return {path.partition("/")[0] for path in _below(files, root) if "/" in path}


def _split_folders(files: list[str], split: str, where: str, labels: bool) -> tuple[str, str]:
    """The folder of a split, and the folder that defines its classes."""
    root = _unwrapped(files)
    names = _folders(files, root)
    splits = _splits_among(names)
    if not splits:
        alike = _alike(_below(files, root))
        # A usual word, such as "train", may be the default and not mean a folder.
        if alike and split in names and not _split_of(split):
            folder = f"{root}{split}/"
            folder += _unwrapped(_below(files, folder))
            return folder, folder
        if alike and labels:
            one, other = alike
            named = other if _split_of(one) else one
            raise ValueError(
                f"{where} holds {one!r} and {other!r}, which look like splits and not like "
                f"classes: they hold folders. Pass the path of one, or split={named!r} (--split). "
                "If they are classes, put all into a folder 'train', and pass the folder around it"
            )
        choose_split(("train",), split, where)
        return root, root
    others = sorted(names.difference(splits))
    if others:
        warnings.warn(
            f"{where} has the splits {', '.join(sorted(splits))}; the folders beside them, such as "
            f"{others[0]!r}, are not read",
            stacklevel=4,
        )
    chosen = choose_split(splits, split, where)
    home = chosen
    if "train" in map(_split_of, splits):
        home = choose_split(splits, "train", where)
    return _without_repeat(files, root, chosen), _without_repeat(files, root, home)


def _without_repeat(files: list[str], root: str, split: str) -> str:
    """The folder of a split, or the only folder in it if it has the same name: train/train."""
    paths = _below(files, f"{root}{split}/")
    repeated = all(path.startswith(f"{split}/") and path.count("/") > 1 for path in paths)
    return f"{root}{split}/{split}/" if repeated else f"{root}{split}/"


def _splits_among(names: Collection[str]) -> list[str]:
    """The folders that are splits by their names; none if all folders are classes.

    Names of splits are words for them, if training is among them or nothing is beside them: `train`
    beside bus and car may be a class.
    """
    splits = sorted(name for name in names if _split_of(name))
    told = set(map(_split_of, splits))
    with_training = "train" in told and len(told) > 1
    return splits if with_training or len(splits) == len(names) else []


def _alike(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two folders that look like splits and not like classes, or None.

    Classes hold images. Two folders that hold nothing but folders look like splits if these have a
    name in common, as cat in a/cat and b/cat; and so does a folder of folders beside one of images
    alone, which may be those without labels. A folder around all that a folder holds is skipped.
    """
    contents: dict[str, list[str]] = {}  # of each folder
    for path in paths:
        folder, slash, rest = path.partition("/")
        if slash:
            contents.setdefault(folder, []).append(rest)
    holders: dict[str, str] = {}  # the first folder that holds a folder of this name
    of_folders = ""
    of_images = ""
    for folder, below in contents.items():
        below = _below(below, _unwrapped(below))
        inner = _folders(below, "")
        if not inner:
            of_images = of_images or folder
        elif all("/" in path for path in below):
            shared = inner & holders.keys()
            if shared:
                return holders[min(shared)], folder
            holders.update(dict.fromkeys(inner, folder))
            if len(inner) > 1:
                of_folders = of_folders or folder
    return (of_folders, of_images) if of_folders and of_images else None


def _unwrapped(files: list[str]) -> str:
    """The folder inside all folders that hold nothing but one other folder."""
    root = ""
    while True:
        names = _folders(files, root)
        if len(names) != 1:
            return root
        name = min(names)
        inner = f"{root}{name}/"
        paths = _below(files, inner)
        holds_all = len(paths) == len(files)
        if _split_of(name) or not holds_all or not all("/" in path for path in paths):
            return root
        root = inner
