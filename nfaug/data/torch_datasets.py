"""Data sets of other libraries: any torch data set of (image, label), and those that timm names."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from .class_folders import MissingSplitError, split_kind
from .classes import dataset_classes, numbered, stored_labels, whole_labels
from .decode import upright
from .file_readers import FileReader
from .images import LabelledImages, assemble, run_over
from .readers import ImageDecodeError, Reader

__all__ = ["PREFIXES", "DatasetReader", "HubReader", "open_timm", "wrap_dataset"]

PROBES = 64  # images that the fingerprint covers
PREFIXES = ("torch", "hfds", "hfids", "tfds", "wds")
TRAIN_AND_TEST = {"cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist"}
FOLDERS = {"image_folder", "folder"}


def wrap_dataset(
    dataset: Dataset[Any] | Sequence[tuple[Any, int]],
    *,
    classes: Sequence[str] | None = None,
    complete: bool = True,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    convert: bool = True,
) -> LabelledImages:
    """Convert a data set, or a list, of (image, label) to what `open_dataset` returns.

    Items may also be mappings with the keys "image" and "label", as in a Hugging Face `Dataset`.

    An image is a PIL image, a uint8 tensor or array of shape (H, W) or (C, H, W) with any C, or a
    floating-point one of that shape in [0, 1], which is rounded to 8 bits. A PIL image that still
    carries an EXIF orientation is turned upright. Labels are read from `.targets`, `.labels`, a
    column `label` or a `TensorDataset`, also below `Subset` and `ConcatDataset`, if three items
    agree with them. Otherwise one pass over the items collects them.

    Args:
        dataset: The data set. Its random transforms stay random. A `LabelledImages` is returned
            unchanged unless `image_size` or `channels` is given.
        classes: Class names. None means those that the data set has (see `dataset_classes`), or
            else the numbers of the labels.
        complete: Whether every class must have an image. False for a held-out set.
        image_size: (H, W), or the side of a square, to resize and crop to. None means the size of
            the first image, and another size is then an error.
        channels: Channels of the result. None means those of the images.
        convert: Whether colour images may become grayscale if `channels` is 1.

    Raises:
        ValueError: If items are of another form, labels are not 0..K-1, or a class has no image.

    Example:
        >>> images = [(torch.zeros(3, 8, 8, dtype=torch.uint8), label) for label in (0, 1)]
        >>> wrap_dataset(images, classes=["cat", "dog"], image_size=4)[1][0].shape
        torch.Size([3, 4, 4])
    """
    if isinstance(dataset, LabelledImages) and image_size is channels is None:
        return dataset
    if isinstance(dataset, IterableDataset | Mapping) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"a data set must have a length and items by index; got {type(dataset).__name__}. "
            "Pass one split of a mapping, such as data['train']; collect a stream into a list or a "
            "TensorDataset"
        )
    reader = DatasetReader(dataset, classes, complete)
    return assemble(reader, image_size=image_size, channels=channels, convert=convert)


class DatasetReader(Reader):
    """The items of a torch data set."""

    def __init__(
        self, dataset: Any, classes: Sequence[str] | None = None, complete: bool = True
    ) -> None:
        self.dataset, self.complete = dataset, complete
        self.kind = type(dataset).__name__
        self.where = f"the data set ({self.kind})"
        labels: Any = stored_labels(dataset)
        # A wrapper may have changed the stored labels.
        probes = {0, len(dataset) // 2, len(dataset) - 1} if len(dataset) else set()
        if labels is None or any(self._label(index) != labels[index] for index in probes):
            labels = [*run_over(self._label, len(dataset), "reading labels", threads=False)]
        self.targets = torch.as_tensor(labels, dtype=torch.int64)
        if classes is None and not isinstance(dataset, list | tuple):
            classes = dataset_classes(dataset)
        self.classes = numbered(self.targets) if classes is None else list(classes)

    def name(self, index: int) -> str:
        return f"item {index} of the {self.kind}"

    def read(self, index: int) -> Image.Image | Tensor:
        try:
            image = self._item(index)[0]
        except OSError as error:
            raise ImageDecodeError(f"{self.name(index)} cannot be read ({error})") from error
        if isinstance(image, Image.Image):
            return upright(image)
        return _to_uint8(image, self.name(index))

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        places = torch.linspace(0, len(indices) - 1, min(PROBES, len(indices))).long()
        for place in places.tolist():
            image = self.read(indices[place])
            yield image.tobytes() if isinstance(image, Image.Image) else image.numpy().tobytes()

    def _item(self, index: int) -> tuple[Any, Any]:
        item = self.dataset[index]
        if isinstance(item, Mapping):
            if not {"image", "label"} <= item.keys():
                raise ValueError(
                    f"{self.name(index)} must have the keys 'image' and 'label'; got "
                    f"{sorted(map(str, item))}. Rename the columns, or pass pairs (image, label)"
                )
            return item["image"], item["label"]
        if not isinstance(item, tuple | list) or len(item) != 2:
            found = type(item).__name__
            found += f" of {len(item)}" if isinstance(item, tuple | list) else ""
            hint = "; pass TensorDataset(images, labels)" if isinstance(item, Tensor) else ""
            raise ValueError(f"{self.name(index)} must be (image, label); got {found}{hint}")
        return item[0], item[1]

    def _label(self, index: int) -> int:
        value = self._item(index)[1]
        array = np.asarray(value)
        if array.ndim or array.dtype.kind not in "iu":
            hint = "; map class names to integers first" if isinstance(value, str) else ""
            raise ValueError(
                f"labels must be integers 0..K-1; {self.name(index)} has the label {value!r}{hint}"
            )
        return int(array)


def _to_uint8(image: Any, name: str) -> Tensor:
    image = torch.tensor(image) if isinstance(image, np.ndarray) else image
    if not isinstance(image, Tensor):
        found = type(image).__name__
        raise ValueError(f"{name} must have a PIL image, a tensor or an array; got {found}")
    shape = tuple(image.shape)
    swapped = len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) > 4
    if len(shape) not in (2, 3) or 0 in shape or swapped:
        hint = ", which looks like (H, W, C): permute it" if swapped else ""
        raise ValueError(f"{name} must have shape (H, W) or (C, H, W); got {shape}{hint}")
    image = image if len(shape) == 3 else image[None]
    if image.is_floating_point():
        image = image.detach().float()
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):  # NaN fails too
            raise ValueError(
                f"{name} is floating point and must lie in [0, 1]; got values from {low:g} to "
                f"{high:g}. Remove the normalisation by mean and std"
            )
        image = (image * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise ValueError(f"{name} must be uint8, or floating point in [0, 1]; got {image.dtype}")
    return image.cpu()


def open_timm(
    name: str,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    options: Mapping[str, Any] | None = None,
) -> Reader:
    """Open `torch/NAME` or `hfds/NAME` with `timm.data.create_dataset`.

    torchvision's data sets are kept in `data_dir`, by default `~/.cache/nfaug/datasets`; the Hub's
    are kept in `data_dir`, by default in the cache of the library `datasets`. After `hfds/` a path
    of a folder of parquet files may stand. `options` are passed to timm: `input_key` and
    `target_key` name the columns of a data set of the Hub.

    Raises:
        ModuleNotFoundError: If timm, or datasets for `hfds/NAME`, is not installed.
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
    if prefix == "hfds" and importlib.util.find_spec("datasets") is None:
        raise ModuleNotFoundError(f"{name!r} is read by datasets: pip install 'nfaug[datasets]'")
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
        if "Unknown split" in str(error):
            raise MissingSplitError(f"{name!r} has no split {split!r}: {error}") from error
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
        column = f"the column {reader.label_key!r} of {name!r}"
        self.targets = whole_labels(list(table[reader.label_key]), column)
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
