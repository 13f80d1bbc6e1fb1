"""The report of a finished or running training run, as one HTML page."""

from __future__ import annotations

import base64
import csv
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from nfaug.flows.flow import FlowConfig
from nfaug.io.atomic import write_text
from nfaug.io.lock import lock_output
from nfaug.io.manifest import PICTURE
from nfaug.io.text import printable

from ..config import TrainConfig
from .environment import ENVIRONMENT
from .plots import inline_svg, log_curves

__all__ = ["LOG", "RunFolder", "duration", "flat", "read_run", "report_html", "write_report"]

LOG, CONFIG, SETTINGS, CARD = "log.csv", "config.json", "train.yaml", "README.md"
_MAX_BYTES = 64 * 2**20  # of one file
_MAX_TEXT = 1000  # characters of one text
_MAX_ENTRIES, _MAX_DEPTH = 400, 8  # of a table of settings: YAML can refer to itself
_MAX_ROWS = 60  # of the log's table
_FORMATS = {
    "nf_acc": ("NF-Acc, held-out", "{:.1%}"),
    "nf_acc_top5": ("NF-Acc, top 5", "{:.1%}"),
    "bits_per_dim": ("bits/dim, held-out", "{:.3f}"),
    "train_bits_per_dim": ("bits/dim, training", "{:.3f}"),
    "latent_bits_per_dim": ("bits/dim of latents, held-out", "{:.3f}"),
    "train_latent_bits_per_dim": ("bits/dim of latents, training", "{:.3f}"),
    "step": ("steps", "{:,.0f}"),
    "epoch": ("epochs", "{:,.0f}"),
    "skipped_steps": ("skipped steps", "{:,.0f}"),
    "images": ("training images", "{:,.0f}"),
}


@dataclass
class RunFolder:
    """The contents of a run's folder, which may still be written to.

    Attributes:
        path: The folder.
        rows: Rows of log.csv; entries that are not numbers are NaN.
        changed: When log.csv was last written, in seconds since the epoch.
        config: config.json of the checkpoint; empty if there is none.
        settings: train.yaml.
        environment: environment.json.
        pictures: Bytes of samples.png and of the PNG files in pictures/, by name.
        card: The text of README.md.
        problems: One sentence per file that could not be read.
    """

    path: Path
    rows: list[dict[str, float]] = field(default_factory=list)
    changed: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    card: str = ""
    problems: list[str] = field(default_factory=list)

    def section(self, name: str) -> dict[str, Any]:
        """A section of config.json; empty if it is missing or not an object."""
        found = self.config.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def finished(self) -> bool:
        """Whether the checkpoint is of the last row of the log: others may be of another run.

        Without a log, any checkpoint will do.
        """
        steps = _number(self.section("training").get("steps"))
        return steps == self.rows[-1].get("step") if self.rows else steps >= 0


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run's folder and return its path.

    The run may still be training. An existing report is replaced atomically.

    Args:
        folder: The folder that `nfaug train` wrote.
        out: The page to write; by default report.html in the folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no file of a run, or `out` does not end in .html.
    """
    run = read_run(folder)
    path = run.path / "report.html" if out is None else Path(out).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must end in .html; got {str(out)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_output(path):
        write_text(path, report_html(run))
    return path


def read_run(folder: str | Path) -> RunFolder:
    """Read the files of a run's folder; those that are damaged are named in `problems`.

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
    run.rows = _parsed(run, LOG, _rows, [])
    if run.rows:
        run.changed = (path / LOG).stat().st_mtime
    run.config = _parsed(run, CONFIG, json.loads, {})
    run.environment = _parsed(run, ENVIRONMENT, json.loads, {})
    run.settings = _parsed(run, SETTINGS, yaml.safe_load, {})
    run.card = _parsed(run, CARD, str, "")
    for file in (path / PICTURE, *sorted((path / "pictures").glob("*.png"))):
        data = _read(run, file)
        if data.startswith(b"\x89PNG"):
            run.pictures[file.stem.replace("_", " ")] = data
    return run


