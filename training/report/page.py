"""The report of a finished or running training run, as one HTML page."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...flows.flow import FlowConfig
from ...io.atomic import write_text
from ...io.lock import lock_output
from ..config import TrainConfig
from .html import details, duration, flat, page, picture, section, table, text, tiles
from .plots import inline_svg, log_curves
from .run_folder import RunFolder, read_run, speeds

__all__ = ["report_html", "write_report"]

_KNOWN = {  # columns that a curve below shows, or that need none
    *("epoch", "step", "seconds", "images", "train_bits_per_dim", "bits_per_dim"),
    *("train_latent_bits_per_dim", "latent_bits_per_dim"),
    *("nf_acc", "nf_acc_top5", "lr", "skipped_steps", "images_per_second"),
}
_MAX_ROWS = 60  # of the log's table
_MAX_CLASSES = 1000


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


def report_html(run: RunFolder, now: float | None = None) -> str:
    """The HTML of a run's report; `now` is its time in seconds since the epoch."""
    from ...io.version import __version__

    now = time.time() if now is None else now
    title = run.path.name or str(run.path)
    card = "\n".join(text(line, 2000) for line in run.card.splitlines())
    pictures, none_yet = "".join(map(picture, run.pictures)), "<p>No pictures yet.</p>"
    body = [
        f"<header><h1>{text(title)}</h1>{_lead(run, now)}{tiles(_figures(run))}</header>",
        "".join(f'<p class="problem">{text(problem)}</p>' for problem in run.problems),
        section("Curves", _curves(run)),
        section("Pictures", f'<div class="pictures">{pictures}</div>' if pictures else none_yet),
        section(
            "Class gaussians",
            table(_named(run.section("gaussians")))
            or "<p>Recorded when the checkpoint is written.</p>",
        ),
        section("Settings", _settings(run)),
        section("Environment", _environment(run)),
        section("Classes", _classes(run)),
        section("Card", details("README.md", card and f"<pre>{card}</pre>"), "card"),
        f"<footer>nfaug {text(__version__)}, {_moment(now)}</footer>",
    ]
    return page(f"{title}: an nfaug run", body, f"nfaug {__version__}")


def _lead(run: RunFolder, now: float) -> str:
    parts = []
    if run.finished:
        parts.append('<span class="state">Finished.</span>')
    elif run.rows and run.changed is not None:
        ago = duration(max(0.0, now - run.changed))
        parts.append(
            f'<span class="state">Not finished.</span> Last row of the log: {_moment(run.changed)} '
            f"({ago} ago)."
        )
    else:
        parts.append('<span class="state">Not finished.</span> The log is empty.')
    if flow := _flow_config(run):
        height, width = flow.image_size
        parts.append(
            f"Flow for {flow.channels} x {height} x {width} images with "
            f"{flow.parameter_count / 1e6:.3g} million parameters."
        )
    if run.card:
        parts.append('See the <a href="#card">model card</a> for usage.')
    return f'<p class="lead">{" ".join(parts)}</p>'


def _figures(run: RunFolder) -> Iterable[tuple[str, str]]:
    training, metrics = run.section("training"), run.section("metrics")

    def figure(name: str) -> float:
        logged = (row[name] for row in reversed(run.rows) if math.isfinite(row.get(name, math.nan)))
        return next(logged, _number(metrics.get(name, training.get(name))))

    for title, name, form in (
        ("NF-Acc, held-out", "nf_acc", "{:.1%}"),
        ("NF-Acc, top 5", "nf_acc_top5", "{:.1%}"),
        ("bits/dim, held-out", "bits_per_dim", "{:.3f}"),
        ("bits/dim, training", "train_bits_per_dim", "{:.3f}"),
        ("bits/dim of latents, held-out", "latent_bits_per_dim", "{:.3f}"),
        ("bits/dim of latents, training", "train_latent_bits_per_dim", "{:.3f}"),
        ("steps", "step", "{:,.0f}"),
        ("epochs", "epoch", "{:,.0f}"),
        ("skipped steps", "skipped_steps", "{:,.0f}"),
    ):
        if math.isfinite(value := figure(name)):
            yield title, form.format(value)
    if math.isfinite(seconds := figure("seconds")):
        yield "time", duration(seconds)
    if math.isfinite(images := _number(training.get("images"))):
        yield "training images", f"{images:,.0f}"


