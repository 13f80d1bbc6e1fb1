"""Parquet files, on disk or of the Hugging Face Hub, whose rows hold the bytes of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ...io.extras import optional_imports, require
from ...io.hub_options import HubOptions
from ...io.strict_json import parse_json
from ..classes import as_labels, numbered, unique_names
from ..decode import ImageDecodeError
from ..readers import FileReader, Reader, Request
from .layout import shards_of

__all__ = ["open_hub", "open_parquet"]

PARQUET = ".parquet"
MOST_BYTES = 2**33  # bytes of encoded images that are kept in memory
_ROWS = 64  # rows that are read at once
_IN_PYTHON = (
    "Such data are read in Python: pass datasets.load_dataset(...) to nfaug.fit, to "
    "nfaug.training.train or to nfaug.bank.make_bank"
)


def open_parquet(root: Path, files: Sequence[str], request: Request) -> Reader:
    """Read parquet files; `files` are their paths below the folder `root`.

    The columns are `image` and `label`, or the only ones of images and of class labels. An image is
    the bytes of a file, alone or as `bytes` of a struct, as Hugging Face's library stores it. Rows
    that name a file in place of its bytes cannot be read: the path may lead anywhere. Labels that
    are words become classes in alphabetical order.

    Raises:
        ValueError: A file is damaged, the files have other columns or class names than the first,
            or the images take more than 8 GiB.
        ModuleNotFoundError: pyarrow is not installed.
    """
    tables: list[_Table] = []
    bytes_left = MOST_BYTES
    for shard in shards_of(files, request.split, request.data):
        table = _read(root / shard, bytes_left)
        bytes_left -= table.size
        tables.append(table)
        if table.columns != tables[0].columns:
            raise ValueError(f"{table.file} has other columns or class names than {tables[0].file}")
    columns = tables[0].columns
    batches: list[Any] = []
    labels: list[Any] = []
    for table in tables:
        batches += table.images
        labels += table.labels
    if not labels:
        raise ValueError(f"{request.data} holds no rows")
    names = list(columns.names)
    if all(isinstance(label, str) for label in labels):
        names = sorted(set(labels))
        labels_of_names = {name: label for label, name in enumerate(names)}
        labels = [labels_of_names[name] for name in labels]
    targets = as_labels(labels, len(labels))
    if targets is None:
        raise ValueError(
            f"the column {columns.label!r} of {request.data} must hold whole numbers or words"
        )
    starts = np.zeros(len(batches) + 1, dtype=np.int64)
    starts[1:] = np.cumsum([len(batch) for batch in batches])
    return TableReader(
        where=request.data,
        classes=names or numbered(targets),
        targets=torch.from_numpy(targets),
        batches=batches,
        starts=starts,
    )


class _Columns(NamedTuple):
    """The columns of a table that are read.

    Attributes:
        image: Name of the column of images.
        label: Name of the column of labels.
        kind: Type of the column of images.
        names: Class names; empty if the table has none.
    """

    image: str
    label: str
    kind: str
    names: tuple[str, ...]


class _Table(NamedTuple):
    """A file in memory: its images in arrow arrays, its labels, and the size of both in bytes."""

    file: Path
    columns: _Columns
    images: list[Any]
    labels: list[Any]
    size: int


def _read(file: Path, most: int) -> _Table:
    """Read the two columns of a file; they may take at most `most` bytes of memory."""
    with optional_imports():
        from pyarrow import ArrowException, parquet
    images: list[Any] = []
    labels: list[Any] = []
    size = 0
    try:
        with parquet.ParquetFile(file) as stored:
            columns = _columns(stored.schema_arrow, file)
            for batch in stored.iter_batches(_ROWS, columns=[columns.image, columns.label]):
                images.append(batch.column(columns.image))
                labels += batch.column(columns.label).to_pylist()
                size += batch.nbytes
                if size > most:  # a few bytes can stand for many equal images
                    break
    except (ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged ({error})") from error
    if size > most:
        raise ValueError(
            f"the images of {file} and those before it take more than {MOST_BYTES} bytes of "
            f"memory. {_IN_PYTHON}"
        )
    return _Table(file, columns, images, labels, size)


def open_hub(request: Request) -> Reader:
    """Read the parquet files of `hfds/OWNER/NAME`, or of a folder `hfds/OWNER/NAME/FOLDER` in it.

    The files of the split are downloaded into the Hub's cache, or into `data_dir`. Nothing else of
    the repository is read. In the client's offline mode (HF_HUB_OFFLINE) the cache is used.
    """
    from ...io.hub import download, hub_errors  # other data need no client

    parts = request.data.split("/")[1:]
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"{request.data!r} must be hfds/OWNER/NAME; pass a folder by its path")
    name = "/".join(parts[:2])
    folder = "".join(f"{part}/" for part in parts[2:])
    require("pyarrow")  # before the download
    with hub_errors(f"the dataset {name}"):
        sizes = _file_sizes(name, request.data_dir)
    files = [path for path in sizes if path.startswith(folder) and path.endswith(PARQUET)]
    if not files:
        raise ValueError(
            f"{name} on the Hub has no parquet files in {folder or 'it'}. {_IN_PYTHON}"
        )
    chosen = shards_of(files, request.split, request.data)
    total = sum(sizes[path] for path in chosen)
    if total > MOST_BYTES:
        raise ValueError(
            f"the files of {request.data} have {total} bytes, over {MOST_BYTES}. {_IN_PYTHON}"
        )
    options = HubOptions(cache_dir=request.data_dir)
    root = download(name, chosen, options, repo_type="dataset", most=MOST_BYTES)
    return open_parquet(root, chosen, request)


def _file_sizes(name: str, cache: str | None) -> dict[str, int]:
    """The size of every file of a dataset on the Hub; in offline mode, of those in the cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import OfflineModeIsEnabled

    from ...io.hub import file_sizes

    try:
        return file_sizes(name, repo_type="dataset")
    except OfflineModeIsEnabled:
        revision = None
        for repository in scan_cache_dir(cache or constants.HF_HUB_CACHE).repos:
            if repository.repo_type == "dataset" and repository.repo_id == name:
                revision = repository.refs.get("main")
        if revision is None:  # the error says that the client is offline
            raise
        sizes = {}
        for file in revision.files:
            path = file.file_path.relative_to(revision.snapshot_path)
            sizes[path.as_posix()] = file.size_on_disk
        return sizes


