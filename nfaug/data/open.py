"""Opening a data set by what a user can type: a folder, a tar, a name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .arrays import is_idx_folder, open_digits, open_idx
from .files import FolderReader, TarReader
from .images import LabelledImages, TensorImages, split_per_class, to_tensors, validate_labels
from .layout import MissingSplitError
from .readers import ImageDecodeError, Reader, assemble
from .timm_names import PREFIXES, open_timm
from .wrap import wrap_dataset

__all__ = [
    "ImageDecodeError",
    "LabelledImages",
    "MissingSplitError",
    "TensorImages",
    "open_dataset",
    "split_per_class",
    "to_tensors",
    "validate_labels",
    "wrap_dataset",
]

ACCEPTED = (
    "a folder of class folders (class/name.jpg), with or without train, val and test folders "
    "around them; a tar of such a folder; a folder of IDX files (train-images-idx3-ubyte.gz, ...); "
    'a timm name such as "torch/cifar10" or "hfds/ylecun/mnist"; "digits"'
)


def open_dataset(
    data: str | os.PathLike[str],
    *,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    per_class: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    download: bool = False,
    labels: bool = True,
    timm_options: Mapping[str, Any] | None = None,
) -> LabelledImages:
    """Open labelled images: item i is a contiguous uint8 tensor (C, H, W) and an int label.

    `data` is one of:

    - a folder of class folders, or a tar of one (see `layout.arrange`: classes are in timm's order,
      train, val and test folders are picked by `split`);
    - a folder of IDX files under MNIST's names, with or without .gz;
    - a timm name that begins with `torch/` or `hfds/` (a folder of that name is `./torch/...`);
    - `digits`: scikit-learn's handwritten digits in a fixed split (see `arrays.open_digits`).

    Args:
        data: The data, as above.
        split: "train", "validation", "test", a usual word for one of them, or a folder's name.
        data_dir: Where named data sets are kept.
        image_size: (H, W), or the side of a square, to resize and crop to; None for the size of
            the first image, and then an image of another size is an error.
        channels: 1 or 3; None for 1 if 64 images spread over the data are all grayscale, else 3.
            A colour image among data that were taken for grayscale is an error.
        per_class: Take this many random images of each class.
        on_error: What an image that cannot be decoded does: "raise" an error when it is reached, or
            be left out ("skip"), for which everything is decoded once now.
        seed: Seed of the choice of `per_class`.
        download: Whether a named data set may be downloaded.
        labels: Whether the folders in a folder or a tar are classes; if not, all its images, at any
            depth, are one class. Other data keep their labels.
        timm_options: More arguments for `timm.data.create_dataset`.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        MissingSplitError: If the data have no such split; a ValueError.
        ImageDecodeError: If one of the first images cannot be decoded; a ValueError.
        ValueError: If the data are of no kind above, are empty or damaged, a class has no image, or
            an argument is out of range.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grayscale), 3 (RGB) or None, got {channels}")
    reader = _open(data, split, data_dir, download, labels, timm_options)
    dataset: LabelledImages = assemble(
        reader, image_size=image_size, channels=channels, on_error=on_error
    )
    if per_class is not None:
        dataset, _ = split_per_class(dataset, per_class, seed)
    return dataset


def _open(
    data: str | os.PathLike[str],
    split: str,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    labels: bool,
    timm_options: Mapping[str, Any] | None,
) -> Reader:
    if not isinstance(data, str | os.PathLike) or not os.fspath(data):
        raise ValueError(
            f"data must be {ACCEPTED}; got {data!r} (a torch data set goes to wrap_dataset)"
        )
    name = os.fspath(data)
    if name == "digits":
        return open_digits(split)
    if isinstance(data, str) and "/" in name and name.partition("/")[0].lower() in PREFIXES:
        return open_timm(name, split, data_dir, download, timm_options)
    path = Path(name).expanduser()
    if path.is_dir():
        if is_idx_folder(path):
            return open_idx(path, split)
        return FolderReader(path, split, labels=labels)
    if path.is_file():
        return TarReader(path, split, labels=labels)
    raise FileNotFoundError(f"there is no {name!r}; data must be {ACCEPTED}")
