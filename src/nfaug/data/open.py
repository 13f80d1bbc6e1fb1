"""Open a dataset by a path or a name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from ..io.progress import progress_bar
from ..io.text import did_you_mean, printable
from .decode import IMAGE_ENDINGS
from .images import LabelledImages, assemble, split_per_class
from .kinds import DATA_SOURCES
from .readers import Reader, Request
from .sources.arrays import open_digits, open_npz
from .sources.contents import sort_out, warn_of_unknown
from .sources.folders import head_of, list_files, open_folder
from .sources.layout import natural_key
from .sources.named import open_bundled, open_torchvision
from .sources.tars import open_tar, open_webdataset

_TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
# What a folder of data may hold, by how the names of its files end. Only one of them is the data.
_IN_FOLDERS = {
    "images": IMAGE_ENDINGS,
    "WebDataset shards": (".tar",),
    "parquet files": (".parquet",),
    "IDX files": ("idx1-ubyte", "idx1-ubyte.gz", "idx3-ubyte", "idx3-ubyte.gz"),
}


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
    progress: bool = True,
) -> LabelledImages:
    """Open labelled images.

    A folder holds images, or shards of one kind; both together are an error, since only one of them
    could be the data. Files and folders whose names start with a dot are no data.

    Args:
        data: A folder with one folder of images for each class; a tar of one; WebDataset shards;
            a .npz file; or a name: "torch/NAME", "builtin:NAME" or "digits". The command
            `nfaug help data` lists them. Folders, tars and shards may have splits. Parquet files
            and the Hub's data are read in Python: pass `datasets.load_dataset(...)` to
            `wrap_dataset`.
        split: "train", "validation", "test", a usual word for one of them, or a folder's name.
        data_dir: Where named datasets are kept.
        image_size: (height, width), or the side of a square, to resize and crop every image to; as
            the method `at` of the result does. None means the size of each image. If 64 images
            spread over the data have one size, an image of another size is an error.
        channels: 1 or 3. None means 1 if 64 images spread over the data are all grayscale, and 3
            otherwise. A color image in data that are read as grayscale is then an error.
        convert: Whether color images may become grayscale if `channels` is 1.
        per_class: Use at most this many random images of each class.
        on_error: "raise" an error at an image that cannot be decoded, or "skip" such images, for
            which all images are decoded once when the dataset is opened.
        seed: Seed of the choice of `per_class`.
        download: Whether a dataset of torchvision may be downloaded.
        labels: Whether the folders in a folder or a tar are classes. If not, all its images, at any
            depth, are one class. Other data keep their labels.
        progress: Show bars of what takes more than a second.

    Returns:
        A dataset: item i is a contiguous uint8 tensor (C, H, W) and a label, an int in [0, K). Its
        `classes` are the K names, and its `targets` the labels, int64 (N,).

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the data are of no kind above or of two, are empty or damaged, or an argument
            is out of range. A `MissingSplitError` is one, if the data do not have the split, and so
            is an `ImageDecodeError`, if the header of one of the first images cannot be read.
            Damaged pixels raise it when the image is read.

    Example:
        >>> from nfaug import open_dataset
        >>> digits = open_dataset("digits", split="test")
        >>> len(digits), digits[0][0].shape, digits.classes[:3]
        (355, torch.Size([1, 8, 8]), ['0', '1', '2'])
    """
    if not isinstance(data, str | os.PathLike) or not os.fspath(data):
        raise ValueError(
            f"data must be {DATA_SOURCES}; got {data!r} (pass a torch dataset to wrap_dataset)"
        )
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grayscale), 3 (RGB) or None; got {channels!r}")
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    with progress_bar(None, f"opening {printable(os.fspath(data))}", shown=progress):
        reader = _reader(Request(os.fspath(data), split, folder, download, labels, progress))
    dataset = assemble(
        reader,
        image_size=image_size,
        channels=channels,
        convert=convert,
        on_error=on_error,
        progress=progress,
    )
    if per_class is not None:
        dataset, _ = split_per_class(dataset, per_class, seed)
    return dataset


def _reader(request: Request) -> Reader:
    """The reader of a name, or else of a file or a folder."""
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
        return _folder_reader(path, request)
    if path.is_file():
        return _file_reader(path, request)
    if path.exists():  # a pipe, which has no end
        raise _no_images(request.data)
    names = ["digits"]
    if path.parent.is_dir():
        names += [str(path.parent / name) for name in os.listdir(path.parent)]
    raise FileNotFoundError(
        f"there is no file or folder {request.data!r}{did_you_mean(request.data, names)} "
        "('nfaug help data' lists what data can be)"
    )


def _file_reader(path: Path, request: Request) -> Reader:
    """The reader of a file."""
    name = path.name.lower()
    if name.endswith(_TARS):
        return open_tar(path, request)
    if name.endswith(".npz"):
        return open_npz(path, request)
    if name.endswith(".parquet"):
        raise _read_in_python(request, f"'parquet', data_files={str(path)!r}")
    raise _no_images(request.data)


def _folder_reader(root: Path, request: Request) -> Reader:
    """The reader of the only kind of data that a folder holds."""
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
