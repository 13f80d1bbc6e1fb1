"""Which files of a folder or a tar belong to which split and class; pure functions on paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["IMAGE_ENDINGS", "Layout", "MissingSplitError", "arrange", "natural_key", "split_kind"]

IMAGE_ENDINGS = (
    ".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
UNLABELLED = "images"  # the one class of images without classes
SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval"),
    "test": ("test", "testing"),
}


class MissingSplitError(ValueError):
    """The data exist, but not the split that was asked for."""


@dataclass(frozen=True)
class Layout:
    """Image paths in natural order, the label of each, class names, and whether all must occur."""

    paths: list[str]
    labels: list[int]
    classes: list[str]
    complete: bool


def split_kind(split: str) -> str:
    """ "train", "validation" or "test" for any usual word; other words stay as they are."""
    return next((kind for kind, words in SYNONYMS.items() if split.lower() in words), split)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key with numbers by value and letters without case, as timm orders classes."""
    parts: list[str | int] = [*re.split(r"([0-9]+)", name.lower())]
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name


def arrange(
    files: Iterable[str], folders: Iterable[str], split: str, where: str, *, labels: bool = True
) -> Layout:
    """Choose the images of a split and give each the class folder that it lies in.

    Paths are relative, with forward slashes. A lone folder around everything is looked through.
    Below it come class folders, or split folders (train, val, test, ...) of class folders. Images
    at any depth in a class folder belong to it; images outside of class folders are left out. A
    held-out split has the classes of the training split, so that the indices agree.

    "test" also takes a validation folder where there is no test folder, never the reverse: settings
    must not be chosen on test images. Data without split folders are a training split.

    Args:
        files: All image files.
        folders: Folders, so that empty ones are noticed; those of `files` need not be among them.
        split: A split folder's name, or any usual word for it.
        where: What to call the data in messages.
        labels: Whether folders are classes; if not, all images of the split, at any depth, are
            one class.

    Raises:
        MissingSplitError: If the data have no such split.
        ValueError: If there is no image, there are no class folders with images, or a held-out
            class is unknown.
    """
    files = sorted(files, key=natural_key)
    folders = {*folders, *(path.rpartition("/")[0] for path in files)}
    root = _unwrap(files, folders)
    home = root  # the folder whose sub-folders name the classes
    kinds = {name: split_kind(name) for name in _children(folders, root)}
    if _are_splits(set(kinds.values())):
        chosen = _choose(kinds, split, where)
        train = next((name for name, kind in kinds.items() if kind == "train"), chosen)
        root, home = f"{root}{chosen}/", f"{root}{train}/"
    elif split_kind(split) != "train":
        raise MissingSplitError(
            f'{where} has no split folders, so all of it is split="train", got split={split!r}; '
            "give the folder or tar that holds just those images as the data"
        )
    if not labels:
        inside = [path for path in files if path.startswith(root)]
        if not inside:
            raise ValueError(f"{where} holds no image{_endings(root)}")
        return Layout(inside, [0] * len(inside), [UNLABELLED], complete=True)
    classes = sorted(_children(folders, home), key=natural_key)
    unknown = sorted(_children(folders, root) - set(classes))
    if unknown:
        raise ValueError(
            f"{where} has a class folder {unknown[0]!r} in {root} but not in {home}, where it "
            "would be learnt"
        )
    index = {name: label for label, name in enumerate(classes)}
    below = [path[len(root) :] for path in files if path.startswith(root)]
    paths = [path for path in below if "/" in path]
    if not paths:
        found = f"{len(below)} images outside of any class folder" if below else "no image"
        raise ValueError(
            f"{where} must hold class folders with images (class/name.jpg), got {found}"
            + _endings(root)
            + ("; images without classes train a flow with --prior.kind single" if below else "")
        )
    numbers = [index[path.partition("/")[0]] for path in paths]
    return Layout([root + path for path in paths], numbers, classes, complete=root == home)


def _endings(root: str) -> str:
    """Where there was no image, and what would be one."""
    place = f" in {root}" if root else ""
    return f"{place}; the names of images end in {', '.join(IMAGE_ENDINGS)}"


def _unwrap(files: list[str], folders: set[str]) -> str:
    """The folder that everything lies in: "" or ending in a slash."""
    root = ""
    while len(names := _children(folders, root)) == 1:
        (name,) = names
        inner = f"{root}{name}/"
        nested = all(path.startswith(inner) and "/" in path[len(inner) :] for path in files)
        if not files or not nested or split_kind(name) in SYNONYMS:
            break
        root = inner
    return root


def _children(folders: set[str], root: str) -> set[str]:
    """The names of the folders directly below root."""
    return {path[len(root) :].partition("/")[0] for path in folders if path.startswith(root)} - {""}


def _are_splits(kinds: set[str]) -> bool:
    """Whether all folders are splits, or a training one is beside a held-out one.

    A folder called train is not enough: it may be a class, beside bus and car.
    """
    known = kinds & set(SYNONYMS)
    return bool(known) and (known == kinds or ("train" in known and len(known) > 1))


def _choose(kinds: dict[str, str], split: str, where: str) -> str:
    """The name of the folder for a split."""
    if split in kinds:
        return split
    wanted = split_kind(split)
    for kind in (wanted, "validation") if wanted == "test" else (wanted,):
        for name in sorted(kinds):
            if kinds[name] == kind:
                return name
    names = ", ".join(repr(name) for name in sorted(kinds))
    raise MissingSplitError(f"{where} has the splits {names}, got split={split!r}")
