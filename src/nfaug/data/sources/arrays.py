"""Images in memory: .npz files, scikit-learn's digits."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from ...io.extras import optional_imports
from ..classes import numbered, unique_names
from ..source import ArraySource, Request, Source
from .layout import choose_split

TEST_EVERY = 5
_UNPACKED = 2**26  # bytes that any file may unpack to
_MOST_PACKED = 100  # times its size that a file may unpack to; pictures shrink to a tenth


def open_npz(path: Path, request: Request) -> Source:
    """Read a .npz file with the arrays `images` and `labels`, and perhaps `classes`.

    Images are uint8 of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3; labels are
    integers of shape (N,) or (N, 1); `classes` are the K class names. A file is a training split.
    """
    choose_split(("train",), request.split, str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            _check_unpacked(path, sum(member.file_size for member in archive.infolist()))
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images = arrays["images"]
            labels = arrays["labels"]
            names = arrays["classes"] if "classes" in arrays else np.empty(0, str)
    except Exception as error:  # zipfile, zlib, tokenize and numpy raise their own types
        raise ValueError(
            f"{path} lacks the arrays images and labels, or it is damaged ({error})"
        ) from error
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if labels.shape[1:] == (1,):
        labels = labels[:, 0]
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise ValueError(
            f"classes in {path} must be K names, of shape (K,); got {names.dtype} of shape "
            f"{names.shape}"
        )
    return _in_memory(images, labels, str(path), unique_names(names.astype(str).tolist()))


def _check_unpacked(path: Path, size: int) -> None:
    """Raise ValueError if a small file says that it unpacks to a large array of `size` bytes."""
    stored = path.stat().st_size
    if size > max(_UNPACKED, _MOST_PACKED * stored):
        raise ValueError(
            f"it unpacks to {size} bytes, over {_MOST_PACKED} times its {stored}; store such data "
            "without compression"
        )


def open_digits(request: Request) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, in a fixed split.

    Levels v in 0..16 become round(255 v / 16), in integer arithmetic. Images 4, 9, 14, ... of each
    class, in the order of the file, are the test split (355 images); the others are the training
    split (1,442).
    """
    kind = choose_split(("train", "test"), request.split, request.data)
    with optional_imports():
        from sklearn.datasets import load_digits
    data = load_digits()
    targets = torch.from_numpy(data.target).long()
    counts = torch.nn.functional.one_hot(targets).cumsum(dim=0)
    number_in_class = counts.gather(1, targets[:, None])[:, 0]  # from 1
    is_test = (number_in_class % TEST_EVERY == 0).numpy()
    chosen = is_test if kind == "test" else ~is_test
    levels = data.images.astype(np.int64)
    images = ((levels * 255 + 8) // 16).astype(np.uint8)
    return _in_memory(images[chosen], data.target[chosen], f"the {kind} split of the digits")


def _in_memory(
    images: np.ndarray, labels: np.ndarray, where: str, classes: list[str] | None = None
) -> Source:
    """A reader of uint8 images (N, H, W) or (N, C, H, W) and their integer labels (N,)."""
    pixels = images[:, None] if images.ndim == 3 else images
    fits = pixels.dtype == np.uint8 and pixels.ndim == 4 and pixels.shape[1] in (1, 3)
    fits = fits and min(pixels.shape[2:], default=0) > 0
    if not fits or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{where} must hold uint8 images of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with "
            f"C = 1 or 3, and N integer labels; got {images.dtype} of shape {images.shape} and "
            f"{labels.dtype} of shape {labels.shape}"
        )
    return ArraySource(
        where=where,
        classes=classes or numbered(labels),
        targets=torch.from_numpy(labels.astype(np.int64)),
        images=torch.from_numpy(np.ascontiguousarray(pixels)),
    )
