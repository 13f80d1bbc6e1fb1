"""Readers of data in shards: tars in WebDataset's layout, and parquet files of Hugging Face."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .class_folders import SYNONYMS, MissingSplitError, natural_key, split_kind
from .classes import MOST_LABELS, numbered, whole_labels
from .decode import IMAGE_ENDINGS
from .file_readers import FileReader, _members

__all__ = [
    "ParquetReader",
    "WdsReader",
    "is_wds_tar",
    "open_shards",
    "open_wds_name",
    "open_wds_tar",
]

INFO_FILES = ("_info.json", "info.json")  # of timm's wds/ reader
NAMES_FILE = "classnames.txt"  # a class name a line, in label order
_WORDS = "|".join(sorted({word for words in SYNONYMS.values() for word in words}, key=len)[::-1])
_SPLIT = re.compile(rf"(?:^|[-_./])({_WORDS})(?=[-_./\d])", re.IGNORECASE)
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # WebDataset's: up to the first dot of the name


def open_shards(folder: Path, split: str, cache: str | None = None) -> FileReader | None:
    """The reader of a folder that holds shards, or None for another folder.

    Shards lie in the folder, or in one folder for each split. `_info.json` names the shards of a
    split, as for timm. Without it, the names of folders and files do (train-000000.tar,
    val-00000-of-00001.parquet). Without splits, all shards are a training split.

    Raises:
        MissingSplitError: If the shards are of other splits.
    """
    inner = [child for child in folder.iterdir() if child.is_dir()]
    parts = [child for child in inner if child.name == "data" or split_kind(child.name) in SYNONYMS]
    for ending in ("tar", "parquet"):
        files = [file for part in (folder, *parts) for file in part.glob(f"*.{ending}")]
        files.sort(key=lambda file: natural_key(file.as_posix()))
        if not files or _hold_images([folder, *inner]):
            continue
        chosen, whole = _of_split(folder, files, split)
        if ending == "tar":
            return WdsReader(chosen, str(folder), folder, complete=whole)
        return ParquetReader(chosen, str(folder), cache, complete=whole)
    return None


def open_wds_tar(path: Path, split: str) -> FileReader:
    """The reader of one shard, which is of the split that its name says, or a training split.

    Raises:
        MissingSplitError: If it is of another split.
    """
    chosen, whole = _chosen(_named(path.parent, [path]), split, path)
    return WdsReader(chosen, str(path), path.parent, complete=whole)


def open_wds_name(name: str, split: str, data_dir: str | os.PathLike[str] | None) -> FileReader:
    """Open `wds/NAME` as timm does, from the folder `data_dir`, or the pattern of shards NAME.

    A pattern has braces, as in shards-{0000..0099}.tar, which webdataset expands.

    Raises:
        FileNotFoundError: If there is no such folder or shard.
        ModuleNotFoundError: If a pattern is given and webdataset is not installed.
    """
    rest = name.partition("/")[2]
    root = Path(os.path.expanduser(rest if data_dir is None else data_dir))
    if "{" not in rest:
        found = open_shards(root, split) if root.is_dir() else None
        if found is None:
            raise FileNotFoundError(f"{str(root)!r} has no .tar shards, which {name!r} needs")
        return found
    try:
        from webdataset.shardlists import expand_urls
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the pattern {rest!r} needs webdataset: pip install 'nfaug[wds]'"
        ) from error
    base = Path() if data_dir is None else root
    files = [base / file for file in expand_urls(rest)]
    if missing := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{len(missing)} shards of {name!r} are missing: {missing[0]}")
    return WdsReader(files, name, files[0].parent, complete=split_kind(split) == "train")


class WdsReader(FileReader):
    """Images and labels of tars in WebDataset's layout, read in place.

    The files of a sample share the name up to its first dot: 000012.jpg and 000012.cls, the label
    in decimal digits, or 000012.json with the key "label".

    Of several images, such as 000012.jpg and 000012.mask.png, the one without a second dot counts.

    Raises:
        ValueError: If a shard is damaged, or a sample has no image, several or no label.
    """

    def __init__(self, shards: Sequence[Path], where: str, home: Path, *, complete: bool) -> None:
        self.shards, self.where, self.complete = list(shards), where, complete
        self.keys: list[str] = []
        rows: list[tuple[int, int, int, int]] = []  # shard, offset, size, label
        for number, shard in enumerate(self.shards):
            samples: dict[str, dict[str, Any]] = {}
            for member in _members(shard):
                if member.isfile() and (match := _KEY.fullmatch(member.name)):
                    samples.setdefault(match[1], {})[match[2].lower()] = member
            with shard.open("rb") as file:
                for key, parts in samples.items():
                    name = f"{key} in {shard}"
                    image = parts[_image_of(parts, name)]
                    label = _label(file, parts, name)
                    rows.append((number, image.offset_data, image.size, label))
                    self.keys.append(key)
        if not rows:
            raise ValueError(f"{where} holds no samples of WebDataset, such as 0.jpg and 0.cls")
        self.table = np.array(rows, dtype=np.int64)
        self.targets = torch.from_numpy(self.table[:, 3].copy())
        self.classes = numbered(self.targets)
        names = next(
            (p for p in (home / NAMES_FILE, home.parent / NAMES_FILE) if p.is_file()), None
        )
        if names is not None:
            listed = names.read_text("utf-8").splitlines()
            if len(listed) < len(self.classes):
                raise ValueError(
                    f"{names} has {len(listed)} names and the labels go up to "
                    f"{len(self.classes) - 1}"
                )
            self.classes = listed

    def name(self, index: int) -> str:
        return f"{self.keys[index]} in {self.shards[self.table[index, 0]]}"

    def read_bytes(self, index: int) -> bytes:
        shard, offset, size, _ = self.table[index].tolist()
        with self.shards[shard].open("rb") as file:  # workers would share an open file's position
            file.seek(offset)
            return file.read(size)

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        for index in indices:
            yield f"{self.keys[index]}\0{self.table[index, 2]}\n".encode(errors="surrogateescape")


class ParquetReader(FileReader):
    """Images and labels of parquet files, through the library `datasets`, which keeps a cache.

    The columns are `image` and `label`, or the only ones of images and of class labels. Images that
    lie beside the files must lie in the same folder or below it.

    Raises:
        ModuleNotFoundError: If datasets is not installed.
        ValueError: If a file cannot be read, or there are no such columns.
    """

    threads = False

    def __init__(
        self, files: Sequence[Path], where: str, cache: str | None, *, complete: bool
    ) -> None:
        try:
            from datasets import ClassLabel, Dataset, Image
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{where} is read by datasets: pip install 'nfaug[datasets]'"
            ) from error
        self.files, self.where, self.complete = list(files), where, complete
        self.home = Path(where)
        try:
            table = Dataset.from_parquet([str(file) for file in files], cache_dir=cache)
        except Exception as error:  # pyarrow and datasets raise their own types
            raise ValueError(f"{where} is damaged ({type(error).__name__}: {error})") from error
        image = _column(table, "image", Image, where)
        label = _column(table, "label", ClassLabel, where)
        self.image = image
        self.table = table.cast_column(image, Image(decode=False))
        self.targets = whole_labels(list(table[label]), f"the column {label!r} of {where}")
        self.classes = list(getattr(table.features[label], "names", ())) or numbered(self.targets)

    def name(self, index: int) -> str:
        return f"image {index} of {self.where}"

    def read_bytes(self, index: int) -> bytes:
        stored: Mapping[str, Any] = self.table[index][self.image]
        if stored["bytes"] is not None:
            return bytes(stored["bytes"])
        return (self.home / _inside(stored["path"], self.name(index))).read_bytes()

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        for file in self.files:
            yield f"{file.name}\0{file.stat().st_size}\n".encode()
        yield np.asarray(indices, dtype="<i8").tobytes()


def is_wds_tar(path: Path) -> bool:
    """Whether a tar has WebDataset's layout: a .cls, or an image and a .json with the key "label".

    Its first 16 members decide.
    """
    images, labels = set[str](), set[str]()
    try:
        with tarfile.open(path, "r:") as tar:
            for member, _ in zip(tar, range(16)):  # noqa: B905
                if not member.isfile() or not (match := _KEY.fullmatch(member.name)):
                    continue
                key, extension = match[1], match[2].lower()
                if extension == "cls":
                    return True
                if _is_image(extension):
                    images.add(key)
                elif extension == "json" and (file := tar.extractfile(member)) is not None:
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        json.loads(file.read())["label"]
                        labels.add(key)
    except tarfile.TarError:
        return False
    return bool(images & labels)


def _image_of(parts: Mapping[str, Any], name: str) -> str:
    """The extension of a sample's image."""
    found = [extension for extension in parts if _is_image(extension)]
    plain = [extension for extension in found if "." not in extension]
    if len(plain or found) != 1:
        problem = "several images" if found else "no image"
        raise ValueError(f"{name} has {problem}; got {sorted(parts)}")
    return (plain or found)[0]


