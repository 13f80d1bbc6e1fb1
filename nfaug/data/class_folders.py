"""Assign the files of a folder or a tar to splits and classes. Only paths are looked at."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .decode import IMAGE_ENDINGS

__all__ = ["LABELS_FILE", "Layout", "MissingSplitError", "arrange", "natural_key", "split_kind"]

LABELS_FILE = "labels.csv"
_HEADER = ["file", "label"]
UNLABELLED = "images"  # the class of images without classes
SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval"),
    "test": ("test", "testing"),
}


class MissingSplitError(ValueError):
    """The data do not have the requested split."""


@dataclass(frozen=True)
class Layout:
    """Image paths in natural order, their labels and class names; `complete` if all must occur."""

    paths: list[str]
    labels: list[int]
    classes: list[str]
    complete: bool


def split_kind(split: str) -> str:
    """Map "val", "testing", ... to "train", "validation" or "test"; keep other words."""
    return next((kind for kind, words in SYNONYMS.items() if split.lower() in words), split)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key that orders numbers by value and ignores case, as timm orders classes."""
    parts: list[str | int] = [*re.split(r"([0-9]+)", name.lower())]
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name


def arrange(
    files: Iterable[str],
    folders: Iterable[str],
    split: str,
    where: str,
    *,
    labels: bool = True,
    tables: Mapping[str, bytes] | None = None,
) -> Layout:
    """Select the images of a split and label each with its class.

    Paths are relative, with forward slashes. A single folder around everything is skipped. Below it
    are class folders, or split folders (train, val, test, ...) of class folders. Images at any
    depth in a class folder belong to it; images outside of class folders are left out. A held-out
    split has the classes of the training split, so that their labels agree.

    A `labels.csv` beside the images, or in each split folder, replaces class folders. Its header
    is `file,label`: a path relative to the CSV's folder, and a class name.

    A single class is a warning: its images may have no classes.

    split="test" falls back to a validation folder, but validation never falls back to a test
    folder: settings must not be chosen on test images. Data without split folders are a training
    split.

    Args:
        files: All image files.
        folders: Folders, so that empty ones are noticed. The folders of `files` may be left out.
        split: The name of a split folder, or a usual word for it.
        where: The name of the data in messages.
        labels: Whether folders are classes. If not, all images of the split, at any depth, are one
            class.
        tables: The contents of files called `labels.csv`, by path.

    Raises:
        MissingSplitError: If the data do not have the split.
        ValueError: If there is no image, there are no class folders with images, a held-out class
            is unknown, or a `labels.csv` is not as above.
    """
    files = sorted(files, key=natural_key)
    tables = tables or {}
    folders = {*folders, *(path.rpartition("/")[0] for path in [*files, *tables])}
    root = _unwrap(files, folders, tables)
    home = root  # the folder that defines the classes
    kinds = {name: split_kind(name) for name in _children(folders, root)}
    if _are_splits(set(kinds.values())) and not _has_table(root, folders, tables):
        chosen = _choose(kinds, split, where)
        train = next((name for name, kind in kinds.items() if kind == "train"), chosen)
        root, home = f"{root}{chosen}/", f"{root}{train}/"
    elif split_kind(split) != "train":
        raise MissingSplitError(
            f'{where} has no split folders, so all of it is split="train"; got split={split!r}. '
            "Pass the folder or tar of that split as the data"
        )
    inside = [path for path in files if path.startswith(root)]
    place = f" in {root}" if root else ""
    if not inside:
        endings = ", ".join(IMAGE_ENDINGS)
        raise ValueError(f"{where} holds no images{place}; the names of images end in {endings}")
    if not labels:
        return Layout(inside, [0] * len(inside), [UNLABELLED], complete=True)
    tabular = _has_table(root, folders, tables)
    names = _children(folders, home)
    if _has_table(home, folders, tables):
        names = {*_read_table(tables[home + LABELS_FILE], home, set(files), where).values()}
    classes = sorted(names, key=natural_key)
    if tabular:
        rows = _read_table(tables[root + LABELS_FILE], root, set(inside), where)
        classes = classes or sorted({*rows.values()}, key=natural_key)  # of unlabelled training
    else:
        rows = {path: path[len(root) :].partition("/")[0] for path in inside}
        rows = {path: name for path, name in rows.items() if path != root + name}
    named = set(rows.values()) if tabular else _children(folders, root)
    if unknown := sorted(named - set(classes)):
        raise ValueError(
            f"{where} has the class {unknown[0]!r} in {root} but not in {home}, which defines the "
            "classes"
        )
    if not rows:
        raise ValueError(
            f"{where} has no classes: it must hold class folders with images (class/name.jpg), or "
            f"a {LABELS_FILE} with the header file,label beside the images; got {len(inside)} "
            f"images without a class folder{place}. Images without classes train a flow with "
            "--prior.kind single"
        )
    if len(classes) == 1:
        warnings.warn(
            f"{where} has only one class, {classes[0]!r}; to tell classes apart, give each one a "
            f"folder, or list them in a {LABELS_FILE} with the header file,label",
            stacklevel=2,
        )
    index = {name: label for label, name in enumerate(classes)}
    return Layout([*rows], [index[name] for name in rows.values()], classes, complete=root == home)


