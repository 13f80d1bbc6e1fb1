"""A bank on disk: variants, labels and which variants are real, a manifest, probes of the source.

manifest.json   settings, source, flow, counters; `complete` is set last
variants.npy    uint8 (N, V, H, W, C)
applied.npy     bool (N, V): false where an image went through unchanged
labels.npy      int64 (N,)
probes.npy      uint8 (n, 8, 8): thumbnails of up to 64 source images, to know them again
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..io.atomic import write_text

__all__ = [
    "Bank",
    "Manifest",
    "bank_bytes",
    "labels_of",
    "labels_sha256",
    "load_probes",
    "probe_indices",
    "thumbnails",
    "to_uint8",
]

FORMAT_VERSION = 1
MANIFEST, VARIANTS, APPLIED, LABELS, PROBES = (
    "manifest.json",
    "variants.npy",
    "applied.npy",
    "labels.npy",
    "probes.npy",
)
_PROBES = 64


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        images: N. variants: V, for each image. shape: (C, H, W) of each.
        classes: class names in label order; empty where there are none.
        labels_sha256: of all labels in order. source: fingerprint of the source data, "" where
            the data set has none.
        flow_sha256: of the flow's weights. seed, batch_size, parameters: how it was made.
        done: images whose variants are written. complete: whether that is all.
        stats: `NFAugment.stats` of all variants.
    """

    images: int
    variants: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    labels_sha256: str
    source: str
    flow_sha256: str
    seed: int
    batch_size: int
    parameters: dict[str, Any]
    done: int = 0
    complete: bool = False
    stats: dict[str, int] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def save(self, directory: Path) -> None:
        """Write it so that a reader sees the old one or the new one."""
        write_text(directory / MANIFEST, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Read and check it.

        Raises:
            ValueError: there is none, it is damaged, or of another format version.
        """
        file = directory / MANIFEST
        if not file.is_file():
            raise ValueError(f"{directory} is no bank: it has no {MANIFEST} (make one: nfaug bank)")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            version = values["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged: {error!r}") from None
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{file} has format version {version!r}, this nfaug reads {FORMAT_VERSION}; a "
                "newer nfaug may read it"
            )
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise ValueError(
                f"{file}: missing {sorted(names - set(values))}, unknown "
                f"{sorted(set(values) - names)}"
            )
        values |= {"shape": tuple(values["shape"]), "classes": tuple(values["classes"])}
        return cls(**values)

    def settings(self) -> dict[str, Any]:
        """Everything but how far it is: what a bank must agree in to be continued."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in ("done", "complete", "stats")}


class Bank:
    """A complete bank, its variants mapped from disk.

    Raises:
        ValueError: the directory is no bank, is not complete, or its files do not fit.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory)
        self.manifest = Manifest.load(self.path)
        if not self.manifest.complete:
            raise ValueError(
                f"{self.path} is not complete: {self.manifest.done} of {self.manifest.images} "
                "images are done. Run the same nfaug bank command again to continue"
            )
        self._open()

    def _open(self) -> None:
        made = self.manifest
        channels, height, width = made.shape
        self.variants = _read(
            self.path / VARIANTS, (made.images, made.variants, height, width, channels), np.uint8
        )
        self.applied = _read(self.path / APPLIED, (made.images, made.variants), np.bool_)
        self.labels = _read(self.path / LABELS, (made.images,), np.int64)
        self.probes = load_probes(self.path, made.images)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return self.manifest.images

    def __repr__(self) -> str:
        made = self.manifest
        return f"Bank({str(self.path)!r}, {made.images} images, {made.variants} variants each)"


def bank_bytes(images: int, variants: int, shape: tuple[int, int, int]) -> int:
    """Size of the variants on disk, to be told before they are made."""
    return images * variants * shape[0] * shape[1] * shape[2]


def labels_of(dataset: Any) -> np.ndarray | None:
    """All labels of a data set without decoding its images, or None where that is not possible."""
    indices = getattr(dataset, "indices", None)
    if indices is not None and hasattr(dataset, "dataset"):
        inner = labels_of(dataset.dataset)
        return None if inner is None else inner[np.asarray(indices, dtype=np.int64)]
    for holder in (dataset, getattr(dataset, "reader", None)):
        targets = getattr(holder, "targets", None)
        if targets is not None and len(targets) == len(dataset):
            return np.asarray(targets, dtype=np.int64)
        samples = getattr(holder, "samples", None)
        if samples is not None and len(samples) == len(dataset):
            return np.asarray([int(sample[1]) for sample in samples], dtype=np.int64)
    return None


def labels_sha256(labels: np.ndarray) -> str:
    """SHA-256 of labels in order."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


def probe_indices(images: int) -> list[int]:
    """Up to 64 images spread over the data."""
    count = min(_PROBES, images)
    return [round(number * (images - 1) / max(1, count - 1)) for number in range(count)]


def load_probes(directory: Path, images: int) -> np.ndarray:
    """The thumbnails of a bank of so many images, which is complete or not.

    Raises:
        ValueError: they are missing or damaged.
    """
    return _read(directory / PROBES, (len(probe_indices(images)), 8, 8), np.uint8)


def thumbnails(images: Sequence[Tensor]) -> np.ndarray:
    """8 x 8 grey thumbnails of uint8 images (C, H, W), the same for any size of the picture."""
    small = [
        F.adaptive_avg_pool2d(image.float().mean(0, keepdim=True), 8)[0].round().to(torch.uint8)
        for image in images
    ]
    return torch.stack(small).numpy()


def to_uint8(image: Any, channels: int) -> Tensor:
    """A PIL image or uint8 tensor as uint8 (C, H, W).

    Raises:
        ValueError: it is neither: a transform ran already.
    """
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim not in (2, 3):
            raise ValueError(
                f"a bank takes images before any transform, PIL or uint8 of shape (C, H, W); got "
                f"{image.dtype} of shape {tuple(image.shape)}"
            )
        image = image if image.ndim == 3 else image[None]
    elif hasattr(image, "convert"):
        mode = {1: "L", 3: "RGB"}.get(channels)
        array = np.array(image.convert(mode) if mode else image)
        image = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
    else:
        raise ValueError(
            f"a bank takes images before any transform, PIL or uint8 tensors; got "
            f"{type(image).__name__}"
        )
    if len(image) != channels:
        raise ValueError(f"images have {len(image)} channels, the flow has {channels}")
    return image


def _read(file: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is missing or damaged: {error}") from None
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{file} holds {array.dtype} {array.shape}, its manifest says {np.dtype(dtype)} {shape}"
        )
    return array
