"""Datasets of torchvision by the names that timm gives them."""

from __future__ import annotations

from pathlib import Path

from ..readers import Reader, Request
from ..torch_datasets import DatasetReader
from .layout import choose_split

__all__ = ["open_torchvision"]

TRAIN_AND_TEST = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")


def open_torchvision(request: Request) -> Reader:
    """Open `torch/NAME` with `timm.data.create_dataset`.

    Data are kept in `data_dir`, by default `~/.cache/nfaug/datasets`.
    """
    name = request.data.lower().partition("/")[2]
    if name in TRAIN_AND_TEST:  # timm would give test images for "validation"
        choose_split(("train", "test"), request.split, request.data)
    root = request.data_dir or str(Path.home() / ".cache" / "nfaug" / "datasets")
    try:
        from timm.data.dataset_factory import create_dataset  # pip install "nfaug[train]"

        dataset = create_dataset(
            request.data, root=root, split=request.split, download=request.download
        )
    except Exception as error:  # each dataset raises its own types
        raise ValueError(
            f"timm could not open {request.data!r} (split={request.split!r}, data_dir={root!r}, "
            f"download={request.download}): {type(error).__name__}: {error}"
        ) from error
    return DatasetReader(dataset)
