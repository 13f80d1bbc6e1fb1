"""Open a data set by a path or a name."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from .images import LabelledImages, assemble, split_per_class
from .readers import Reader, Request
from .sources.arrays import open_digits, open_idx, open_npz
from .sources.folders import open_folder
from .sources.layout import MissingSplitError
from .sources.named import open_torchvision
from .sources.tables import open_hub, open_parquet
from .sources.tars import open_tar, open_webdataset
from .torch_datasets import wrap_dataset

__all__ = ["DATA_SOURCES", "MissingSplitError", "open_dataset", "wrap_dataset"]

# What the user passes, in the words of the documentation, and the function that opens it, which
# returns None for data of another kind. Names come first: a folder may be called so. Image folders
# come before what may lie beside them.
SOURCES: dict[str, Callable[[Request], Reader | None]] = {
    "'digits', scikit-learn's handwritten digits": open_digits,
    "a data set of torchvision such as torch/cifar10": open_torchvision,
    "hfds/ and a data set of the Hugging Face Hub, such as hfds/ylecun/mnist, or a folder that the "
    "library datasets can load": open_hub,
    "a folder of class folders (class/name.jpg), with or without train, val and test folders "
    "around them": open_folder,
    "a tar of such a folder": open_tar,
    "a .npz file with the arrays images and labels": open_npz,
    "a folder of IDX files (train-images-idx3-ubyte.gz, ...)": open_idx,
    "a WebDataset shard (000.jpg, 000.cls) or a folder of shards": open_webdataset,
    "a parquet file or a folder of them": open_parquet,
}
DATA_SOURCES = "; ".join(SOURCES)


def open_dataset(
    data: str | os.PathLike[str],
    *,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    convert: bool = True,
    per_class: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    download: bool = False,
    labels: bool = True,
) -> LabelledImages:
    """Open labelled images: item i is a contiguous uint8 tensor (C, H, W) and an int label.

    Args:
        data: What `DATA_SOURCES` lists. Folders, tars and shards may have splits.
        split: "train", "validation", "test", a usual word for one of them, or a folder's name.
        data_dir: Where named data sets, and the cache of parquet files, are kept.
        image_size: (height, width), or the side of a square, to resize and crop every image to.
            None means the size of the first image, and another size is then an error.
        channels: 1 or 3. None means 1 if 64 images spread over the data are all grayscale, and 3
            otherwise. A colour image in data that are read as grayscale is then an error.
        convert: Whether colour images may become grayscale if `channels` is 1.
        per_class: Use this many random images of each class.
        on_error: "raise" an error at an image that cannot be decoded, or "skip" such images, for
            which all images are decoded once when the data set is opened.
        seed: Seed of the choice of `per_class`.
        download: Whether a data set of torchvision may be downloaded.
        labels: Whether the folders in a folder or a tar are classes. If not, all its images, at any
            depth, are one class. Other data keep their labels.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the data are of no kind above, are empty or damaged, or an argument is out of
            range. A `MissingSplitError` is one, if the data do not have the split, and so is an
            `ImageDecodeError`, if one of the first images cannot be decoded.

    Example:
        >>> digits = open_dataset("digits", split="test")
        >>> len(digits), digits[0][0].shape, digits.classes[:3]
        (355, torch.Size([1, 8, 8]), ['0', '1', '2'])
    """
    if not isinstance(data, str | os.PathLike) or not os.fspath(data):
        raise ValueError(
            f"data must be {DATA_SOURCES}; got {data!r} (pass a torch data set to wrap_dataset)"
        )
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grayscale), 3 (RGB) or None; got {channels!r}")
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    dataset: LabelledImages = assemble(
        _reader(Request(os.fspath(data), split, folder, download, labels)),
        image_size=image_size,
        channels=channels,
        convert=convert,
        on_error=on_error,
    )
    return dataset if per_class is None else split_per_class(dataset, per_class, seed)[0]


def _reader(request: Request) -> Reader:
    for open_source in SOURCES.values():
        if (reader := open_source(request)) is not None:
            return reader
    if not request.path.exists():
        raise FileNotFoundError(
            f"there is no file or folder {request.data!r}; data sets with a name are 'digits', "
            "torch/NAME and hfds/OWNER/NAME"
        )
    raise ValueError(f"{request.data!r} holds no images; data must be {DATA_SOURCES}")