@dataclass(eq=False, kw_only=True)
class TableReader(FileReader):
    """Encoded images in memory.

    Attributes:
        batches: The images in arrow arrays.
        starts: The index of the first image of each array, and the number of images.
    """

    batches: list[Any]
    starts: np.ndarray

    def read_bytes(self, index: int) -> bytes:
        batch = int(np.searchsorted(self.starts, index, side="right")) - 1
        row = index - int(self.starts[batch])
        stored = self.batches[batch][row].as_py()
        data = stored
        if isinstance(stored, Mapping):
            data = stored.get("bytes")
            if not data and stored.get("path"):
                raise ValueError(
                    f"{self.name(index)} names a file, {stored['path']!r}, and only bytes in the "
                    f"table are read. {_IN_PYTHON}"
                )
        if not data:
            raise ImageDecodeError(
                f'{self.name(index)} is empty; remove this row, or skip it with on_error="skip"'
            )
        return bytes(data)


def _columns(schema: Any, file: Path) -> _Columns:
    """The columns of images and labels.

    Raises:
        ValueError: There are none, or several, or the images are not bytes.
    """
    from pyarrow import types

    structs = [field.name for field in schema if types.is_struct(field.type)]
    class_labels = [field.name for field in schema if _label_names(schema, field.name)]
    image = _column("image", "Image", schema.names, structs, file)
    label = _column("label", "ClassLabel", schema.names, class_labels, file)
    kind = schema.field(image).type
    data = kind
    if types.is_struct(kind):
        position = kind.get_field_index("bytes")
        if position >= 0:
            data = kind.field(position).type
    if not types.is_binary(data) and not types.is_large_binary(data):
        raise ValueError(
            f"the column {image!r} of {file} must hold images as bytes; got {kind}. {_IN_PYTHON}"
        )
    return _Columns(image, label, str(kind), tuple(_label_names(schema, label)))


def _column(name: str, kind: str, columns: list[str], of_kind: list[str], file: Path) -> str:
    """The column of this name, or else the only one, `of_kind`, of Hugging Face's type `kind`."""
    if name in columns:
        return name
    if len(of_kind) != 1:
        raise ValueError(
            f"{file} has the columns {columns}; it must have one called {name!r}, or a single one "
            f"of Hugging Face's type {kind}"
        )
    return of_kind[0]


def _label_names(schema: Any, column: str) -> list[str]:
    """The class names that Hugging Face's library stores for a column; empty if there are none."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return []
    try:
        names = parse_json(stored)["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):  # a column of another type, or damaged JSON
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    return unique_names(names)
