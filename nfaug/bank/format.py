"""Files of a bank on disk.

manifest.json   settings, source, flow, counts; `complete` is set last
variants.npy    uint8 (N, V, H, W, C)
applied.npy     bool (N, V), false where a variant equals its image
labels.npy      int64 (N,)
probes.npy      uint8 (n, 8, 8), thumbnails of up to 64 source images, to recognize the data set
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

from ..augment.settings import MixSettings
from ..io.atomic import write_text
from ..io.manifest import read_json

__all__ = [
    "Bank",
    "Manifest",
    "bank_bytes",
    "labels_sha256",
    "load_probes",
    "probe_indices",
    "thumbnails",
    "to_uint8",
]

FORMAT_VERSION = 1
MANIFEST, VARIANTS, APPLIED = "manifest.json", "variants.npy", "applied.npy"
LABELS, PROBES = "labels.npy", "probes.npy"
_PROBES = 64
_PROGRESS = ("done", "complete", "stats")


@dataclass(frozen=True)
class Manifest:
    """Contents of `manifest.json`.

    Attributes:
        images: Number N of images.
        variants: Number V of variants per image.
        shape: (C, H, W) of a variant.
        classes: Class names in label order; empty if there are none.
        labels_sha256: SHA-256 of all labels in order.
        source: Fingerprint of the source data, "" if the data set has none.
        flow_sha256: SHA-256 of the weights of flow and PCA.
        seed: Seed of the variants.
        batch_size: Images per batch, on which the draws depend.
        parameters: Settings of the variants.
        done: Number of images whose variants are written.
        complete: Whether all images are done.
        stats: `NFAugment.stats` of all variants.
        format_version: Version of this format.
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
    parameters: MixSettings
    done: int = 0
    complete: bool = False
    stats: dict[str, int] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def save(self, directory: Path) -> None:
        """Replace the file atomically."""
        write_text(directory / MANIFEST, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Read and check the manifest of a bank.

        Raises:
            ValueError: It is missing, damaged or of another format version.
        """
        file = directory / MANIFEST
        if not file.is_file():
            raise ValueError(
                f"{directory} is not a bank: it has no {MANIFEST} (make one with: nfaug bank)"
            )
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            values = read_json(file)
            if (version := values.get("format_version", FORMAT_VERSION)) != FORMAT_VERSION:
                raise ValueError(f"it has format version {version!r}, not {FORMAT_VERSION}")
            if set(values) != names:
                missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
                raise ValueError(f"missing {missing}, unknown {unknown}")
            values |= {
                "shape": tuple(values["shape"]),
                "classes": tuple(values["classes"]),
                # A bank made before a setting existed has the setting's default.
                "parameters": MixSettings(**{"p": 1.0, **values["parameters"]}),
            }
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is damaged, or of a newer nfaug (upgrade it): {error}"
            ) from None
        return cls(**values)

    def settings(self) -> dict[str, Any]:
        """Everything but the progress: a bank can be continued only with equal settings."""
        values = dataclasses.asdict(self)
        parameters = values.pop("parameters")
        return {k: v for k, v in values.items() if k not in _PROGRESS} | parameters


class Bank:
    """A complete bank with memory-mapped variants.

    Raises:
        ValueError: The directory is not a bank, the bank is not complete, or its files do not
            match the manifest.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory)
        self.manifest = Manifest.load(self.path)
        if not self.manifest.complete:
            raise ValueError(
                f"{self.path} is not complete: {self.manifest.done} of {self.manifest.images} "
                "images are done. Run the same nfaug bank command again to continue it"
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
    """Size of the variants on disk, for N images, V variants and shape (C, H, W)."""
    return images * variants * shape[0] * shape[1] * shape[2]


def labels_sha256(labels: np.ndarray) -> str:
    """SHA-256 of labels in order."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


def probe_indices(images: int) -> list[int]:
    """Indices of up to 64 images, spread evenly over the data set."""
    count = min(_PROBES, images)
    return [round(number * (images - 1) / max(1, count - 1)) for number in range(count)]


def load_probes(directory: Path, images: int) -> np.ndarray:
    """Thumbnails in the directory of a bank with this number of images.

    Raises:
        ValueError: They are missing or damaged.
    """
    return _read(directory / PROBES, (len(probe_indices(images)), 8, 8), np.uint8)


def thumbnails(images: Sequence[Tensor]) -> np.ndarray:
    """Grayscale thumbnails (n, 8, 8) of uint8 images (C, H, W) of any size."""
    small = [
        F.adaptive_avg_pool2d(image.float().mean(0, keepdim=True), 8)[0].round().to(torch.uint8)
        for image in images
    ]
    return torch.stack(small).numpy()


def to_uint8(image: Any, channels: int) -> Tensor:
    """A PIL image or uint8 tensor as uint8 (C, H, W).

    Raises:
        ValueError: It is neither, or has another number of channels.
    """
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim in (2, 3):
        image = image if image.ndim == 3 else image[None]
    elif hasattr(image, "convert"):
        mode = {1: "L", 3: "RGB"}.get(channels)
        array = np.array(image.convert(mode) if mode else image)
        image = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
    else:
        kind = type(image).__name__
        if isinstance(image, Tensor):
            kind = f"{image.dtype} of shape {tuple(image.shape)}"
        raise ValueError(
            "images of a bank must be untransformed PIL images or uint8 tensors (C, H, W); got "
            f"{kind}"
        )
    if len(image) != channels:
        raise ValueError(f"images must have the flow's {channels} channels; got {len(image)}")
    return image


def _read(file: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is missing or damaged: {error}") from None
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{file} must hold {np.dtype(dtype)} {shape}, as its manifest says; got {array.dtype} "
            f"{array.shape}"
        )
    return array
