"""Files of a bank on disk.

manifest.json   settings, progress and hashes
variants.npy    uint8 (N, V, H, W, C)
applied.npy     bool (N, V), false where a variant equals its image
hashes.npy      uint8 (N, 16), the hash of each image (`nfaug.bank.source`)
labels.npy      int64 (N,)
paths.npy       bytes (N,), relative paths of the image files; empty without files

A residual bank has the change at the flow's size in place of variants.npy:

residuals.npy   int8 (N, V, h, w, C)
steps.npy       uint16 (N, V), the size of one step of a residual in 1/128 grey level

A shard is a bank of the images [first, first + N) of a data set of `total` images, in the folder
shard-00003-of-00008. A merged bank is a manifest.json that names the shards beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from ..augment.settings import MixSettings
from ..io.atomic import write_text
from ..io.strict_json import read_json

__all__ = ["Manifest", "array_files", "array_sha256", "bank_bytes", "differences", "read_array"]

FORMAT_VERSION = 3
MANIFEST, LABELS, PATHS, HASHES = "manifest.json", "labels.npy", "paths.npy", "hashes.npy"
VARIANTS, RESIDUALS, STEPS = "variants.npy", "residuals.npy", "steps.npy"
HASH_BYTES = 16
SHARD_FOLDER = re.compile(r"shard-(\d{5})-of-(\d{5})")
_PROGRESS = ("done", "labels_sha256", "hashes_sha256", "stats")


@dataclass(frozen=True)
class Manifest:
    """Contents of `manifest.json`.

    Attributes:
        images: Number N of images.
        variants: Number V of variants per image.
        shape: (C, H, W) of a variant, or (C, h, w) of a residual.
        classes: Class names in label order; empty if there are none.
        data_sha256: What identifies the whole data set (`Source.sha256`).
        flow_sha256: SHA-256 of the weights of flow and PCA.
        seed: Seed of the variants.
        batch_size: Images per batch, on which the draws depend.
        parameters: Settings of the variants.
        residual: Whether the bank holds residuals, to be added to the images.
        total: Number of images of the data set.
        first: Position of the first image in the data set; 0 if the bank is no shard.
        done: Number of images whose variants are written.
        labels_sha256: SHA-256 of the labels.
        hashes_sha256: SHA-256 of the hashes; empty until all images are done.
        stats: `NFAugment.stats` of all variants.
        shards: Folders of a merged bank, in order.
        format_version: Version of this format.
    """

    images: int
    variants: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    data_sha256: str
    flow_sha256: str
    seed: int
    batch_size: int
    parameters: MixSettings
    residual: bool
    total: int
    first: int = 0
    done: int = 0
    labels_sha256: str = ""
    hashes_sha256: str = ""
    stats: dict[str, int] = dataclasses.field(default_factory=dict)
    shards: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def complete(self) -> bool:
        """Whether all images are done."""
        return self.done == self.images

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
            raise ValueError(f"{directory} is no bank: it has no {MANIFEST} (make one: nfaug bank)")
        try:
            return _checked(read_json(file))
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from None


def _checked(values: dict[str, Any]) -> Manifest:
    """The manifest of JSON values, whose types and ranges are checked."""
    if (version := values.get("format_version")) != FORMAT_VERSION:
        raise ValueError(f"format version {version!r:.40} is not {FORMAT_VERSION}; upgrade nfaug")
    hints = get_type_hints(Manifest)
    if wrong := sorted(set(values) ^ set(hints)):
        raise ValueError(f"missing or unknown: {wrong}")
    values["parameters"] = MixSettings(**values["parameters"])
    for name, hint in hints.items():
        if not _has_type(values[name], hint):
            raise ValueError(f"{name} must be {hint}; got {values[name]!r:.80}")
    values.update({k: tuple(v) for k, v in values.items() if isinstance(v, list)})
    made = Manifest(**values)
    counts = (made.images, made.variants, made.batch_size, *made.shape)
    if min(counts) < 1 or min(made.done, made.first) < 0 or made.done > made.images:
        raise ValueError("a count is out of range")
    if not all(map(SHARD_FOLDER.fullmatch, made.shards)):
        raise ValueError(f"shards must be folders of shards; got {made.shards!r:.80}")
    return made


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a JSON value has the type of a field; a list stands for a tuple."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is dict:
        return isinstance(value, dict) and all(type(x) is inner[1] for x in value.values())
    if origin is tuple:
        right = isinstance(value, list) and all(type(x) is inner[0] for x in value)
        return right and (inner[-1] is Ellipsis or len(value) == len(inner))
    return type(value) is hint  # a bool is not an int


def differences(found: Manifest, planned: Manifest, *ignored: str) -> str:
    """The settings in which two banks differ, for a message; empty if one can continue the other.

    Progress, and the settings of the names `ignored`, may differ.
    """
    there, now = (
        {**(values := dataclasses.asdict(made)), **values.pop("parameters")}
        for made in (found, planned)
    )
    return ", ".join(
        f"{name} ({there[name]!r:.40} there, {now[name]!r:.40} now)"
        for name in now
        if name not in (*_PROGRESS, *ignored) and there[name] != now[name]
    )


def bank_bytes(
    images: int, variants: int, shape: tuple[int, int, int], *, residual: bool = False
) -> int:
    """Size of the variants on disk, for N images, V variants and shape (C, H, W).

    In a residual bank the shape is the flow's, and each variant has two bytes more for its step.
    """
    return images * variants * (math.prod(shape) + (2 if residual else 0))


def array_files(made: Manifest) -> list[tuple[str, tuple[int, ...], Any]]:
    """Name, shape and type of the arrays that are filled while a bank is made."""
    channels, height, width = made.shape
    rows = (made.images, made.variants)
    pixels = (*rows, height, width, channels)
    large: list[Any] = [(VARIANTS, pixels, np.uint8)]
    if made.residual:
        large = [(RESIDUALS, pixels, np.int8), (STEPS, rows, np.uint16)]
    return [*large, ("applied.npy", rows, np.bool_), (HASHES, (made.images, HASH_BYTES), np.uint8)]


def read_array(file: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """A memory-mapped array of this shape and type.

    Raises:
        ValueError: It is missing, damaged, or another, or a link: a bank is continued in place.
    """
    if file.is_symlink() or not file.is_file():
        raise ValueError(f"{file} must be a file of the bank; it is missing, or a link")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}; make the bank with --overwrite") from None
    if array.shape != shape or not np.issubdtype(array.dtype, dtype):
        raise ValueError(
            f"{file} must hold {np.dtype(dtype)} {shape}, as its manifest says; got {array.dtype} "
            f"{array.shape}"
        )
    return array


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of the values of an array in order, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
