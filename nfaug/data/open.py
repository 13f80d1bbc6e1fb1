"""Open a data set by a path or a name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from .arrays import is_idx_folder, open_digits, open_idx, open_npz
from .checks import check_labels
from .class_folders import MissingSplitError
from .decode import MAX_PIXELS, ImageDecodeError
from .file_readers import FolderReader, TarReader, is_tar
from .images import LabelledImages, TensorImages, assemble, split_per_class, to_tensors
from .readers import Reader
from .shards import is_wds_tar, open_shards, open_wds_name, open_wds_tar
from .torch_datasets import PREFIXES, open_timm, wrap_dataset

__all__ = [
    "DATA_SOURCES",
    "ImageDecodeError",
    "LabelledImages",
    "MissingSplitError",
    "TensorImages",
    "check_labels",
    "open_dataset",
    "split_per_class",
    "to_tensors",
    "wrap_dataset",
]

DATA_SOURCES = (
    "a folder of class folders (class/name.jpg), or of images with a labels.csv (file,label), with "
    "or without train, val and test folders around them; a tar of such a folder; a .npz file with "
    "the arrays images and labels; a folder of IDX files (train-images-idx3-ubyte.gz, ...); a "
    "folder of WebDataset shards (.tar) or parquet files; a timm "
    'name such as "torch/cifar10" or "hfds/ylecun/mnist"; "digits"'
)


def open_dataset(
    data: str | os.PathLike[str],
    *,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    convert: bool = True,
    scale_16_bit: bool = False,
    max_pixels: int = MAX_PIXELS,
    per_class: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    download: bool = False,
    labels: bool = True,
    timm_options: Mapping[str, Any] | None = None,
) -> LabelledImages:
    """Open labelled images: item i is a contiguous uint8 tensor (C, H, W) and an int label.

    `data` is one of:

    - a folder of class folders, or a tar of one (see `class_folders.arrange`: classes are in timm's
      order, and `split` selects train, val and test folders);
    - a folder of images with a `labels.csv`, whose header is `file,label`, or a tar of one;
    - a .npz file with the arrays `images` and `labels` (see `arrays.open_npz`);
    - a folder of IDX files with MNIST's names, with or without .gz;
    - a folder of WebDataset shards or of parquet files (see `shards.open_shards`), one such tar, or
      `wds/` and a pattern such as wds/shards/train-{0000..0099}.tar;
    - a timm name that starts with `torch/`, `hfds/` or `wds/` (write a folder of that name as
      `./torch/...`);
    - `digits`: scikit-learn's handwritten digits in a fixed split (see `arrays.open_digits`).

    Args:
        data: The data, as above.
        split: "train", "validation", "test", a usual word for one of them, or a folder's name.
        data_dir: Where named data sets are kept.
        image_size: (H, W), or the side of a square, to resize and crop to. None means the size of
            the first image, and another size is then an error.
        channels: 1 or 3. None means 1 if 64 images spread over the data are all grayscale, and 3
            otherwise. A colour image in data that are read as grayscale is then an error.
        convert: Whether colour images may become grayscale if `channels` is 1.
        scale_16_bit: Whether images of 16 bits per channel are scaled to 8 bits. If not, they are
            an error, or skipped.
        max_pixels: The largest number of pixels of an image, before and after resizing.
        per_class: Use this many random images of each class.
        on_error: "raise" an error at an image that cannot be decoded, or "skip" such images, for
            which all images are decoded once when the data set is opened.
        seed: Seed of the choice of `per_class`.
        download: Whether a named data set may be downloaded.
        labels: Whether the folders in a folder or a tar are classes. If not, all its images, at any
            depth, are one class. Other data keep their labels.
        timm_options: More arguments for `timm.data.create_dataset`.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        MissingSplitError: If the data do not have the split; a ValueError.
        ImageDecodeError: If one of the first images cannot be decoded; a ValueError.
        ValueError: If the data are of no kind above, are empty or damaged, a class has no image, or
            an argument is out of range.

    Example:
        >>> digits = open_dataset("digits", split="test")
        >>> len(digits), digits[0][0].shape, digits.classes[:3]
        (355, torch.Size([1, 8, 8]), ['0', '1', '2'])
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grayscale), 3 (RGB) or None; got {channels}")
    if max_pixels < 1:
        raise ValueError(f"max_pixels must be at least 1; got {max_pixels}")
    if (most := Image.MAX_IMAGE_PIXELS) is not None and max_pixels > 2 * most:
        raise ValueError(
            f"max_pixels must be at most {2 * most}, twice PIL.Image.MAX_IMAGE_PIXELS; got "
            f"{max_pixels}. Raise that limit as well"
        )
    if not isinstance(data, str | os.PathLike) or not os.fspath(data):
        raise ValueError(
            f"data must be {DATA_SOURCES}; got {data!r} (pass a torch data set to wrap_dataset)"
        )
    name = os.fspath(data)
    reader: Reader
    if name == "digits":
        reader = open_digits(split)
    elif isinstance(data, str) and "/" in name and name.partition("/")[0].lower() in PREFIXES:
        if name.lower().startswith("wds/"):
            reader = open_wds_name(name, split, data_dir)
        else:
            reader = open_timm(name, split, data_dir, download, timm_options)
    else:
        cache = None if data_dir is None else os.fspath(data_dir)
        reader = _open_path(name, split, labels, cache)
    reader.max_pixels = max_pixels
    dataset: LabelledImages = assemble(
        reader,
        image_size=image_size,
        channels=channels,
        convert=convert,
        scale_16_bit=scale_16_bit,
        on_error=on_error,
    )
    if per_class is not None:
        dataset, _ = split_per_class(dataset, per_class, seed)
    return dataset


def _open_path(name: str, split: str, labels: bool, cache: str | None) -> Reader:
    path = Path(name).expanduser()
    if path.is_dir():
        if (shards := open_shards(path, split, cache)) is not None:
            return shards
        idx = is_idx_folder(path)
        return open_idx(path, split) if idx else FolderReader(path, split, labels=labels)
    if not path.exists():
        raise FileNotFoundError(f"there is no {name!r}; data must be {DATA_SOURCES}")
    if path.is_file() and path.suffix.lower() == ".npz":
        return open_npz(path, split)
    if path.is_file() and (".tar" in path.suffixes or is_tar(path)):
        if is_wds_tar(path):
            return open_wds_tar(path, split)
        return TarReader(path, split, labels=labels)
    raise ValueError(f"{name!r} cannot be read as images; data must be {DATA_SOURCES}")