def _inside(path: Any, what: str) -> str:
    """The path, if it is relative and does not leave its folder."""
    text = os.path.normpath(path) if isinstance(path, str) and path else ""
    if not text or os.path.isabs(text) or text.split(os.sep)[0] == os.pardir:
        raise ValueError(f"{what} must be a file in the folder of the data; got {path!r}")
    return text


def _is_image(extension: str) -> bool:
    return f".{extension.rpartition('.')[2]}" in IMAGE_ENDINGS


def _hold_images(folders: Sequence[Path]) -> bool:
    """Whether folders hold image files: tars beside images are not the data."""
    names = (file.name.lower() for folder in folders for file in folder.iterdir())
    return any(name.endswith(IMAGE_ENDINGS) for name in names)


def _label(file: Any, parts: Mapping[str, Any], name: str) -> int:
    for extension in ("cls", "json"):
        if (member := parts.get(extension)) is None:
            continue
        file.seek(member.offset_data)
        text = file.read(member.size)
        try:
            label = text if extension == "cls" else json.loads(text)["label"]
            label = int(label) if isinstance(label, (bytes, str)) else label
        except (ValueError, TypeError, KeyError):
            label = None
        if not isinstance(label, int) or not 0 <= label < MOST_LABELS:
            raise ValueError(
                f"{name} must have a whole number from 0 to {MOST_LABELS - 1} as label; got "
                f"{text[:40]!r}"
            )
        return label
    raise ValueError(f"{name} has no label: neither .cls nor .json; got {sorted(parts)}")


