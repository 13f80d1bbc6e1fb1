"""Files of a bank on disk.

manifest.json   settings, progress and hashes
variants.npy    uint8 (N, V, H, W, C)
checksums.npy   uint32 (N, V), the CRC-32 of the bytes of each variant
applied.npy     bool (N, V), false where a variant equals its image
hashes.npy      uint8 (N, 32), the digest of each image (`nfaug.data.source.Source.digest`)
labels.npy      int64 (N,)
paths.npy       bytes (N,), relative paths of the image files; empty without files

A shard is a bank of the images [first, first + N) of a dataset, in the folder
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
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from ..augment.config import MixConfig
from ..data.classes import unique_names
from ..io.atomic import write_text
from ..io.facts import Facts
from ..io.strict_json import read_json
from ..io.text import printable

FORMAT_VERSION: int = 5
MANIFEST: str = "manifest.json"
SHARD_FOLDER: re.Pattern[str] = re.compile(r"shard-(\d{5,})-of-(\d{5,})")


@dataclass(frozen=True)
class Manifest:
    """Contents of `manifest.json`.

    Attributes:
        images: Number N of images.
        variants: Number V of variants per image.
        shape: (C, H, W) of a variant.
        classes: Class names in label order; empty if there are none.
        data_sha256: What identifies the whole dataset (`Images.fingerprint`).
        flow_sha256: SHA-256 of the weights of flow and PCA.
        seed: Seed of the variants.
        batch_size: Images per batch, on which the draws depend.
        parameters: Settings of the variants.
        first: Position of the first image in the dataset; 0 if the bank is no shard.
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
    parameters: MixConfig
    first: int = 0
    done: int = 0
    labels_sha256: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def nbytes(self) -> int:
        """Size of the variants on disk."""
        return self.images * self.variants * math.prod(self.shape)

    def facts(self, *without: str) -> Facts:
        """The fields but `done`, and the settings of the variants, by name.

        Args:
            without: Names that are left out.
        """
        facts = dataclasses.asdict(self)
        facts |= facts.pop("parameters")
        for name in ("done", *without):
            del facts[name]
        return Facts(facts)

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
        # Names that an earlier version wrote may have accents as a Mac stores them.
        fields["classes"] = tuple(unique_names(values["classes"]))
        fields["parameters"] = MixConfig(**values["parameters"])
        manifest = cls(**fields)
        if min(manifest.images, manifest.variants, manifest.batch_size, *manifest.shape) < 1:
            raise ValueError(
                "images, variants, batch_size and the sizes of shape must be at least 1; got "
                f"{manifest.images}, {manifest.variants}, {manifest.batch_size} and "
                f"{manifest.shape}"
            )
        if manifest.first < 0:
            raise ValueError(f"first must be at least 0; got {manifest.first}")
        if not 0 <= manifest.done <= manifest.images:
            raise ValueError(f"{manifest.done} of {manifest.images} images are done")
        return manifest


_IN_WORDS: dict[Any, str] = {
    int: "a whole number",
    str: "text",
    bool: "true or false",
    tuple[int, int, int]: "a list of three whole numbers",
    tuple[str, ...]: "a list of names",
}


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a JSON value can be a field of this type.

    A tuple is a list in JSON, and settings are an object. True and false are not numbers.
    """
    if hint is MixConfig:
        return type(value) is dict
    if get_origin(hint) is not tuple:
        return type(value) is hint
    item_types = get_args(hint)
    if type(value) is not list:
        return False
    if Ellipsis not in item_types and len(value) != len(item_types):
        return False
    return all(type(item) is item_types[0] for item in value)


class ArrayLayout(NamedTuple):
    """Shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: type[np.generic]


def array_files(manifest: Manifest) -> dict[str, ArrayLayout]:
    """The arrays that are filled while a bank is made, by file name."""
    images = manifest.images
    variants = manifest.variants
    channels, height, width = manifest.shape
    pixels = (images, variants, height, width, channels)
    return {
        "variants.npy": ArrayLayout(pixels, np.uint8),
        "checksums.npy": ArrayLayout((images, variants), np.uint32),
        "applied.npy": ArrayLayout((images, variants), np.bool_),
        "hashes.npy": ArrayLayout((images, 32), np.uint8),
    }


def read_array(directory: Path, name: str, manifest: Manifest) -> np.memmap:
    """A memory-mapped array of a bank.

    Raises:
        ValueError: It is missing, damaged, or not of the shape and type that the manifest says.
    """
    layouts = array_files(manifest)
    layouts["labels.npy"] = ArrayLayout((manifest.images,), np.int64)
    layouts["paths.npy"] = ArrayLayout((manifest.images,), np.bytes_)
    shape, dtype = layouts[name]
    file = directory / name
    try:
        if not file.is_file():  # a pipe has no end
            raise ValueError("it is missing, or not a regular file")
        array = np.lib.format.open_memmap(file, "r")  # refuses zip files and pickles
    except Exception as error:  # numpy's parser of headers raises TokenError and five other types
        raise ValueError(f"{file} is damaged: {error}; use --overwrite") from None
    if dtype is np.bytes_:  # paths of any length
        has_dtype = array.dtype.kind == "S"
    else:
        has_dtype = array.dtype == dtype
    if array.shape != shape or not has_dtype or not array.flags.c_contiguous:
        raise ValueError(
            f"{file} must hold {np.dtype(dtype)} {shape} in C order, as its manifest "
            f"says; got {array.dtype} {array.shape}; use --overwrite"
        )
    return array


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of the values of an array in order, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
