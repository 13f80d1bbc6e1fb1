"""Readers of images in memory: MNIST's IDX files, .npz files, scikit-learn's digits."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .class_folders import MissingSplitError, split_kind
from .classes import class_names, numbered
from .readers import ArrayReader

__all__ = ["is_idx_folder", "open_digits", "open_idx", "open_npz"]

IDX_FILES = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}
NPZ_PREFIXES = {"train": ("train_", ""), "validation": ("val_",), "test": ("test_", "val_")}
TEST_EVERY = 5
MAX_DEFLATE_RATIO = 1032  # of zlib's format


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds image files with MNIST's names."""
    return any(_idx_path(folder, images, 3) for images, _ in IDX_FILES.values())


def open_idx(folder: Path, split: str) -> ArrayReader:
    """Read `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and `t10k-...`, perhaps with .gz.

    Classes are named by their numbers. The test split has the classes of the training split.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the split does not exist, or a file is damaged or of another type.
    """
    kind = _train_or_test(split, str(folder))
    image_file, label_file = IDX_FILES[kind]
    images, labels = _read_idx(folder, image_file, 3), _read_idx(folder, label_file, 1)
    if len(images) != len(labels):
        raise ValueError(f"{folder} has {len(images)} {kind} images but {len(labels)} labels")
    classes = numbered(labels)
    train_labels = IDX_FILES["train"][1]
    if kind == "test" and _idx_path(folder, train_labels, 1):
        classes = max(classes, numbered(_read_idx(folder, train_labels, 1)), key=len)
    where = f"the {kind} split of {folder}"
    return ArrayReader(images[:, None], labels.long(), classes, where, kind == "train")


def _idx_path(folder: Path, base: str, ndim: int) -> Path | None:
    names = (f"{base}{dot}idx{ndim}-ubyte{gz}" for dot in "-." for gz in ("", ".gz"))
    return next((path for path in map(folder.joinpath, names) if path.is_file()), None)


def _read_idx(folder: Path, base: str, ndim: int) -> Tensor:
    path = _idx_path(folder, base, ndim)
    if path is None:
        raise FileNotFoundError(f"{folder} has no {base}-idx{ndim}-ubyte, with or without .gz")
    ratio = MAX_DEFLATE_RATIO if path.suffix == ".gz" else 1
    try:
        with gzip.open(path) if ratio > 1 else path.open("rb") as file:
            # Two zero bytes, the type (8 is uint8), the number of axes; then the big-endian sizes.
            header = file.read(4 + 4 * ndim)
            if header[:4] != bytes([0, 0, 8, ndim]) or len(header) < 4 + 4 * ndim:
                raise ValueError(
                    f"{path} must be an IDX file of unsigned bytes with {ndim} axes, which starts "
                    f"with 00 00 08 0{ndim}; got {header[:4].hex(' ')}"
                )
            shape = struct.unpack_from(f">{ndim}I", header, 4)
            size = math.prod(shape)
            # The header bounds what is read, and the file's own size bounds the header.
            data = file.read(size + 1) if size <= ratio * path.stat().st_size else b""
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if len(data) != size:
        more = "more" if len(data) > size else len(data)
        raise ValueError(f"{path} is damaged: its header announces {size} bytes; found {more}")
    return torch.from_numpy(np.frombuffer(bytearray(data), np.uint8).reshape(shape))


def open_npz(path: Path, split: str) -> ArrayReader:
    """Read a .npz file with the arrays `images` and `labels`, and perhaps `classes`.

    Images are uint8 of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3; labels are
    integers of shape (N,) or (N, 1); `classes` are the K class names. A file with several splits
    has `train_images`, `train_labels`, `val_images`, ... instead, as MedMNIST has. A file without
    splits is a training split.

    Raises:
        MissingSplitError: If the file does not have the split.
        ValueError: If the file is damaged, or its arrays are not as above.
    """
    kind = split_kind(split)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            prefixes = NPZ_PREFIXES.get(kind, ())
            prefix = next((p for p in prefixes if f"{p}images" in names), None)
            if prefix is None:
                needed = " or ".join(f"{p}images" for p in prefixes) or "another name"
                raise MissingSplitError(
                    f"{path} has the arrays {sorted(names)}; split={split!r} needs {needed}, with "
                    "labels"
                )
            used = (f"{prefix}images", f"{prefix}labels", "train_labels", "classes")
            arrays = {name: _read_array(archive, name) for name in used if name in names}
    except MissingSplitError:
        raise
    except Exception as error:  # zipfile, zlib, tokenize and numpy raise their own types
        raise ValueError(f"{path} is not a .npz file, or it is damaged ({error})") from error
    images, labels = arrays[f"{prefix}images"], arrays.get(f"{prefix}labels")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"{prefix}images in {path} must be uint8 of shape (N, H, W), (N, H, W, C) or "
            f"(N, C, H, W) with C = 1 or 3; got {images.dtype} of shape {images.shape}"
        )
    if labels is None or labels.size != len(images) or labels.dtype.kind not in "iu":
        found = "none" if labels is None else f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(
            f"'{prefix}labels' in {path} must be {len(images)} integers, one per image; got {found}"
        )
    targets = torch.from_numpy(labels.astype(np.int64).reshape(-1))
    known = np.append(arrays.get("train_labels", labels).reshape(-1), targets).astype(np.int64)
    listed = arrays.get("classes")
    classes = numbered(known) if listed is None else class_names(listed.tolist())
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return ArrayReader(pixels, targets, classes, str(path), complete=kind == "train")


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    """An array of a .npz file, without pickles."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > MAX_DEFLATE_RATIO * entry.compress_size + 1024:
        raise ValueError(f"{name!r} announces {entry.file_size} bytes")
    with archive.open(entry) as file:
        found: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def open_digits(split: str) -> ArrayReader:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, in a fixed split.

    Levels v in 0..16 become round(255 v / 16), in integer arithmetic. Images 4, 9, 14, ... of each
    class, in the order of the file, are the test split (355 images); the others are the training
    split (1,442).

    Raises:
        MissingSplitError: If the split is neither "train" nor "test".
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    kind = _train_or_test(split, '"digits"')
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the data set "digits" comes with scikit-learn: pip install "nfaug[train]"'
        ) from error
    data = load_digits()
    levels, targets = (torch.from_numpy(x).long() for x in (data.images, data.target))
    nth = torch.nn.functional.one_hot(targets).cumsum(dim=0).gather(1, targets[:, None])[:, 0]
    chosen = (nth % TEST_EVERY == 0) == (kind == "test")
    images = ((levels * 255 + 8) // 16).to(torch.uint8)[:, None]
    where = f"the {kind} split of the digits"
    return ArrayReader(images[chosen], targets[chosen], numbered(targets), where)


def _train_or_test(split: str, where: str) -> str:
    kind = split_kind(split)
    if kind not in ("train", "test"):
        raise MissingSplitError(f'{where} has the splits "train" and "test"; got split={split!r}')
    return kind
