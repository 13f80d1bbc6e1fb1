"""Open labelled images: by a path or a name, or those of a torch dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from ..io.numbers import as_size
from ..io.progress import progress_bar
from ..io.text import did_you_mean, printable
from .image_files import IMAGE_ENDINGS, ImageDecodeError
from .images import Images, headers_of, run_over
from .kinds import DATA_SOURCES
from .source import Request, Source
from .sources.arrays import open_digits, open_npz
from .sources.contents import sort_out, warn_of_unknown
from .sources.folders import head_of, list_files, open_folder
from .sources.layout import natural_key
from .sources.named import open_bundled, open_torchvision
from .sources.tars import open_tar, open_webdataset
from .torch_datasets import DatasetSource, check_dataset, images_of, normalization_of
from .view import View, Wanted

# Of the arguments of `open_dataset` that some data have no use for; of others it is None.
_DEFAULTS = {"split": "train", "labels": True, "download": False, "on_error": "raise"}
_TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
# What a folder of data may hold, by how the names of its files end. Only one of them is the data.
_IN_FOLDERS = {
    "images": IMAGE_ENDINGS,
    "WebDataset shards": (".tar",),
    "parquet files": (".parquet",),
    "IDX files": ("idx1-ubyte", "idx1-ubyte.gz", "idx3-ubyte", "idx3-ubyte.gz"),
}


def open_dataset(
    data: str | os.PathLike[str] | Dataset[Any] | Sequence[tuple[Any, int]],
    *,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    convert: bool = True,
    per_class: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    download: bool = False,
    labels: bool = True,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    progress: bool = True,
) -> Images:
    """Open labelled images: by a path or a name, or those of a torch dataset.

    A folder holds images, or shards of one kind; both together are an error, since only one of them
    could be the data. Files and folders whose names start with a dot are no data.

    An image of a torch dataset is a PIL image, a uint8 tensor or array of shape (H, W) or (C, H, W)
    with any C, or a floating-point one of that shape in [0, 1], which is rounded to 8 bits. A
    normalized one comes back to [0, 1] by `mean` and `std`, or by those of torchvision's
    `Normalize` at the end of the dataset's own transform. A PIL image is turned as its EXIF
    orientation says. Labels are those that the dataset stores (see `stored_labels`) if three items
    agree with them; otherwise one pass over the items collects them.

    Args:
        data: A folder with one folder of images for each class; a tar of one; WebDataset shards;
            a .npz file; or a name: "torch/NAME", "builtin:NAME" or "digits". The command
            `nfaug help data` lists them. Folders, tars and shards may have splits. Or a torch
            dataset, or a list, of (image, label) or of mappings with the keys "image" and "label",
            as of `datasets.load_dataset(...)`; its random transforms stay random. Images that are
            open are returned as they are, but for `classes`, `image_size`, `channels` and
            `per_class`.
        split: "train", "validation", "test", a usual word for one of them, or a folder's name.
        data_dir: Where named datasets are kept.
        classes: Class names in label order. None means those that the data have (see
            `dataset_classes`), or else the numbers of the labels.
        image_size: (height, width), or the side of a square, to resize and crop every image to; as
            the method `at` of the result does. None means the size of each image. If 64 images
            spread over the data have one size, an image of another size is an error.
        channels: 1 or 3; of a torch dataset any number. None means 1 if 64 images spread over the
            data are all grayscale, and 3 otherwise. A color image in data that are read as
            grayscale is then an error.
        convert: Whether color images may become grayscale if `channels` is 1.
        per_class: Use at most this many random images of each class.
        on_error: "raise" an error at an image that cannot be decoded, or "skip" such images, for
            which all images are decoded once when the dataset is opened.
        seed: Seed of the choice of `per_class`.
        download: Whether a dataset of torchvision may be downloaded.
        labels: Whether the folders in a folder or a tar are classes. If not, all its images, at any
            depth, are one class. Other data keep their labels.
        mean: Mean that floating-point images of a torch dataset are normalized by, a number or one
            per channel.
        std: Standard deviation that they are normalized by, like `mean`.
        progress: Show bars of what takes more than a second.

    Returns:
        A dataset: item i is a contiguous uint8 tensor (C, H, W) and a label, an int in [0, K). Its
        `classes` are the K names, and its `targets` the labels, int64 (N,).

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the data are of no kind above or of two, are empty or damaged, or an argument
            is out of range, or of no use for these data. A `MissingSplitError` is one, if the data
            do not have the split, and so is an `ImageDecodeError`, if the header of one of the
            first images cannot be read. Damaged pixels raise it when the image is read.

    Example:
        >>> from nfaug import open_dataset
        >>> digits = open_dataset("digits", split="test")
        >>> len(digits), digits[0][0].shape, digits.classes[:3]
        (355, torch.Size([1, 8, 8]), ['0', '1', '2'])
        >>> images = [(torch.zeros(3, 8, 8, dtype=torch.uint8), label) for label in (0, 1)]
        >>> open_dataset(images, classes=["cat", "dog"], image_size=4)[1][0].shape
        torch.Size([3, 4, 4])
    """
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together; got mean={mean} and std={std}")
    wanted = Wanted(channels, None if image_size is None else as_size(image_size))
    opened = images_of(data)
    if isinstance(data, str | os.PathLike):
        _refuse(data, mean=mean, std=std)
        if channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 (grayscale), 3 (RGB) or None; got {channels!r}")
        folder = None if data_dir is None else os.path.expanduser(data_dir)
        request = Request(os.fspath(data), split, folder, download, labels, progress)
        images = _images(_source(request), wanted, convert, on_error, progress)
    elif opened is None:
        check_dataset(data)
        _refuse(data, split=split, data_dir=data_dir, download=download, labels=labels)
        moments = normalization_of(data) if mean is None else (mean, std)
        source = DatasetSource(data, classes, moments=moments, progress=progress)
        images = _images(source, wanted, convert, on_error, progress)
    else:
        _refuse(data, split=split, data_dir=data_dir, download=download, labels=labels)
        _refuse(data, on_error=on_error, mean=mean, std=std)
        images = opened
        if wanted != Wanted():
            images = images.suited(wanted, None, convert=convert, progress=progress)
    if classes is not None:
        images = images.named(classes)
    if per_class is not None:
        images, _ = images.split(per_class=per_class, seed=seed)
    return images


def _refuse(data: Any, **arguments: Any) -> None:
    """Raise ValueError for an argument that is given and of no use for these data."""
    for name, value in arguments.items():
        default = _DEFAULTS.get(name)
        if value is default or (isinstance(value, str) and value == default):
            continue
        what = f"a {type(data).__name__}"
        if isinstance(data, str | os.PathLike):
            what = repr(os.fspath(data))
        raise ValueError(f"{name} is of no use for {what}; leave it out. Got {value!r:.40}")


def _images(source: Source, wanted: Wanted, convert: bool, on_error: str, progress: bool) -> Images:
    """The images of a source, in the view that is wanted.

    Raises:
        ValueError: There is no image, a label is out of range, or one of the first images has
            channels that are not converted.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip'; got {on_error!r}")
    rows = torch.arange(len(source.targets))
    skipped: list[str] = []
    where = source.where
    if on_error == "skip" and len(rows):
        # All images are decoded once here, so every process sees the same length and labels.
        decodable = torch.tensor(list(_decodable(source, progress)))
        skipped = [source.name(index) for index in rows[~decodable].tolist()]
        rows = rows[decodable]
    if skipped:
        where = f"{where} (without {len(skipped)} images that cannot be decoded)"
    if not len(rows):
        raise ValueError(f"{where} holds no images")
    labels = source.targets[rows]
    count = len(source.classes)
    wrong = labels[(labels < 0) | (labels >= count)]
    if len(wrong):
        raise ValueError(
            f"labels must be 0..{count - 1} for {count} classes; {where} has the label "
            f"{int(wrong[0])}"
        )
    if wanted.channels is not None and wanted.image_size is not None and convert:
        view = View(wanted.channels, wanted.image_size)  # no header is needed for it
    else:
        headers = headers_of(source, rows, progress=progress)
        view = View.for_(wanted, headers, None, convert=convert)
    return Images(source, view, rows, skipped)


