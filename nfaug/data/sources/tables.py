"""Parquet files, on disk or of the Hugging Face Hub, whose rows hold the bytes of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...io.strict_json import parse_json
from ..classes import as_labels, class_names, numbered
from ..decode import ImageDecodeError
from ..readers import FileReader, Reader, Request
from .layout import shards_of

__all__ = ["open_hub", "open_parquet"]

PARQUET = ".parquet"
MOST_BYTES = 2**33  # bytes of encoded images that are kept in memory
_ROWS = 64  # that are read at once
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
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{request.data} needs pyarrow: pip install 'nfaug[parquet]'"
        ) from error
    chosen = [root / file for file in shards_of(files, request.split, request.data)]
    batches = []
    labels: list[Any] = []
    size = 0
    schema = None
    for file in chosen:
        try:
            with parquet.ParquetFile(file) as table:
                schema = schema or table.schema_arrow
                if not table.schema_arrow.equals(schema, check_metadata=True):
                    raise ValueError(f"its columns or class names are not those of {chosen[0]}")
                image = _column(schema, "image")
                label = _column(schema, "label")
                for batch in table.iter_batches(_ROWS, columns=[image, label]):
                    labels += batch.column(label).to_pylist()
                    batches.append(batch.column(image))
                    size += batch.nbytes
                    if size > MOST_BYTES:
                        raise ValueError(
                            f"the images take more than {MOST_BYTES} bytes of memory. {_IN_PYTHON}"
                        )
        except (ArrowException, OSError, ValueError, KeyError) as error:
            raise ValueError(f"{file} is damaged, or cannot be read ({error})") from error
    names = _label_names(schema, label)
    if all(isinstance(value, str) for value in labels):
        names = sorted(set(labels))
        index = {name: number for number, name in enumerate(names)}
        labels = [index[name] for name in labels]
    targets = as_labels(labels, len(labels))
    if targets is None:
        raise ValueError(f"the column {label!r} of {request.data} must hold whole numbers or words")
    return TableReader(
        where=request.data,
        classes=names or numbered(targets),
        targets=torch.from_numpy(targets),
        batches=batches,
        starts=np.cumsum([0, *map(len, batches)]),
    )


def open_hub(request: Request) -> Reader:
    """Read the parquet files of `hfds/OWNER/NAME`, or of a folder `hfds/OWNER/NAME/FOLDER` in it.

    Those of the split are downloaded into the Hub's cache, or into `data_dir`. Nothing else of the
    repository is read. In the client's offline mode (HF_HUB_OFFLINE) the cache is used.
    """
    from huggingface_hub import snapshot_download

    from ...io.hub import hub_errors  # other data need no client

    parts = request.data.split("/")[1:]
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"{request.data!r} must be hfds/OWNER/NAME; pass a folder by its path")
    name = "/".join(parts[:2])
    home = "".join(f"{part}/" for part in parts[2:])
    with hub_errors(f"the data set {name}"):
        sizes = _listed(name, request.data_dir)
    files = [path for path in sizes if path.startswith(home) and path.endswith(PARQUET)]
    if not files:
        raise ValueError(f"{name} on the Hub has no parquet files in {home or 'it'}. {_IN_PYTHON}")
    chosen = shards_of(files, request.split, request.data)
    total = sum(sizes[path] for path in chosen)
    if total > MOST_BYTES:
        raise ValueError(
            f"the files of {request.data} have {total} bytes, over {MOST_BYTES}. {_IN_PYTHON}"
        )
    with hub_errors(f"the data set {name}"):
        root = snapshot_download(
            name, repo_type="dataset", allow_patterns=chosen, cache_dir=request.data_dir
        )
    return open_parquet(Path(root), chosen, request)


def _listed(name: str, cache: str | None) -> dict[str, int]:
    """The size of every file of a data set on the Hub; in offline mode, of those in the cache."""
    from huggingface_hub import HfApi, constants, scan_cache_dir
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        tree = HfApi().list_repo_tree(name, recursive=True, repo_type="dataset")
        return {entry.path: getattr(entry, "size", 0) for entry in tree}
    except OfflineModeIsEnabled:
        found = scan_cache_dir(cache or constants.HF_HUB_CACHE)
        refs = {(repo.repo_type, repo.repo_id): repo.refs for repo in found.repos}
        main = refs.get(("dataset", name), {}).get("main")
        if main is None:  # the error says that the client is offline
            raise
        home = main.snapshot_path
        return {
            file.file_path.relative_to(home).as_posix(): file.size_on_disk for file in main.files
        }


@dataclass(eq=False, kw_only=True)
class TableReader(FileReader):
    """Encoded images in memory: arrow arrays, the first of whose rows are `starts`."""

    batches: list[Any]
    starts: np.ndarray

    def read_bytes(self, index: int) -> bytes:
        batch = int(np.searchsorted(self.starts, index, side="right")) - 1
        stored = self.batches[batch][index - int(self.starts[batch])].as_py()
        data = stored.get("bytes") if isinstance(stored, Mapping) else stored
        if isinstance(stored, Mapping) and not data and stored.get("path"):
            raise ValueError(
                f"{self.name(index)} names a file, {stored['path']!r}, and only bytes in the table "
                f"are read. {_IN_PYTHON}"
            )
        if not data:
            raise ImageDecodeError(
                f'{self.name(index)} is empty; remove this row, or skip it with on_error="skip"'
            )
        return bytes(data)


def _column(schema: Any, name: str) -> str:
    """The column of this name ("image" or "label"), or the only one that can be it."""
    from pyarrow import types

    if name in schema.names:
        found = [name]
    elif name == "image":
        found = [field.name for field in schema if types.is_struct(field.type)]
    else:
        found = [field.name for field in schema if _label_names(schema, field.name)]
    if len(found) != 1:
        raise ValueError(
            f"it has the columns {schema.names}; it must have one called {name!r}, or a single one "
            f"of Hugging Face's type {'Image' if name == 'image' else 'ClassLabel'}"
        )
    column = schema.field(found[0]).type
    if types.is_struct(column):
        column = column.field("bytes").type
    binary = types.is_binary(column) or types.is_large_binary(column)
    if name == "image" and not binary:
        raise ValueError(f"its column {found[0]!r} must hold images as bytes; got {column}")
    return str(found[0])


def _label_names(schema: Any, column: str) -> list[str] | None:
    """The class names that Hugging Face's library stores for a column, if there are any."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    try:
        names = parse_json(stored)["info"]["features"][column]["names"]
    except (KeyError, TypeError):  # a column of another type
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return class_names(names)
