"""Reader of a run's folder, which may still be written to and is not trusted."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .environment import ENVIRONMENT

__all__ = ["Picture", "RunFolder", "parse_log", "read_run", "speeds"]

LOG, CONFIG, SETTINGS, CARD = "log.csv", "config.json", "train.yaml", "README.md"
_MAX_BYTES = {LOG: 64 * 2**20, CONFIG: 64 * 2**20}
_MAX_OTHER_BYTES = 2**20
_MAX_PICTURE_BYTES, _MAX_PICTURES_BYTES = 16 * 2**20, 64 * 2**20  # of one and of all
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_MAX_COLUMNS = 64


@dataclass(frozen=True)
class Picture:
    """An image file: its name without suffix, its MIME type and its bytes."""

    name: str
    kind: str
    data: bytes


@dataclass
class RunFolder:
    """The contents of a run's folder.

    Attributes:
        path: The folder.
        rows: Rows of log.csv as dictionaries; entries that are not numbers are NaN.
        changed: When log.csv was last written, in seconds since the epoch.
        config: config.json of the checkpoint; empty if there is none.
        settings: train.yaml.
        environment: environment.json.
        pictures: samples.png and the images in pictures/.
        card: The text of README.md.
        problems: One sentence per file that could not be read.
    """

    path: Path
    rows: list[dict[str, float]] = field(default_factory=list)
    changed: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    card: str = ""
    problems: list[str] = field(default_factory=list)

    def section(self, name: str) -> dict[str, Any]:
        """A section of config.json; empty if it is missing or not an object."""
        found = self.config.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def finished(self) -> bool:
        """Whether the checkpoint covers the last row of the log."""
        steps = self.section("training").get("steps")
        if not isinstance(steps, (int, float)):
            return False
        return not self.rows or self.rows[-1].get("step", math.nan) <= steps


def read_run(folder: str | Path) -> RunFolder:
    """Read the files of a run's folder.

    Files that are damaged or too large are skipped and named in `problems`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no file of a run.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(folder)!r}; pass the --out of nfaug train"
        )
    names = (LOG, CONFIG, SETTINGS)
    if not any((path / name).is_file() for name in names):
        raise ValueError(
            f"{path} is not a run: it has no {', '.join(names)}; pass the --out of nfaug train"
        )
    run = RunFolder(path.resolve())
    log = _text(run, LOG)
    if log is not None:
        run.rows, unread = parse_log(log)
        if unread:
            run.problems.append(f"{LOG} has {unread} lines that are not rows of numbers")
        with contextlib.suppress(OSError):
            run.changed = (path / LOG).stat().st_mtime
    run.config = _mapping(run, CONFIG, json.loads)
    run.environment = _mapping(run, ENVIRONMENT, json.loads)
    run.settings = _mapping(run, SETTINGS, yaml.safe_load)
    run.card = _text(run, CARD) or ""
    _read_pictures(run)
    return run


def parse_log(text: str) -> tuple[list[dict[str, float]], int]:
    """Parse a CSV log into rows, and count the lines that are not rows of numbers.

    A last line without a newline is still being written and is skipped. Rows that a resumed run
    wrote again replace the earlier ones.
    """
    lines = [line.rstrip("\r") for line in text.replace("\0", "").split("\n")[:-1]]
    header, *body = [_cells(line) for line in lines if line] or [[]]
    header = header[:_MAX_COLUMNS]
    rows: list[dict[str, float]] = []
    unread = 0
    for cells in body:
        if cells[: len(header)] == header:  # repeated by a resumed run
            continue
        values = [_number(cell) for cell in cells]
        if len(cells) != len(header) or not any(map(math.isfinite, values)):
            unread += 1
            continue
        row = dict(zip(header, values, strict=True))
        while rows and "step" in row and rows[-1]["step"] >= row["step"]:
            rows.pop()
        rows.append(row)
    return rows, unread


def speeds(rows: Sequence[dict[str, float]], batch_size: float | None) -> list[float]:
    """Training images per second at each row; NaN if unknown.

    This is the log's "images_per_second" if it has that column; else it is computed from steps and
    wall time since the previous row, evaluation included.
    """
    found = []
    before = {"step": 0.0, "seconds": 0.0}
    for row in rows:
        steps = row.get("step", math.nan) - before.get("step", math.nan)
        seconds = row.get("seconds", math.nan) - before.get("seconds", math.nan)
        known = batch_size is not None and steps > 0 and seconds > 0
        rate = steps * batch_size / seconds if known and batch_size is not None else math.nan
        found.append(row.get("images_per_second", rate))
        before = row
    return found


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _read(run: RunFolder, path: Path, largest: int) -> bytes | None:
    """A file's bytes; None if it is missing or cannot be read."""
    name = path.relative_to(run.path).as_posix()
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        run.problems.append(f"{name} cannot be read: {error.strerror or type(error).__name__}")
        return None
    if len(data) > largest:
        run.problems.append(f"{name} is skipped: it has more than {largest} bytes")
        return None
    return data


def _text(run: RunFolder, name: str) -> str | None:
    data = _read(run, run.path / name, _MAX_BYTES.get(name, _MAX_OTHER_BYTES))
    return None if data is None else data.decode(errors="replace")


def _mapping(run: RunFolder, name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    text = _text(run, name)
    if text is None:
        return {}
    try:
        found = parse(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        run.problems.append(f"{name} is damaged ({type(error).__name__})")
        return {}
    if not isinstance(found, dict):
        run.problems.append(f"{name} is not a mapping")
        return {}
    return found


def _read_pictures(run: RunFolder) -> None:
    files = [run.path / "samples.png"]
    files += sorted(path for path in (run.path / "pictures").glob("*") if path.is_file())
    left = _MAX_PICTURES_BYTES
    for path in files:
        data = _read(run, path, min(left, _MAX_PICTURE_BYTES))
        kind = next((kind for start, kind in _KINDS.items() if (data or b"").startswith(start)), "")
        if data is not None and kind:  # by content, not by suffix
            run.pictures.append(Picture(path.stem, kind, data))
            left -= len(data)