def _decodable(source: Source, progress: bool) -> Iterator[bool]:
    """Whether each image can be decoded.

    All pixels are decoded, since the header of a truncated file is whole.
    """

    def decodes(index: int) -> bool:
        try:
            source.read(index)
        except ImageDecodeError:
            return False
        return True

    return run_over(
        decodes,
        range(len(source.targets)),
        "checking images",
        threads=source.threads,
        progress=progress,
    )


def _source(request: Request) -> Source:
    """The source of what is asked for, with a bar."""
    if not request.data:
        raise ValueError(f"data must be {DATA_SOURCES}, or a torch dataset; got {request.data!r}")
    with progress_bar(None, f"opening {printable(request.data)}", shown=request.progress):
        return _of_a_name(request)


def _of_a_name(request: Request) -> Source:
    """The source of a name, or else of a file or a folder."""
    if request.data == "digits":
        return open_digits(request)
    if request.data.lower().startswith("builtin:"):
        return open_bundled(request)
    if request.data.lower().startswith("torch/"):
        return open_torchvision(request)
    if request.data.lower().startswith("hfds/"):
        _, *repository = request.data.split("/")
        raise _read_in_python(request, repr("/".join(repository[:2])))
    path = request.path
    if path.is_dir():
        return _folder_source(path, request)
    if path.is_file():
        return _file_source(path, request)
    if path.exists():  # a pipe, which has no end
        raise _no_images(request.data)
    names = ["digits"]
    if path.parent.is_dir():
        names += [str(path.parent / name) for name in os.listdir(path.parent)]
    raise FileNotFoundError(
        f"there is no file or folder {request.data!r}{did_you_mean(request.data, names)} "
        "('nfaug help data' lists what data can be)"
    )


