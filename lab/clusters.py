"""Which test images of a study belong together, such as photographs of one variety of apples.

A manifest of lab/manifests has a column `cluster` where its source names what images are of. Images
of a cluster are alike, so that the interval of a gain is one over clusters: `gain_of(clusters=)`.
"""

from __future__ import annotations

import csv
import functools
import gzip
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from nfaug.data.sources.layout import natural_key

MANIFESTS = Path(__file__).resolve().parent / "manifests"
#: Files of rows, and the manifest and the part that these classifiers were tested on.
TESTED = {
    "final/groceries-*": ("grocery128", "test"),
    "defaults/groceries-*": ("grocery128", "validation"),
    "ladder/groceries": ("grocery128", "validation"),
    "frozen/groceries": ("grocery128", "validation"),
    "tuned/grocery-*-test": ("grocery128", "validation"),
    "second/traffic-*": ("traffic", "test"),
    "second/emoji-*": ("emoji", "test"),
    "second/shapes-*": ("shapes", "test"),
    "second/words-*": ("words", "test"),
}


class Clusters(NamedTuple):
    """The clusters of the test images of a file of rows.

    Attributes:
        names: That of each image, in the order of `right`: `open_dataset` reads a tar in the
            natural order of its paths, and the studies tested on all images of these parts.
        known: Of each image, whether the training part has images of its cluster.
    """

    names: tuple[str, ...]
    known: tuple[bool, ...]


@functools.cache
def clusters_of(file: str) -> Clusters | None:
    """The clusters of the test images of a file, such as final/groceries-scratch; None without."""
    for pattern, (stem, part) in TESTED.items():
        if fnmatchcase(file, pattern):
            parts = _parts_of(stem)
            paths = sorted(parts[part], key=natural_key)
            names = tuple(parts[part][path] for path in paths)
            known = set(parts["train"].values())
            return Clusters(names, tuple(name in known for name in names))
    return None


def names_of(file: str) -> tuple[str, ...] | None:
    """The cluster of each test image of a file, as `gain_of` takes it."""
    clusters = clusters_of(file)
    return clusters.names if clusters else None


@functools.cache
def _parts_of(stem: str) -> dict[str, dict[str, str]]:
    """The parts of a manifest, each with the cluster of an image by its path in the tar."""
    parts: dict[str, dict[str, str]] = {}
    with gzip.open(MANIFESTS / f"{stem}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            parts.setdefault(row["part"], {})[row["name"]] = row["cluster"]
    return parts
