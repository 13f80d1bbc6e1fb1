"""Bank: the stored variants of a data set, in one directory or over several shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .format import LABELS, PATHS, Manifest, array_files, array_sha256, read_array
from .residual import add_residual, centre_box

__all__ = ["Bank"]


class Bank:
    """A complete bank with memory-mapped arrays, or a merged one over its shards.

    Attributes:
        manifest: What was made, from which images.
        shards: The banks that a merged bank consists of, in order; empty if it has arrays itself.
        variants: uint8 (N, V, H, W, C); None in a residual or a merged bank (see `variant`).
        residuals: int8 (N, V, h, w, C); None in a bank of whole images or a merged one.
        steps: uint16 (N, V), 1/128 grey levels of one step of a residual, or None.
        applied: bool (N, V), false where a variant equals its image.
        labels: int64 (N,).
        hashes: uint8 (N, 32), which tell the images from others (see `nfaug.bank.source`).

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
        self.manifest = made = Manifest.load(self.path)
        if not made.complete:
            raise ValueError(
                f"{self.path} is not complete: {made.done} of {made.images} images are done. Run "
                "the same nfaug bank command again to continue it"
            )
        self.shards = [Bank(self.path / name) for name in made.shards]
        if self.shards:
            for name in ("applied", "labels", "hashes"):
                setattr(self, name, np.concatenate([getattr(each, name) for each in self.shards]))
        else:
            for file in (*array_files(made), LABELS):
                setattr(self, file.removesuffix(".npy"), read_array(self.path, file, made))
        if array_sha256(self.labels) != made.labels_sha256:
            raise ValueError(
                f"labels of {self.path} are not those that its manifest names: make the bank again "
                "(--overwrite)"
            )

    @property
    def paths(self) -> list[str]:
        """Path of the file of each image, relative to the folder of all; empty without files."""
        if self.shards:
            return [path for shard in self.shards for path in shard.paths]
        stored = read_array(self.path, PATHS, self.manifest)
        return [os.fsdecode(path) for path in stored.tolist()] if stored[0] else []

    def variant(self, index: int, number: int, pixels: np.ndarray | None = None) -> np.ndarray:
        """A variant of an image, uint8 (H, W, C).

        Args:
            index: The image.
            number: Which of its variants.
            pixels: The image at any size, uint8 (H, W, C), which a residual is added to.
        """
        index = range(len(self))[index]
        for shard in self.shards:
            if index < len(shard):
                return shard.variant(index, number, pixels)
            index -= len(shard)
        if self.residuals is None:
            return np.asarray(self.variants[index, number])
        if pixels is None:
            raise ValueError("a residual bank has changes of images: pass pixels=, the image")
        height, width = self.manifest.shape[1:]
        box = centre_box(pixels.shape[:2], (height, width))
        residual = np.asarray(self.residuals[index, number])
        return add_residual(pixels, residual, int(self.steps[index, number]), box)

    def __reduce__(self) -> Any:
        return Bank, (self.path,)  # the arrays stay on the disk

    def __len__(self) -> int:
        return self.manifest.images

    def __repr__(self) -> str:
        kind = "residuals" if self.manifest.residual else "variants"
        return f"Bank({str(self.path)!r}, {len(self)} images, {self.manifest.variants} {kind} each)"
