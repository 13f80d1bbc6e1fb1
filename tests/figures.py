"""Gains of the rows in benchmarks/results, as README and the guide show them."""

from __future__ import annotations

import base64
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from nfaug.compare.report import Cell, Gain, gain_of

__all__ = ["gain", "rows"]

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def rows(file: str, **wanted: str) -> dict[int, Mapping[str, str]]:
    """The rows of a CSV file with these values, by seed."""
    with (RESULTS / file).open(encoding="utf-8", newline="") as opened:
        found = [r for r in csv.DictReader(opened) if all(r[k] == v for k, v in wanted.items())]
    by_seed = {int(row["seed"]): row for row in found}
    assert len(by_seed) == len(found), f"several rows of a seed: {wanted}"
    return by_seed


def _cells(found: Iterable[Mapping[str, str]]) -> list[Cell]:
    """Cells of a study, whose images count by class, or of `nfaug compare`."""
    made = []
    for row in found:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(row["right"]), np.uint8))
        # where.py and compare keep no number of images, and whole bytes of bits
        count = int(row.get("tested") or round(100 * bits.sum() / float(row["accuracy"])))
        made.append(Cell(bits[:count] > 0, 0.0))
    return made


def gain(file: str, ours: Mapping[str, str], other: Mapping[str, str]) -> Gain:
    """The gain of rows over others, within the seeds that both have."""
    a, b = rows(file, **ours), rows(file, **other)
    seeds = sorted(set(a) & set(b))
    assert seeds, f"no rows in {file} of {ours} and {other}"
    return gain_of(_cells(a[s] for s in seeds), _cells(b[s] for s in seeds))