def _file_source(path: Path, request: Request) -> Source:
    """The source of a file."""
    name = path.name.lower()
    if name.endswith(_TARS):
        return open_tar(path, request)
    if name.endswith(".npz"):
        return open_npz(path, request)
    if name.endswith(".parquet"):
        raise _read_in_python(request, f"'parquet', data_files={str(path)!r}")
    raise _no_images(request.data)


def _folder_source(root: Path, request: Request) -> Source:
    """The source of the only kind of data that a folder holds."""
    all_files = list_files(root)
    found: dict[str, list[str]] = {}
    left = all_files
    for kind, endings in _IN_FOLDERS.items():
        files = [file for file in left if file.lower().endswith(endings)]
        if files:
            found[kind] = files
            left = [file for file in left if not file.lower().endswith(endings)]
    files, unknown = sort_out(left, lambda path: head_of(root / path))
    if files:
        found["images"] = sorted(found.get("images", []) + files, key=natural_key)
    if not found:
        raise _no_images(request.data)
    if len(found) > 1:
        shown = " and ".join(f"{kind} ({files[0]})" for kind, files in found.items())
        raise ValueError(
            f"{request.data!r} holds {shown}, and only one kind can be the data: move the others "
            "elsewhere"
        )
    warn_of_unknown(unknown, repr(request.data))
    if "images" in found:
        return open_folder(root, found["images"], unknown, request)
    if "WebDataset shards" in found:
        return open_webdataset(root, found["WebDataset shards"], request)
    if "IDX files" in found:
        raise ValueError(
            f"{request.data!r} holds IDX files, which torchvision reads: pass torch/mnist, "
            "torch/kmnist or torch/fashion_mnist, and as data_dir (--data-dir) the folder in which "
            "the files, without .gz, lie in MNIST/raw, KMNIST/raw or FashionMNIST/raw"
        )
    raise _read_in_python(request, repr(str(root)))


def _no_images(data: str) -> ValueError:
    """The error about a path without images."""
    return ValueError(f"{data!r} holds no images; data must be {DATA_SOURCES}")


def _read_in_python(request: Request, arguments: str) -> ValueError:
    """The error about data that the package datasets reads, given its arguments."""
    return ValueError(
        f"{request.data!r} is read in Python: pass datasets.load_dataset({arguments}, "
        f"split={request.split!r}), with columns called image and label, to nfaug.fit, "
        "nfaug.training.train, nfaug.bank.make_bank or nfaug.compare.compare"
    )
