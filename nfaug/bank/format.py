"""Files of a bank on disk.

manifest.json   settings, source, flow, counts; `complete` is set last
variants.npy    uint8 (N, V, H, W, C)
applied.npy     bool (N, V), false where a variant equals its image
labels.npy      int64 (N,)
probes.npy      uint8 (n, 8, 8), thumbnails of up to 64 source images, to recognize the data set

A residual bank has the change at the flow's size in place of variants.npy (`residual`):

residuals.npy   int8 (N, V, h, w, C)
steps.npy       uint16 (N, V), the size of one step of a residual in 1/128 grey level

A shard is a bank of the images [first, first + N) of a data set of `total` images, in the folder
shard-00003-of-00008. A merged bank is a manifest.json that names the shards beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..augment.settings import MixSettings
from ..data.decode import upright
from ..io.atomic import write_text
from ..io.strict_json import read_json

__all__ = [
    "Manifest",
    "appending",
    "array_files",
    "bank_bytes",
    "labels_sha256",
    "load_probes",
    "probe_indices",
    "read_array",
    "thumbnails",
    "to_uint8",
]

FORMAT_VERSION = 2
MANIFEST, VARIANTS, APPLIED = "manifest.json", "variants.npy", "applied.npy"
LABELS, PROBES = "labels.npy", "probes.npy"
RESIDUALS, STEPS = "residuals.npy", "steps.npy"
_PROBES = 64
_PROGRESS = ("done", "complete", "stats")
_SINCE_2 = ("residual", "first", "total", "shards")  # keys that version 1 does not have


@dataclass(frozen=True)
class Manifest:
    """Contents of `manifest.json`.

    Attributes:
        images: Number N of images.
        variants: Number V of variants per image.
        shape: (C, H, W) of a variant, or (C, h, w) of a residual.
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
        residual: Whether the bank holds residuals, to be added to the images.
        first: Position of the first image in the data set; 0 if the bank is no shard.
        total: Number of images of the data set.
        shards: Folders of a merged bank, in order.
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
    residual: bool = False
    first: int = 0
    total: int = 0
    shards: tuple[str, ...] = ()
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
            version = values.get("format_version", FORMAT_VERSION)
            if version == 1:
                new = {name: cls.__dataclass_fields__[name].default for name in _SINCE_2}
                values |= {**new, "total": values.get("images"), "format_version": FORMAT_VERSION}
            elif version != FORMAT_VERSION:
                raise ValueError(f"it has format version {version!r}, not {FORMAT_VERSION}")
            if set(values) != names:
                missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
                raise ValueError(f"missing {missing}, unknown {unknown}")
            values |= {
                "shape": tuple(values["shape"]),
                "classes": tuple(values["classes"]),
                "shards": tuple(values["shards"]),
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


def bank_bytes(
    images: int, variants: int, shape: tuple[int, int, int], *, residual: bool = False
) -> int:
    """Size of the variants on disk, for N images, V variants and shape (C, H, W).

    In a residual bank the shape is the flow's, and each variant has two bytes more for its step.
    """
    values = shape[0] * shape[1] * shape[2]
    return images * variants * (values + (2 if residual else 0))


def array_files(made: Manifest) -> list[tuple[str, tuple[int, ...], Any]]:
    """Name, shape and type of the arrays that grow while a bank is made."""
    channels, height, width = made.shape
    rows = (made.images, made.variants)
    pixels = (*rows, height, width, channels)
    if made.residual:
        first: list[Any] = [(RESIDUALS, pixels, np.int8), (STEPS, rows, np.uint16)]
    else:
        first = [(VARIANTS, pixels, np.uint8)]
    return [*first, (APPLIED, rows, np.bool_)]


@contextlib.contextmanager
def appending(path: Path, made: Manifest) -> Iterator[list[IO[bytes]]]:
    """The array files at the end of the manifest's progress; what is beyond it is removed."""
    with contextlib.ExitStack() as stack:
        files: list[IO[bytes]] = []
        for name, shape, dtype in array_files(made):
            files.append(stack.enter_context((path / name).open("r+b")))
            values = made.done * math.prod(shape[1:])
            _seek_end(files[-1], path / name, values, np.dtype(dtype))
        yield files


def _seek_end(file: IO[bytes], name: Path, values: int, dtype: np.dtype) -> None:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    end = file.tell() + values * dtype.itemsize
    if os.fstat(file.fileno()).st_size < end:
        raise ValueError(
            f"{name} is shorter than its manifest says; replace the bank with overwrite=True "
            "(--overwrite)"
        )
    file.truncate(end)
    file.seek(end)


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
    return read_array(directory / PROBES, (len(probe_indices(images)), 8, 8), np.uint8)


def thumbnails(images: Sequence[Tensor]) -> np.ndarray:
    """Grayscale thumbnails (n, 8, 8) of uint8 images (C, H, W) of any size."""
    small = [
        F.adaptive_avg_pool2d(image.float().mean(0, keepdim=True), 8)[0].round().to(torch.uint8)
        for image in images
    ]
    return torch.stack(small).numpy()


def to_uint8(image: Any, channels: int) -> Tensor:
    """A PIL image, turned upright, or a uint8 tensor as uint8 (C, H, W).

    Raises:
        ValueError: It is neither, or has another number of channels.
    """
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim in (2, 3):
        image = image if image.ndim == 3 else image[None]
    elif isinstance(image, Image.Image):
        image = upright(image)
        mode = {1: "L", 3: "RGB"}.get(channels)
        array = np.array(image.convert(mode) if mode and image.mode != mode else image)
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


def read_array(file: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A memory-mapped array of this shape and type.

    Raises:
        ValueError: It is missing, damaged, or another.
    """
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