def flat(values: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Flatten {"flow": {"steps": 4}} to {"flow.steps": 4}, up to 400 entries."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if len(found) >= _MAX_ENTRIES:
            break
        if isinstance(value, Mapping) and value and depth < _MAX_DEPTH:
            found |= flat(value, f"{prefix}{key}.", depth + 1)
        else:
            found[f"{prefix}{key}"] = value
    return found


def duration(seconds: float) -> str:
    """Seconds as "90 s", "12 min" or "3 h 05 min"."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _read(run: RunFolder, path: Path) -> bytes:
    """A file's bytes; empty if it is missing or cannot be read."""
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        run.problems.append(f"{path.name} cannot be read: {error}")
        return b""
    if len(data) > _MAX_BYTES:
        run.problems.append(f"{path.name} is skipped: it has more than {_MAX_BYTES} bytes")
        return b""
    return data


def _parsed(run: RunFolder, name: str, parse: Callable[[str], Any], default: Any) -> Any:
    """The parsed text of a file; `default` if it is missing, damaged or of another type."""
    text = _read(run, run.path / name).decode(errors="replace")
    if not text:
        return default
    try:
        found = parse(text)
    except (ValueError, RecursionError, yaml.YAMLError, csv.Error) as error:
        run.problems.append(f"{name} is damaged ({type(error).__name__})")
        return default
    if not isinstance(found, type(default)):
        run.problems.append(f"{name} is not a {'mapping' if default == {} else 'text'}")
        return default
    return found


def _rows(text: str) -> list[dict[str, float]]:
    names, *lines = csv.reader(text.splitlines())
    # The last line of a run that was stopped can be cut.
    rows = (dict(zip(names, map(_number, line), strict=False)) for line in lines)
    return [row for row in rows if any(map(math.isfinite, row.values()))]


def _number(value: Any) -> float:
    """NaN for what is not a number."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError, ValueError):
        return math.nan


def report_html(run: RunFolder) -> str:
    """The HTML of a run's report."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    from nfaug.io.version import __version__

    def safe(value: Any) -> Any:
        return value if isinstance(value, Markup) else printable(value, longest=_MAX_TEXT)

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=safe
    )
    environment.filters |= {
        "setting": _setting,
        "moment": _moment,
        "base64": lambda data: Markup(base64.b64encode(data).decode()),
    }
    settings, usual = flat(run.settings), flat(TrainConfig().to_dict())
    tables: dict[str, list[tuple[str, Any]]] = {}
    for name, value in settings.items():
        group = name.partition(".")[0] if "." in name else ""
        tables.setdefault(group, []).append((name, value))
    classes = run.config.get("class_names")
    return environment.get_template("page.html").render(
        run=run,
        title=run.path.name or str(run.path),
        version=__version__,
        now=time.time(),
        ago=duration(max(0.0, time.time() - run.changed)),
        flow=_flow_config(run),
        figures=[*_figures(run)],
        curves=[{**curve, "svg": Markup(curve["svg"])} for curve in _curves(run)],
        log=run.rows[:: math.ceil(len(run.rows) / _MAX_ROWS) or 1][:-1] + run.rows[-1:],
        gaussians=_named(run.section("gaussians")),
        settings=[*tables.values()],
        changed={n for n, x in settings.items() if n in usual and _plain(x) != _plain(usual[n])},
        preprocessing=_named(run.section("preprocessing")),
        environment=[(k.removeprefix("packages."), v) for k, v in flat(run.environment).items()],
        classes=classes if isinstance(classes, list) else [],
    )


def _figures(run: RunFolder) -> Iterator[tuple[str, str]]:
    """The main figures: the last of the log, or of the checkpoint."""
    found = run.section("training") | run.section("metrics")
    for row in run.rows:
        found |= {name: value for name, value in row.items() if math.isfinite(value)}
    found["images"] = run.section("training").get("images")
    for name, (title, form) in _FORMATS.items():
        if math.isfinite(value := _number(found.get(name, found.get(f"{name}s")))):
            yield title, form.format(value)
    if math.isfinite(seconds := _number(found.get("seconds"))):
        yield "time", duration(seconds)


def _curves(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Title, last values and SVG of a curve for each figure of the log."""
    if not run.rows:
        return
    rows, names = run.rows, list(run.rows[-1])
    x_name = next((name for name in ("step", "epoch") if name in names), "row")
    xs = [row.get(x_name, float(number)) for number, row in enumerate(rows, 1)]
    latent = "latent_" if "train_latent_bits_per_dim" in names else ""
    figures = {
        "bits per dimension" + (" of latents" if latent else ""): {
            "training": f"train_{latent}bits_per_dim",
            "held-out, averaged weights": f"{latent}bits_per_dim",
        },
        "NF-Acc": {"top 1": "nf_acc", "top 5": "nf_acc_top5"},
        "learning rate": {"rate": "lr"},
        "skipped steps, cumulative": {"skipped": "skipped_steps"},
        "training images per second": {"images": "images_per_second"},
    }
    for title, columns in figures.items():
        lines = {key: [r.get(name, math.nan) for r in rows] for key, name in columns.items()}
        lines = {key: line for key, line in lines.items() if any(map(math.isfinite, line))}
        if lines:
            last = {key: [*filter(math.isfinite, line)][-1] for key, line in lines.items()}
            yield {
                "title": title,
                "key": [(key, f"{value:,.4g}") for key, value in last.items()],
                "svg": inline_svg(log_curves(xs, lines, x_label=x_name), title),
            }


def _named(values: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    return [(name.replace("_", " "), value) for name, value in flat(values).items()]


def _plain(value: Any) -> Any:
    """A setting as YAML stores it: with lists for tuples."""
    return list(value) if isinstance(value, tuple) else value


def _setting(value: Any, depth: int = 0) -> Any:
    """Format a value; deep nesting is cut, since YAML can refer to itself."""
    if value is None or value != value:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping) or (isinstance(value, list) and depth > 1):
        return "…" if value else "{}"
    if isinstance(value, list):
        return ", ".join(str(_setting(item, depth + 1)) for item in value[:20])
    return value


def _flow_config(run: RunFolder) -> FlowConfig | None:
    try:
        return FlowConfig.from_dict(run.section("flow")) if run.section("flow") else None
    except (ValueError, TypeError):
        return None


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M} UTC"