def _curves(run: RunFolder) -> str:
    rows = run.rows
    if not rows:
        return "<p>The log is empty: each evaluation adds a row.</p>"
    x_name = next((name for name in ("step", "epoch") if name in rows[-1]), "row")
    xs = [row.get(x_name, float(number)) for number, row in enumerate(rows, 1)]

    def column(name: str, factor: float = 1.0) -> list[float]:
        return [factor * row.get(name, math.nan) for row in rows]

    batch = _number(run.settings.get("batch_size", run.section("training").get("batch_size")))
    latent = "latent_" if "train_latent_bits_per_dim" in rows[-1] else ""
    figures = {
        "bits per dimension" + (" of latents" if latent else ""): {
            "training": column(f"train_{latent}bits_per_dim"),
            "held-out, averaged weights": column(f"{latent}bits_per_dim"),
        },
        "NF-Acc, per cent": {"top 1": column("nf_acc", 100), "top 5": column("nf_acc_top5", 100)},
        "learning rate": {"rate": column("lr")},
        "skipped steps, cumulative": {"skipped": column("skipped_steps")},
        "training images per second": {
            "images": speeds(rows, batch if math.isfinite(batch) else None)
        },
    }
    for name in rows[-1]:
        if name not in _KNOWN:
            figures[name.replace("_", " ")] = {name: column(name)}
    shown = "".join(_curve(title, xs, lines, x_name) for title, lines in figures.items())
    return f'<div class="curves">{shown}</div>{_log(run)}'


def _curve(title: str, xs: list[float], lines: dict[str, list[float]], x_name: str) -> str:
    """One figure with its title and a key with the last values; empty if nothing is finite."""
    last = {
        name: finite[-1]
        for name, values in lines.items()
        if (finite := [*filter(math.isfinite, values)])
    }
    if not last:
        return ""
    key = "".join(
        f'<span class="key"><i class="s{number % 4}"></i>{text(name)} <b>{_short(value)}</b></span>'
        for number, (name, value) in enumerate(last.items())
    )
    figure = log_curves(xs, {name: lines[name] for name in last}, x_label=x_name)
    return (
        f'<figure class="curve"><figcaption><h3>{text(title)}</h3>{key}</figcaption>'
        f"{inline_svg(figure, title)}</figure>"
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _log(run: RunFolder) -> str:
    rows = run.rows
    step = max(1, math.ceil(len(rows) / _MAX_ROWS))
    chosen = sorted({*range(0, len(rows), step), len(rows) - 1})
    names = list(rows[-1])
    head = "".join(f"<th>{text(name.replace('_', ' '), 60)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(rows[row].get(n, math.nan))}</td>" for n in names) + "</tr>"
        for row in chosen
    )
    some = "" if step == 1 else f", one in {step} shown"
    return details(
        f"The log: {len(rows)} rows{some}",
        f'<div class="scroll"><table class="log"><tr>{head}</tr>{body}</table></div>',
    )


def _settings(run: RunFolder) -> str:
    if not run.settings:
        found = run.section("training")
        return table(_named(found)) or "<p>No train.yaml yet.</p>"
    settings = flat(run.settings)
    usual = flat(TrainConfig().to_dict())
    changed = [
        name
        for name, value in settings.items()
        if name in usual and _plain(value) != _plain(usual[name])
    ]
    parts: dict[str, list[tuple[str, Any]]] = {}
    for name, value in settings.items():
        parts.setdefault(name.partition(".")[0] if "." in name else "", []).append((name, value))
    tables = "".join(f"<div>{table(rows, changed)}</div>" for rows in parts.values())
    preprocessing = table(_named(run.section("preprocessing")))
    return (
        "<p>Settings that differ from the defaults are bold.</p>"
        f'<div class="columns">{tables}</div>'
        + details("Preprocessing of the images", preprocessing)
    )


def _environment(run: RunFolder) -> str:
    found = dict(flat(run.environment))
    if "library_version" in run.config and "packages.nfaug" not in found:
        found["packages.nfaug"] = run.config["library_version"]
    if not found:
        return "<p>No environment.json.</p>"
    return table((name.removeprefix("packages."), value) for name, value in found.items())


def _classes(run: RunFolder) -> str:
    names = run.config.get("class_names")
    if not isinstance(names, list) or not names:
        return ""
    shown = "".join(f"<li>{text(name)}</li>" for name in names[:_MAX_CLASSES])
    title = f"{len(names)} classes" + (
        f", the first {_MAX_CLASSES}" if len(names) > _MAX_CLASSES else ""
    )
    return details(title, f'<ol class="names" start="0">{shown}</ol>')


def _named(values: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
    return ((name.replace("_", " "), value) for name, value in flat(values).items())


def _plain(value: Any) -> Any:
    """A setting as YAML stores it: with lists for tuples."""
    return list(value) if isinstance(value, tuple) else value


def _flow_config(run: RunFolder) -> FlowConfig | None:
    try:
        return FlowConfig.from_dict(run.section("flow")) if run.section("flow") else None
    except (ValueError, TypeError):
        return None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "-"


def _moment(seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):  # a file can have any time stamp
        return "an unknown time"
    return f"{moment:%Y-%m-%d %H:%M} UTC"
