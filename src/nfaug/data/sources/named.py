"""Images by name: those that come with nfaug, and datasets of torchvision as timm names them."""

from __future__ import annotations

from pathlib import Path

from ...io.extras import optional_imports
from ...io.text import did_you_mean
from ..source import Request, Source
from ..torch_datasets import DatasetSource
from .layout import choose_split
from .tars import open_tar

BUNDLED = Path(__file__).parents[2] / "builtin" / "images"
TRAIN_AND_TEST = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")


def open_bundled(request: Request) -> Source:
    """Open `builtin:NAME`, images that come with nfaug in a tar of the splits train and test."""
    files = {f"builtin:{file.stem}": file for file in sorted(BUNDLED.glob("*/*.tar"))}
    file = files.get(request.data)
    if file is None:
        raise FileNotFoundError(
            f"no images come with nfaug as {request.data!r}; there are {', '.join(files)}"
        )
    return open_tar(file, request)


def open_torchvision(request: Request) -> Source:
    """Open `torch/NAME` with `timm.data.create_dataset`; a hyphen in NAME is an underscore.

    Data are kept in `data_dir`, by default `~/.cache/nfaug/datasets`.
    """
    name = request.data.lower().partition("/")[2].replace("-", "_")
    name = {"fashionmnist": "fashion_mnist"}.get(name, name)  # torchvision's class
    split = request.split
    if name in TRAIN_AND_TEST:  # timm gives test images for all but "train" and "training"
        split = choose_split(("train", "test"), split, request.data)
    root = request.data_dir or str(Path.home() / ".cache" / "nfaug" / "datasets")
    try:
        with optional_imports():
            from timm.data.dataset_factory import create_dataset

            dataset = create_dataset(
                f"torch/{name}", root=root, split=split, download=request.download
            )
    except ModuleNotFoundError:
        raise
    except Exception as error:  # each dataset raises its own types
        meant = "" if name in TRAIN_AND_TEST else did_you_mean(name, TRAIN_AND_TEST)
        raise ValueError(
            f"timm could not open {request.data!r} (split={request.split!r}, data_dir={root!r}, "
            f"download={request.download}): {type(error).__name__}: {error}{meant}"
        ) from error
    return DatasetSource(dataset, progress=request.progress)
