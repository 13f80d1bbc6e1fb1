"""What a run's folder holds, read while the run may still write it. Nothing in it is trusted."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .environment import ENVIRONMENT

__all__ = ["Picture", "RunFolder", "parse_log", "read_run", "speeds"]

LOG, CONFIG, SETTINGS, CARD = "log.csv", "config.json", "train.yaml", "README.md"
_LARGEST = {LOG: 64 * 2**20, CONFIG: 64 * 2**20}  # bytes that are read of a file
_LARGEST_OTHER = 2**20
_LARGEST_PICTURE, _LARGEST_PICTURES = 16 * 2**20, 64 * 2**20  # bytes, of one and of all
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_MOST_COLUMNS = 64


@dataclass(frozen=True)
class Picture:
    """An image file: its name without suffix, its MIME type and its bytes."""

    name: str
    kind: str
    data: bytes


@dataclass
class RunFolder:
    """A run as its folder tells it.

    Attributes:
        path: the folder.
        rows: what log.csv holds, a dictionary a row; what is no number is NaN.
        changed: when log.csv was last written, in seconds since the epoch.
        config: config.json of the checkpoint, empty while there is none.
        settings: train.yaml.
        environment: environment.json.
        pictures: samples.png and what lies in pictures/.
        card: the text of README.md.
        problems: what could not be read, a sentence each.
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
        """A part of config.json; empty where it is not there, or no object."""
        found = self.config.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def finished(self) -> bool:
        """Whether the checkpoint was written after the last row of the log."""
        steps = self.section("training").get("steps")
        if not isinstance(steps, (int, float)):
            return False
        return not self.rows or self.rows[-1].get("step", math.nan) <= steps


def read_run(folder: str | Path) -> RunFolder:
    """Read a run's folder: whatever of its files is there.

    A file that is damaged or too large is left out and named in `problems`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds nothing that a run writes.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(folder)!r}; give the --out of nfaug train"
        )
    names = (LOG, CONFIG, SETTINGS)
    if not any((path / name).is_file() for name in names):
        raise ValueError(
            f"{path} is no run: it holds none of {', '.join(names)}; give the --out of nfaug train"
        )
    run = RunFolder(path.resolve())
    log = _text(run, LOG)
    if log is not None:
        run.rows, unread = parse_log(log)
        if unread:
            run.problems.append(f"{LOG} has {unread} lines that are no rows of numbers")
        run.changed = _changed(path / LOG)
    run.config = _mapping(run, CONFIG, json.loads)
    run.environment = _mapping(run, ENVIRONMENT, json.loads)
    run.settings = _mapping(run, SETTINGS, _yaml)
    run.card = _text(run, CARD) or ""
    _read_pictures(run)
    return run


def parse_log(text: str) -> tuple[list[dict[str, float]], int]:
    """The rows of a CSV file of numbers, and how many of its lines are none.

    A last line without its end is still being written and is left out. Where a run went on from an
    earlier step, the rows that it wrote again count, in the place of the old ones.
    """
    lines = [line.rstrip("\r") for line in text.replace("\0", "").split("\n")[:-1]]
    header, *body = [_cells(line) for line in lines if line] or [[]]
    header = header[:_MOST_COLUMNS]
    rows: list[dict[str, float]] = []
    unread = 0
    for cells in body:
        if cells[: len(header)] == header:  # written again by a run that went on
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
    """Training images a second of wall time since the row before; NaN where it is unknown.

    The log's own figure where it has one ("images_per_second"); otherwise from steps and seconds,
    the time of looking at held-out images included.
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
    """A file's bytes; None where there is none, or where it cannot be read."""
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
        run.problems.append(f"{name} is left out: it has more than {largest} bytes")
        return None
    return data


def _text(run: RunFolder, name: str) -> str | None:
    data = _read(run, run.path / name, _LARGEST.get(name, _LARGEST_OTHER))
    return None if data is None else data.decode(errors="replace")


def _mapping(run: RunFolder, name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    text = _text(run, name)
    if text is None:
        return {}
    try:
        found = parse(text)
    except (ValueError, RecursionError) as error:
        run.problems.append(f"{name} is damaged ({type(error).__name__})")
        return {}
    if not isinstance(found, dict):
        run.problems.append(f"{name} is no table of settings")
        return {}
    return found


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _read_pictures(run: RunFolder) -> None:
    files = [run.path / "samples.png"]
    files += sorted(path for path in (run.path / "pictures").glob("*") if path.is_file())
    left = _LARGEST_PICTURES
    for path in files:
        data = _read(run, path, min(left, _LARGEST_PICTURE))
        kind = next((kind for start, kind in _KINDS.items() if (data or b"").startswith(start)), "")
        if data is not None and kind:  # whatever its suffix says
            run.pictures.append(Picture(path.stem, kind, data))
            left -= len(data)
