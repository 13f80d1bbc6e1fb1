"""Data sets of torchvision by the names that timm gives them."""

from __future__ import annotations

import os
from pathlib import Path

from ..readers import Reader, Request, Source
from ..torch_datasets import DatasetReader
from .layout import MissingSplitError, split_kind

__all__ = ["TIMM"]

STREAMS = ("hfids", "tfds")
TRAIN_AND_TEST = {"cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist"}


def open_timm(request: Request) -> Reader | None:
    """Open `torch/NAME` with `timm.data.create_dataset`.

    Data are kept in `data_dir`, by default `~/.cache/nfaug/datasets`. A folder of that name is
    written as `./torch/NAME`.
    """
    name, split = request.data, request.split
    prefix, _, rest = name.lower().partition("/")
    if prefix in STREAMS and rest:
        raise ValueError(
            f"{name!r} is a stream without a length; use torch/NAME or hfds/NAME, or unpack it to "
            "a folder of class folders"
        )
    if prefix != "torch" or not rest:
        return None
    if rest in ("image_folder", "folder"):
        raise ValueError(f"{name!r} is a folder on this machine; pass its path instead")
    if rest in TRAIN_AND_TEST and split_kind(split) not in ("train", "test"):  # timm would use test
        raise MissingSplitError(f'{name!r} has the splits "train" and "test"; got split={split!r}')
    try:
        from timm.data.dataset_factory import create_dataset
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{name!r} needs timm: pip install "nfaug[train]"') from error
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = request.data_dir or str(Path(cache, "nfaug", "datasets"))
    try:
        dataset = create_dataset(name, root=root, split=split, download=request.download)
    except Exception as error:  # each data set raises its own types
        raise ValueError(
            f"timm could not open {name!r} (split={split!r}, data_dir={root!r}, "
            f"download={request.download}): {type(error).__name__}: {error}"
        ) from error
    reader = DatasetReader(dataset, complete=split_kind(split) == "train")
    reader.where = repr(name)
    return reader


TIMM = Source("a data set of torchvision such as torch/cifar10", open_timm)
