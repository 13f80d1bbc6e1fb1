"""Images in memory: MNIST's IDX files, .npz files, scikit-learn's digits."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from ..classes import class_names, numbered
from ..readers import ArrayReader, Reader, Request
from .layout import choose_split

__all__ = ["open_digits", "open_idx", "open_npz"]

IDX_FILES = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}
TEST_EVERY = 5


def open_idx(request: Request) -> Reader | None:
    """Read `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and `t10k-...`, perhaps with .gz.

    Classes are named by their numbers, up to the largest of both splits.
    """
    folder = request.path
    if not any(_idx_path(folder, images, 3) for images, _ in IDX_FILES.values()):
        return None
    kind = choose_split(IDX_FILES, request.split, str(folder))
    image_file, label_file = IDX_FILES[kind]
    images, labels = _read_idx(folder, image_file, 3), _read_idx(folder, label_file, 1)
    found = [_read_idx(folder, b, 1) for _, b in IDX_FILES.values() if _idx_path(folder, b, 1)]
    where, names = f"the {kind} split of {folder}", numbered(np.concatenate(found))
    return _in_memory(images, labels, where, names)


def _idx_path(folder: Path, base: str, ndim: int) -> Path | None:
    found = sorted(folder.glob(f"{base}[-.]idx{ndim}-ubyte*"))
    return next(filter(Path.is_file, found), None)


def _read_idx(folder: Path, base: str, ndim: int) -> np.ndarray:
    path = _idx_path(folder, base, ndim)
    if path is None:
        raise FileNotFoundError(f"{folder} has no {base}-idx{ndim}-ubyte, with or without .gz")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        # Two zero bytes, the type (8 is uint8), the number of axes; then the big-endian sizes.
        if data[:4] != bytes([0, 0, 8, ndim]):
            raise ValueError(f"it must start with 00 00 08 0{ndim}; got {data[:4].hex(' ')}")
        shape = struct.unpack_from(f">{ndim}I", data, 4)
        return np.frombuffer(bytearray(data), np.uint8, offset=4 + 4 * ndim).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def open_npz(request: Request) -> Reader | None:
    """Read a .npz file with the arrays `images` and `labels`, and perhaps `classes`.

    Images are uint8 of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3; labels are
    integers of shape (N,) or (N, 1); `classes` are the K class names. A file is a training split.
    """
    path = request.path
    if path.suffix.lower() != ".npz" or not path.is_file():
        return None
    choose_split(("train",), request.split, str(path))
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"].reshape(-1)
            stored = archive["classes"].astype(str).tolist() if "classes" in archive else None
            names = stored and class_names(stored)
    except Exception as error:  # zipfile, zlib, tokenize and numpy raise their own types
        raise ValueError(
            f"{path} lacks the arrays images and labels, or it is damaged ({error})"
        ) from error
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    return _in_memory(images, labels, str(path), names)


def open_digits(request: Request) -> Reader | None:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, in a fixed split.

    Levels v in 0..16 become round(255 v / 16), in integer arithmetic. Images 4, 9, 14, ... of each
    class, in the order of the file, are the test split (355 images); the others are the training
    split (1,442).
    """
    if request.data != "digits":
        return None
    kind = choose_split(("train", "test"), request.split, request.data)
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("digits need scikit-learn: pip install 'nfaug[train]'") from error
    data = load_digits()
    targets = torch.from_numpy(data.target).long()
    nth = torch.nn.functional.one_hot(targets).cumsum(dim=0).gather(1, targets[:, None])[:, 0]
    chosen = ((nth % TEST_EVERY == 0) == (kind == "test")).numpy()
    images = ((data.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    return _in_memory(images[chosen], data.target[chosen], f"the {kind} split of the digits")


def _in_memory(
    images: np.ndarray, labels: np.ndarray, where: str, classes: list[str] | None = None
) -> Reader:
    """A reader of uint8 images (N, H, W) or (N, C, H, W) and their integer labels (N,)."""
    pixels = images[:, None] if images.ndim == 3 else images
    fits = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[1] in (1, 3)
    if not fits or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{where} must hold uint8 images of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with "
            f"C = 1 or 3, and N integer labels; got {images.dtype} of shape {images.shape} and "
            f"{labels.dtype} of shape {labels.shape}"
        )
    return ArrayReader(
        where=where,
        classes=classes or numbered(labels),
        targets=torch.from_numpy(labels.astype(np.int64)),
        images=torch.from_numpy(np.ascontiguousarray(pixels)),
    )
