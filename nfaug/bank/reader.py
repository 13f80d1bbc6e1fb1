"""Bank: the stored variants of a data set, in one directory or over several shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .format import LABELS, PATHS, Manifest, array_files, array_sha256, read_array
from .residual import add_residual, centre_box

__all__ = ["Bank", "StackedRows"]


class Bank:
    """A complete bank with memory-mapped arrays, or a merged one over its shards.

    Attributes:
        manifest: What was made, from which images.
        variants: uint8 (N, V, H, W, C), or None in a residual bank.
        residuals: int8 (N, V, h, w, C), or None in a bank of whole images.
        steps: uint16 (N, V), 1/128 grey levels of one step of a residual, or None.
        applied: bool (N, V), false where a variant equals its image.
        labels: int64 (N,).
        hashes: uint8 (N, 16), which tell the images from others (see `nfaug.bank.source`).

    Raises:
        ValueError: The directory is not a bank, the bank is not complete, or its files do not
            match the manifest.
    """

    variants: Any = None
    residuals: Any = None
    steps: Any = None
    applied: np.ndarray
    labels: np.ndarray
    hashes: np.ndarray

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory).expanduser()
        self.manifest = Manifest.load(self.path)
        if not self.manifest.complete:
            raise ValueError(
                f"{self.path} is not complete: {self.manifest.done} of {self.manifest.images} "
                "images are done. Run the same nfaug bank command again to continue it"
            )
        self._open()

    def _open(self) -> None:
        made = self.manifest
        self._shards = [Bank(self.path / name) for name in made.shards]
        for file, shape, dtype in [*array_files(made), (LABELS, (made.images,), np.int64)]:
            name = file.removesuffix(".npy")
            if not self._shards:
                array: Any = read_array(self.path / file, shape, dtype)
            else:
                array = StackedRows([getattr(shard, name) for shard in self._shards])
                array = array if name in ("variants", "residuals") else np.asarray(array)
            setattr(self, name, array)
        found = array_sha256(self.labels), array_sha256(self.hashes)
        if found != (made.labels_sha256, made.hashes_sha256):
            raise ValueError(
                f"labels or hashes of {self.path} are not those that its manifest names. Make the "
                "bank again (--overwrite), or merge its shards again (--merge)"
            )

    @property
    def paths(self) -> list[str]:
        """Path of the file of each image, relative to the folder of all; empty without files."""
        if self._shards:
            return [path for shard in self._shards for path in shard.paths]
        stored = read_array(self.path / PATHS, (len(self),), np.bytes_)
        return [os.fsdecode(path) for path in stored.tolist()] if stored[0] else []

    def variant(self, index: int, number: int, pixels: np.ndarray | None = None) -> np.ndarray:
        """A variant of an image, uint8 (H, W, C).

        Args:
            index: The image.
            number: Which of its variants.
            pixels: The image at any size, uint8 (H, W, C), which a residual is added to.
        """
        if self.residuals is None:
            return np.asarray(self.variants[index, number])
        if pixels is None:
            raise ValueError("a residual bank has changes of images: pass pixels=, the image")
        height, width = self.manifest.shape[1:]
        box = centre_box(pixels.shape[:2], (height, width))
        residual = np.asarray(self.residuals[index, number])
        return add_residual(pixels, residual, int(self.steps[index, number]), box)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return self.manifest.images

    def __repr__(self) -> str:
        kind = "residuals" if self.manifest.residual else "variants"
        return f"Bank({str(self.path)!r}, {len(self)} images, {self.manifest.variants} {kind} each)"


class StackedRows:
    """Arrays that are read as one, stacked along their first axis, without a copy."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __getitem__(self, key: int | tuple[int, ...]) -> np.ndarray:
        """A row, or what the rest of a tuple takes of the row that its first item names."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        first = range(self.shape[0])[first]
        part = int(np.searchsorted(self.ends, first, side="right"))
        place = (first - self.ends[part], *rest)  # counted from the end of the part
        return self.parts[part][place]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)
