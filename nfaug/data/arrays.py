"""Images in memory: tensors, MNIST's IDX files, scikit-learn's handwritten digits."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .layout import MissingSplitError, split_kind
from .readers import Reader

__all__ = ["ArrayReader", "is_idx_folder", "open_digits", "open_idx"]

IDX_FILES = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}
TEST_EVERY = 5


class ArrayReader(Reader):
    """uint8 images (N, C, H, W) and their labels."""

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        classes: list[str],
        where: str,
        complete: bool = True,
    ) -> None:
        self.images, self.targets, self.classes = images, targets, classes
        self.where, self.complete = where, complete

    def name(self, index: int) -> str:
        return f"image {index} of {self.where}"

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def identify(self, indices: Sequence[int]) -> Iterator[bytes]:
        for start in range(0, len(indices), 4096):
            yield self.images[list(indices[start : start + 4096])].numpy().tobytes()


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds image files under MNIST's names."""
    return any(_idx_path(folder, images, 3) for images, _ in IDX_FILES.values())


def open_idx(folder: Path, split: str) -> ArrayReader:
    """Read `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and `t10k-...`, .gz or not.

    Classes are named by their numbers. The test split has the classes of the training split.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If there is no such split, or a file is damaged or of another kind.
    """
    kind = _train_or_test(split, str(folder))
    image_file, label_file = IDX_FILES[kind]
    images, labels = _read_idx(folder, image_file, 3), _read_idx(folder, label_file, 1)
    if len(images) != len(labels):
        raise ValueError(f"{folder} has {len(images)} {kind} images but {len(labels)} labels")
    known = labels
    train_labels = IDX_FILES["train"][1]
    if kind == "test" and _idx_path(folder, train_labels, 1):
        known = torch.cat([labels, _read_idx(folder, train_labels, 1)])
    count = int(known.max()) + 1 if len(known) else 0
    classes = [str(label) for label in range(count)]
    where = f"the {kind} split of {folder}"
    return ArrayReader(images[:, None], labels.long(), classes, where, complete=kind == "train")


def _idx_path(folder: Path, base: str, ndim: int) -> Path | None:
    names = (f"{base}{dot}idx{ndim}-ubyte{gz}" for dot in "-." for gz in ("", ".gz"))
    return next((path for path in map(folder.joinpath, names) if path.is_file()), None)


def _read_idx(folder: Path, base: str, ndim: int) -> Tensor:
    path = _idx_path(folder, base, ndim)
    if path is None:
        raise FileNotFoundError(f"{folder} has no {base}-idx{ndim}-ubyte, with or without .gz")
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged ({error})") from error
    # Two zero bytes, the type (8 is uint8), the number of axes; then the big-endian sizes.
    start = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, 8, ndim]) or len(data) < start:
        raise ValueError(
            f"{path} must be an IDX file of unsigned bytes with {ndim} axes, which begins with "
            f"00 00 08 0{ndim}, got {data[:4].hex(' ')}"
        )
    shape = struct.unpack_from(f">{ndim}I", data, 4)
    if len(data) - start != math.prod(shape):
        raise ValueError(
            f"{path} is damaged: {math.prod(shape)} bytes announced, {len(data) - start} found"
        )
    if len(data) == start:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=start).reshape(shape)


def open_digits(split: str) -> ArrayReader:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, in a fixed split.

    Levels 0..16 become round(255 v / 16), in integers. Of each class, in the order of the file,
    images 4, 9, 14, ... are the test split (355 images) and the others the training split (1,442).

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
    levels = torch.from_numpy(data.images).to(torch.int64)
    targets = torch.from_numpy(data.target).to(torch.int64)
    one_hot = torch.nn.functional.one_hot(targets, 10)
    rank = (one_hot.cumsum(dim=0) - 1).gather(1, targets[:, None])[:, 0]
    chosen = (rank % TEST_EVERY == TEST_EVERY - 1) == (kind == "test")
    images = ((levels * 255 + 8) // 16).to(torch.uint8)[:, None]
    classes = [str(digit) for digit in range(10)]
    where = f"the {kind} split of the digits"
    return ArrayReader(images[chosen], targets[chosen], classes, where)


def _train_or_test(split: str, where: str) -> str:
    kind = split_kind(split)
    if kind not in ("train", "test"):
        raise MissingSplitError(f'{where} has the splits "train" and "test", got split={split!r}')
    return kind
