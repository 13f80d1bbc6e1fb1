"""Parquet files and data sets of the Hugging Face Hub, through the library `datasets`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from ..classes import as_labels, numbered
from ..decode import ImageDecodeError
from ..readers import FileReader, Reader, Request
from .layout import MissingSplitError, shards_of

__all__ = ["open_hub", "open_parquet"]


def open_parquet(request: Request) -> Reader | None:
    """Open a folder of parquet files, or one file."""
    path = request.path
    files = shards_of(path, ".parquet", request.split)
    if not files:
        return None
    library, names = _datasets(str(path)), [str(file) for file in files]
    try:
        table = library.Dataset.from_parquet(names, cache_dir=request.data_dir)
    except Exception as error:  # pyarrow and datasets raise their own types
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    home = path if path.is_dir() else path.parent
    return _reader(table, str(path), [home])


def open_hub(request: Request) -> Reader | None:
    """Open `hfds/OWNER/NAME` of the Hub, or `hfds/` and a folder that `datasets` can load."""
    prefix, _, name = request.data.partition("/")
    if prefix.lower() != "hfds":
        return None
    library, where, name = _datasets(request.data), repr(request.data), os.path.expanduser(name)
    try:
        table = library.load_dataset(name, split=request.split, cache_dir=request.data_dir)
    except Exception as error:  # datasets and the Hub's client raise their own types
        if "Unknown split" in str(error):
            raise MissingSplitError(f"{where} has no split {request.split!r}: {error}") from error
        raise ValueError(f"{where} cannot be opened ({type(error).__name__}: {error})") from error
    caches = request.data_dir, library.config.HF_DATASETS_CACHE, HF_HUB_CACHE
    homes = [name] if os.path.isdir(name) else filter(None, caches)
    return _reader(table, where, [Path(home) for home in homes])


def _reader(table: Any, where: str, homes: list[Path]) -> Reader:
    """Find the images and the labels of a table.

    The columns are `image` and `label`, or the only ones of images and of class labels. Labels that
    are words become classes in alphabetical order.
    """
    library = _datasets(where)
    image = _column(table, "image", library.Image, where)
    label = _column(table, "label", library.ClassLabel, where)
    try:
        table = table.cast_column(image, library.Image(decode=False))
        if table.features[label].dtype in ("string", "large_string"):
            table = table.class_encode_column(label)
    except Exception as error:  # pyarrow raises its own types
        raise ValueError(f"{where} holds no images with labels ({error})") from error
    labels = as_labels(list(table[label]), len(table))
    if labels is None:
        raise ValueError(f"the column {label!r} of {where} must hold whole numbers")
    return TableReader(
        where=where,
        classes=getattr(table.features[label], "names", None) or numbered(labels),
        targets=torch.from_numpy(labels),
        table=table,
        image=image,
        homes=homes,
    )


@dataclass(eq=False, kw_only=True)
class TableReader(FileReader):
    """The column `image` of a `datasets.Dataset`.

    Files that rows name must lie in one of the folders `homes`, once links are resolved.
    """

    threads: ClassVar[bool] = False
    table: Any
    image: str
    homes: list[Path]

    def read_bytes(self, index: int) -> bytes:
        stored: Mapping[str, Any] = self.table[index][self.image] or {}
        if stored.get("bytes"):
            return bytes(stored["bytes"])
        if not stored.get("path"):
            raise ImageDecodeError(
                f'{self.name(index)} is empty; remove this row, or skip it with on_error="skip"'
            )
        file = Path(os.path.realpath(self.homes[0] / stored["path"]))
        inside = any(file.is_relative_to(os.path.realpath(home)) for home in self.homes)
        if not inside or not file.is_file():
            raise ValueError(
                f"{self.name(index)} must be a file in {self.homes[0]}; got {stored['path']!r}"
            )
        return file.read_bytes()


def _column(table: Any, name: str, kind: type, where: str) -> str:
    """The column of this name, or the only one of this kind."""
    found = [column for column, feature in table.features.items() if isinstance(feature, kind)]
    if name not in table.column_names and len(found) != 1:
        raise ValueError(
            f"{where} has the columns {table.column_names}; it must have one called {name!r}, or a "
            f"single {kind.__name__}"
        )
    return name if name in table.column_names else found[0]


def _datasets(where: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{where} needs: pip install 'nfaug[datasets]'") from error
    return datasets
