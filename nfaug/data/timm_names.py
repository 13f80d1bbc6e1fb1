"""Readers of data sets that timm opens by name: torchvision's and the Hugging Face Hub's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .class_folders import MissingSplitError, split_kind
from .classes import numbered
from .file_readers import FileReader
from .readers import Reader
from .torch_datasets import DatasetReader

__all__ = ["PREFIXES", "open_timm"]

PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")
TRAIN_AND_TEST = {"cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist"}
FOLDERS = {"image_folder", "folder"}


def open_timm(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    options: Mapping[str, Any] | None = None,
) -> Reader:
    """Open `torch/NAME` or `hfds/NAME` with `timm.data.create_dataset`.

    torchvision's data sets are kept in `data_dir`, by default `~/.cache/nfaug/datasets`; the Hub's
    are kept in its own cache. `options` are passed to timm: `input_key` and `target_key` name the
    columns of a data set of the Hub.

    Raises:
        ModuleNotFoundError: If timm is not installed.
        MissingSplitError: If the data set does not have the split.
        ValueError: If timm cannot open it, or can only stream it. The message gives the reason.
    """
    prefix, _, rest = name.lower().partition("/")
    if prefix not in ("torch", "hfds"):
        raise ValueError(
            f"{name!r} is a stream without a length; use torch/NAME or hfds/NAME, or unpack it to "
            "a folder of class folders"
        )
    if prefix == "torch" and rest in FOLDERS:
        raise ValueError(f"{name!r} is a folder on this machine; pass its path instead")
    two_splits = prefix == "torch" and rest in TRAIN_AND_TEST
    if two_splits and split_kind(split) not in ("train", "test"):  # timm would use the test images
        raise MissingSplitError(f'{name!r} has the splits "train" and "test"; got split={split!r}')
    try:
        from timm.data.dataset_factory import create_dataset
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{name!r} is opened by timm: pip install "nfaug[train]"'
        ) from error
    root = None if data_dir is None else str(data_dir)
    if prefix == "torch" and root is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = str(Path(cache, "nfaug", "datasets"))
    try:
        dataset = create_dataset(
            name,
            root=root,
            split=split,
            download=download and prefix == "torch",  # the Hub's client always downloads
            **(options or {}),
        )
    except Exception as error:  # each library raises its own types
        raise ValueError(
            f"timm could not open {name!r} (split={split!r}, data_dir={root!r}, "
            f"download={download}): {type(error).__name__}: {error}"
        ) from error
    complete = split_kind(split) == "train"
    if prefix == "hfds":
        return HubReader(dataset.reader, name, complete)
    reader = DatasetReader(dataset, complete=complete)
    reader.where = repr(name)
    return reader


class HubReader(FileReader):
    """A data set of the Hugging Face Hub, through timm's reader, which keeps images encoded."""

    threads = False

    def __init__(self, reader: Any, name: str, complete: bool) -> None:
        self.reader, self.where, self.complete = reader, repr(name), complete
        table = reader.dataset
        # timm adds a column of None if the column of images is missing.
        columns = [key for key in table.column_names if not len(table) or table[0][key] is not None]
        if not {reader.image_key, reader.label_key} <= {*columns}:
            raise ValueError(
                f"{name!r} has the columns {columns}, not {reader.image_key!r} of images and "
                f"{reader.label_key!r} of labels; name them with input_key and target_key in "
                "timm_options"
            )
        self.targets = torch.tensor(list(table[reader.label_key]), dtype=torch.int64)
        names = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
        self.classes = names or numbered(self.targets)

    def name(self, index: int) -> str:
        return f"image {index} of {self.where}"

    def read_bytes(self, index: int) -> bytes:
        stream = self.reader[index][0]
        with stream:
            return bytes(stream.read())

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        # The datasets library keeps a hash of each table.
        yield f"{self.reader.dataset._fingerprint}\0{list(indices)}".encode()
