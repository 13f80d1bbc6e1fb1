"""Bank: the stored variants of a data set, in one directory or over several shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .format import LABELS, Manifest, array_files, load_probes, probe_indices, read_array
from .residual import Box, add_residual, centre_box

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
        probes: Thumbnails of the images `probe_rows`.

    Raises:
        ValueError: The directory is not a bank, the bank is not complete, or its files do not
            match the manifest.
    """

    variants: Any = None
    residuals: Any = None
    steps: Any = None
    applied: np.ndarray
    labels: np.ndarray
    probes: np.ndarray
    probe_rows: list[int]

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
        if made.shards:
            self._open_shards([Bank(self.path / name) for name in made.shards])
            return
        for name, shape, dtype in array_files(made):
            setattr(self, name.removesuffix(".npy"), read_array(self.path / name, shape, dtype))
        self.labels = read_array(self.path / LABELS, (made.images,), np.int64)
        self.probes = load_probes(self.path, made.images)
        self.probe_rows = probe_indices(made.images)

    def _open_shards(self, shards: list[Bank]) -> None:
        if sum(map(len, shards)) != len(self):
            raise ValueError(
                f"{self.path} is damaged: its shards have {sum(map(len, shards))} images, not "
                f"{len(self)}. Merge them again (nfaug bank --merge)"
            )
        for name in ("variants", "residuals"):
            if getattr(shards[0], name) is not None:
                setattr(self, name, StackedRows([getattr(shard, name) for shard in shards]))
        small = ("applied", "labels", *(["steps"] if self.manifest.residual else []))
        for name in small:
            setattr(self, name, np.concatenate([getattr(shard, name) for shard in shards]))
        rows = [shard.manifest.first + row for shard in shards for row in shard.probe_rows]
        probes = np.concatenate([shard.probes for shard in shards])
        spread = probe_indices(len(rows))
        self.probes, self.probe_rows = probes[spread], [rows[i] for i in spread]

    def variant(
        self, index: int, number: int, pixels: np.ndarray | None = None, box: Box | None = None
    ) -> np.ndarray:
        """A variant of an image, uint8 (H, W, C).

        Args:
            index: The image.
            number: Which of its variants.
            pixels: The image at any size, uint8 (H, W, C), which a residual is added to.
            box: The part of it that the flow saw, (left, top, right, bottom); its centre by
                default (`centre_box`).
        """
        if self.residuals is None:
            return np.asarray(self.variants[index, number])
        if pixels is None:
            raise ValueError("a residual bank has changes of images: pass pixels=, the image")
        height, width = self.manifest.shape[1:]
        box = centre_box(pixels.shape[:2], (height, width)) if box is None else box
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
        made = self.manifest
        kind = "residuals" if made.residual else "variants"
        return f"Bank({str(self.path)!r}, {made.images} images, {made.variants} {kind} each)"


class StackedRows:
    """Arrays that are read as one, stacked along their first axis, without a copy."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | tuple[int, ...]) -> np.ndarray:
        """Rows by an index, or a tuple whose first item is one."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        first = range(len(self))[first]
        part = int(np.searchsorted(self.ends, first, side="right"))
        start = int(self.ends[part]) - len(self.parts[part])
        row = self.parts[part][first - start]
        return row[tuple(rest)] if rest else row

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)
