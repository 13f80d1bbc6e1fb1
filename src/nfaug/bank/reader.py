"""Bank: the stored variants of a dataset, in one directory or over several shards."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .format import Manifest, array_sha256, read_array
from .shards import check_same_bank, shard_manifests


class DamagedVariantError(ValueError):
    """A variant of a bank is not the one that was written."""


class Bank:
    """A complete bank, in one piece or in shards. Its variants are memory-mapped, not loaded.

    Args:
        directory: The folder that `nfaug bank` or `make_bank` wrote.

    Attributes:
        path: The folder.
        manifest: The settings of the bank, and hashes of the images that it was made from.
        shards: The banks of its shards, in order; empty if it is in one piece.
        variants: uint8 (N, V, H, W, C); None in shards (see `variant`).
        checksums: uint32 (N, V), the CRC-32 of the bytes of each variant.
        applied: bool (N, V), false where a variant equals its image.
        labels: int64 (N,).
        hashes: uint8 (N, 32), the digest of each image (`Source.digest`).

    Raises:
        ValueError: The directory is not a bank, it or a shard is not complete, a file is damaged or
            does not match the manifest, or shards are of different banks or images.

    Example:
        >>> import tempfile
        >>> import nfaug.bank
        >>> digits = nfaug.open_dataset("digits", per_class=10)
        >>> checkpoint = nfaug.fit("builtin:pixels", digits, progress=False)
        >>> folder = tempfile.mkdtemp()
        >>> made = nfaug.bank.make_bank(checkpoint, digits, folder, variants=3, progress=False)
        >>> bank = nfaug.bank.Bank(folder)
        >>> len(bank), bank.applied.shape
        (100, (100, 3))
    """

    manifest: Manifest
    variants: Any = None
    checksums: np.ndarray
    applied: np.ndarray
    labels: np.ndarray
    hashes: np.ndarray

    def __init__(self, directory: str | Path) -> None:
        self.path: Path = Path(directory).expanduser()
        self.shards: list[Bank] = [Bank(folder) for folder in shard_manifests(self.path)]
        if self.shards:
            self._join_shards()
        else:
            self._open_files()

    def _join_shards(self) -> None:
        """Check that the shards follow one another, and join their small arrays."""
        first = self.shards[0].manifest
        images = 0
        for shard in self.shards:
            check_same_bank(shard.path, shard.manifest, first)
            if shard.manifest.first != images:
                raise ValueError(
                    f"{shard.path} begins at image {shard.manifest.first}, and the shards "
                    f"before it end at image {images}: it was made as another part. Remove it, "
                    "and make this part again"
                )
            images += len(shard)
        self.manifest = replace(first, images=images, done=images, labels_sha256="")
        self.checksums = np.concatenate([shard.checksums for shard in self.shards])
        self.applied = np.concatenate([shard.applied for shard in self.shards])
        self.labels = np.concatenate([shard.labels for shard in self.shards])
        self.hashes = np.concatenate([shard.hashes for shard in self.shards])

    def _open_files(self) -> None:
        """Map the arrays of a bank in one piece, and check them."""
        manifest = Manifest.load(self.path)
        if manifest.done < manifest.images:
            raise ValueError(
                f"{self.path} is not complete: {manifest.done} of {manifest.images} images are "
                "done. Run the same nfaug bank command again to continue it"
            )
        self.manifest = manifest
        self.variants = read_array(self.path, "variants.npy", manifest)
        self.checksums = read_array(self.path, "checksums.npy", manifest)
        self.applied = read_array(self.path, "applied.npy", manifest)
        self.hashes = read_array(self.path, "hashes.npy", manifest)
        self.labels = read_array(self.path, "labels.npy", manifest)
        self._check_values()

    def _check_values(self) -> None:
        """Check what can be damaged in arrays of the right shape, except for pixels and hashes."""
        labels = self.path / "labels.npy"
        if array_sha256(self.labels) != self.manifest.labels_sha256:
            raise ValueError(
                f"{labels} does not hold the labels that the manifest names: make the bank again "
                "(--overwrite)"
            )
        classes = len(self.manifest.classes)
        lowest = int(self.labels.min())
        highest = int(self.labels.max())
        if classes and not 0 <= lowest <= highest < classes:
            raise ValueError(
                f"{labels} holds labels from {lowest} to {highest}, and the manifest has {classes} "
                "classes: make the bank again (--overwrite)"
            )

    @property
    def paths(self) -> list[str]:
        """Path of the file of each image, relative to the folder of all; empty without files."""
        if self.shards:
            paths = []
            for shard in self.shards:
                paths += shard.paths
            return paths
        stored = read_array(self.path, "paths.npy", self.manifest)
        if not stored[0]:
            return []
        return [os.fsdecode(path) for path in stored.tolist()]

    def variant(self, index: int, number: int) -> np.ndarray:
        """A variant of an image.

        Args:
            index: The image.
            number: Which of its variants, from 0.

        Returns:
            The variant, uint8 (H, W, C).

        Raises:
            DamagedVariantError: Its bytes are not those that were written.
        """
        index = range(len(self))[index]
        for shard in self.shards:
            if index < len(shard):
                return shard.variant(index, number)
            index -= len(shard)
        variant = np.ascontiguousarray(self.variants[index, number])
        if zlib.crc32(variant.data) != self.checksums[index, number]:
            raise DamagedVariantError(
                f"variant {number} of image {index} in {self.path} is damaged: its CRC-32 differs"
            )
        return variant

    def __reduce__(self) -> tuple[type[Bank], tuple[Path]]:
        return Bank, (self.path,)  # a copy in another process maps the same files

    def __len__(self) -> int:
        return self.manifest.images

    def __repr__(self) -> str:
        variants = self.manifest.variants
        return f"Bank({str(self.path)!r}, {len(self)} images, {variants} variants each)"


def check_variants(bank: Bank) -> None:
    """Raise ValueError if no image of a bank has a variant: training would go without NFA."""
    if not bank.applied.any():
        raise ValueError(
            f"no image in {bank.path} has a variant: the checkpoint was fitted to other images "
            "(nfaug fit fits it to these), or each is the only one of its class, or strength is 0"
        )