def _has_table(root: str, folders: set[str], tables: Mapping[str, bytes]) -> bool:
    """Whether a folder has a `labels.csv`. One with another header is ignored beside classes."""
    table = tables.get(root + LABELS_FILE)
    if table is None:
        return False
    if len(_children(folders, root)) < 2:
        return True
    try:
        return _cells(next(_rows(table, errors="replace"), [])) == _HEADER
    except csv.Error:
        return False


def _rows(table: bytes, errors: str = "strict") -> Iterator[list[str]]:
    """The rows of a CSV file in UTF-8, with any line ends."""
    text = table.decode("utf-8-sig", errors)
    return csv.reader(io.StringIO(text, newline=None), strict=True)


def _cells(row: list[str]) -> list[str]:
    return [cell.strip() for cell in row]


def _read_table(data: bytes, root: str, files: set[str], where: str) -> dict[str, str]:
    """Class names by path, in natural order of the paths, from the bytes of a `labels.csv`."""
    name = f"{root}{LABELS_FILE} in {where}"
    try:
        rows = [*_rows(data)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{name} is not a CSV file in UTF-8 ({error})") from error
    if not rows or _cells(rows[0]) != _HEADER:
        raise ValueError(f"{name} must have the header file,label; got {rows[:1]}")
    labels: dict[str, str] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        cells = _cells(row)
        path = root + cells[0]
        if len(cells) != 2 or not cells[1] or path not in files or path in labels:
            problem = "is listed twice" if path in labels else "is not an image below it"
            problem = problem if len(cells) == 2 and cells[1] else "has no label"
            raise ValueError(f"line {number} of {name}: {cells[0]!r} {problem}")
        labels[path] = cells[1]
    return dict(sorted(labels.items(), key=lambda item: natural_key(item[0])))


def _unwrap(files: list[str], folders: set[str], tables: Mapping[str, bytes]) -> str:
    """The folder that holds everything: "", or a path that ends in a slash."""
    root = ""
    while root + LABELS_FILE not in tables and len(names := _children(folders, root)) == 1:
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
    """Whether all folders are splits, or a training folder is beside a held-out one.

    A folder called train is not enough: it may be a class beside bus and car.
    """
    known = kinds & set(SYNONYMS)
    return bool(known) and (known == kinds or ("train" in known and len(known) > 1))


def _choose(kinds: dict[str, str], split: str, where: str) -> str:
    """The name of the folder for a split."""
    if split in kinds:
        return split
    wanted = split_kind(split)
    for kind in (wanted, "validation") if wanted == "test" else (wanted,):
        if kind in kinds.values():
            return min(name for name in kinds if kinds[name] == kind)
    names = ", ".join(map(repr, sorted(kinds)))
    raise MissingSplitError(f"{where} has the splits {names}; got split={split!r}")