def _of_split(folder: Path, files: list[Path], split: str) -> tuple[list[Path], bool]:
    """The shards of a split, and whether every class must have an image in it."""
    info = next((folder / name for name in INFO_FILES if (folder / name).is_file()), None)
    splits = None if info is None else _listed(folder, info)
    return _chosen(splits or _named(folder, files), split, folder)


def _listed(folder: Path, info: Path) -> dict[str, list[Path]]:
    """The shards of each split that `_info.json` lists; none if it has no splits.

    Raises:
        ValueError: If it is not as for timm, or names a file outside of the folder.
    """
    try:
        splits = json.loads(info.read_text("utf-8")).get("splits") or {}
        names = {name: list(part["filenames"]) for name, part in splits.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'{info} must be {{"splits": {{"train": {{"filenames": ["train-000000.tar"]}}}}}} '
            f"({type(error).__name__}: {error})"
        ) from None
    return {
        name: [folder / _inside(file, f"a shard of {info}") for file in files]
        for name, files in names.items()
    }


def _named(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The shards of each split that the names of folders and files tell."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        found = _SPLIT.search(file.relative_to(folder).as_posix())
        splits.setdefault(found[1].lower() if found else "train", []).append(file)
    return splits


def _chosen(splits: Mapping[str, list[Path]], split: str, where: Path) -> tuple[list[Path], bool]:
    wanted = split_kind(split)
    for kind in (wanted, "validation") if wanted == "test" else (wanted,):
        for name, chosen in splits.items():
            if name == split or split_kind(name) == kind:
                return chosen, split_kind(name) == "train"
    names = ", ".join(map(repr, sorted(splits)))
    raise MissingSplitError(f"{where} has the splits {names}; got split={split!r}")


def _column(table: Any, name: str, kind: type, where: str) -> str:
    """The column of this name, or the only one of this kind."""
    if name in table.column_names:
        return name
    found = [column for column, feature in table.features.items() if isinstance(feature, kind)]
    if len(found) != 1:
        raise ValueError(
            f"{where} has the columns {table.column_names}; it must have one called {name!r}, or a "
            f"single {kind.__name__}"
        )
    return found[0]
