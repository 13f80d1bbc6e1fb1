"""Files of a bank on disk.

manifest.json   settings, progress and hashes
variants.npy    uint8 (N, V, H, W, C)
applied.npy     bool (N, V), false where a variant equals its image
hashes.npy      uint8 (N, 32), the hash of each image (`nfaug.bank.source`)
labels.npy      int64 (N,)
paths.npy       bytes (N,), relative paths of the image files; empty without files

A residual bank has the change at the flow's size in place of variants.npy:

residuals.npy   int8 (N, V, h, w, C)
steps.npy       uint16 (N, V), the size of one step of a residual in 1/128 grey level

A shard is a bank of the images [first, first + N) of a data set, in the folder
shard-00003-of-00008. A bank in shards is a folder of all its shards.
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
from ..io.text import printable

__all__ = ["Manifest", "array_files", "array_sha256", "differences", "read_array"]

FORMAT_VERSION = 4
MANIFEST = "manifest.json"
SHARD_FOLDER = re.compile(r"shard-(\d{5,})-of-(\d{5,})")


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
        first: Position of the first image in the data set; 0 if the bank is no shard.
        done: Number of images whose variants are written.
        labels_sha256: SHA-256 of the labels.
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
    first: int = 0
    done: int = 0
    labels_sha256: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def nbytes(self) -> int:
        """Size of the variants on disk; a residual has two bytes more for its step."""
        return self.images * self.variants * (math.prod(self.shape) + 2 * self.residual)

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
            values = read_json(file)
            version = values.get("format_version")
            if version != FORMAT_VERSION:
                raise ValueError(f"format version {version!r:.40} is not {FORMAT_VERSION}")
            return cls._of_json(values)
        except (OSError, TypeError, ValueError) as error:
            reason = printable(error, longest=1000)  # it may quote a value of any length
            raise ValueError(
                f"{file} cannot be read as the manifest of a bank: {reason}. If this folder is an "
                "old or damaged bank, remove it and make the bank again"
            ) from None

    @classmethod
    def _of_json(cls, values: dict[str, Any]) -> Manifest:
        """The manifest with these JSON values, checked."""
        for name, hint in get_type_hints(cls).items():
            if not _has_type(values.get(name), hint):
                kind = _IN_WORDS.get(hint, "an object")
                raise ValueError(f"{name} must be {kind}; got {values.get(name)!r:.40}")
        fields = dict(values)
        fields["shape"] = tuple(values["shape"])
        fields["classes"] = tuple(values["classes"])
        fields["parameters"] = MixSettings(**values["parameters"])
        made = cls(**fields)
        if min(made.images, made.variants, made.batch_size, min(made.shape)) < 1:
            raise ValueError(
                "images, variants, batch_size and the sizes of shape must be at least 1; got "
                f"{made.images}, {made.variants}, {made.batch_size} and {made.shape}"
            )
        if made.first < 0:
            raise ValueError(f"first must be at least 0; got {made.first}")
        if not 0 <= made.done <= made.images:
            raise ValueError(f"{made.done} of {made.images} images are done")
        return made


_IN_WORDS: dict[Any, str] = {
    int: "a whole number",
    str: "text",
    bool: "true or false",
    tuple[int, int, int]: "a list of three whole numbers",
    tuple[str, ...]: "a list of names",
}


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a JSON value can be a field of this type: a list for a tuple, an object for settings.

    True and false are no numbers.
    """
    if get_origin(hint) is not tuple:
        return type(value) is (dict if hint is MixSettings else hint)
    items = get_args(hint)
    if type(value) is not list or (Ellipsis not in items and len(value) != len(items)):
        return False
    return all(type(item) is items[0] for item in value)


def differences(found: Manifest, planned: Manifest, *ignored: str) -> str:
    """The settings in which two banks differ, but for those `ignored`; empty if there are none."""
    there, now = map(dataclasses.asdict, (found, planned))
    there.update(there.pop("parameters"))
    now.update(now.pop("parameters"))
    return ", ".join(
        f"{name} ({there[name]!r:.40} there, {now[name]!r:.40} now)"
        for name in now
        if name not in ignored and there[name] != now[name]
    )


def array_files(made: Manifest) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of the arrays that are filled while a bank is made, by file name."""
    channels, height, width = made.shape
    rows = (made.images, made.variants)
    pixels = (*rows, height, width, channels)
    large: dict[str, Any] = {"variants.npy": (pixels, np.uint8)}
    if made.residual:
        large = {"residuals.npy": (pixels, np.int8), "steps.npy": (rows, np.uint16)}
    return large | {"applied.npy": (rows, np.bool_), "hashes.npy": ((made.images, 32), np.uint8)}


def read_array(directory: Path, name: str, made: Manifest) -> np.memmap:
    """A memory-mapped array of a bank.

    Raises:
        ValueError: It is missing, damaged, or not of the shape and type that the manifest says.
    """
    rows = (made.images,)
    known = {"labels.npy": (rows, np.int64), "paths.npy": (rows, np.bytes_)}
    shape, dtype = (known | array_files(made))[name]
    try:
        if not (directory / name).is_file():  # a pipe has no end
            raise ValueError("it is missing, or not a regular file")
        array = np.lib.format.open_memmap(directory / name, "r")  # neither a zip nor a pickle
    except Exception as error:  # numpy's parser of headers raises TokenError and five other types
        raise ValueError(f"{directory / name} is damaged: {error}; use --overwrite") from None
    if dtype is np.bytes_:  # paths of any length
        expected = array.dtype.kind == "S"
    else:
        expected = array.dtype == dtype
    if array.shape != shape or not expected or not array.flags.c_contiguous:
        raise ValueError(
            f"{directory / name} must hold {np.dtype(dtype)} {shape} in C order, as its manifest "
            f"says; got {array.dtype} {array.shape}; use --overwrite"
        )
    return array


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of the values of an array in order, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
