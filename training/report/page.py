"""A run on one page: curves, pictures, settings, environment. For finished and running runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...flows.flow import FlowConfig
from ...io.atomic import write_text
from ..config import TrainConfig
from .html import details, flat, page, picture, section, table, tiles
from .markup import text
from .run_folder import RunFolder, read_run, speeds
from .svg import Series, curve

__all__ = ["report_html", "write_report"]

_KNOWN = {  # columns that have a curve of their own, or that none would help
    *("epoch", "step", "seconds", "images", "train_bits_per_dim", "bits_per_dim"),
    *("train_latent_bits_per_dim", "latent_bits_per_dim"),
    *("nf_acc", "nf_acc_top5", "lr", "skipped_steps", "images_per_second"),
}
_MOST_ROWS = 60  # of the log, in its table
_MOST_CLASSES = 1000


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run's folder, by default as report.html in it, and return its path.

    The folder is only read, so the run may go on. A page that is there is replaced in one step.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds nothing that a run writes, or `out` does not end in .html.
    """
    run = read_run(folder)
    path = run.path / "report.html" if out is None else Path(out).expanduser()
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the report is HTML: --out must end in .html; got {str(out)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, report_html(run))
    return path


def report_html(run: RunFolder, now: float | None = None) -> str:
    """The page of a run; `now` is the time to state, in seconds since the epoch."""
    from ...io.version import __version__

    now = time.time() if now is None else now
    title = run.path.name or str(run.path)
    body = [
        f"<header><h1>{text(title)}</h1>{_lead(run, now)}{tiles(_figures(run))}</header>",
        "".join(f'<p class="problem">{text(problem)}</p>' for problem in run.problems),
        section("Curves", _curves(run)),
        section("Pictures", _pictures(run)),
        section("Class gaussians", _prior(run)),
        section("Settings", _settings(run)),
        section("Environment", _environment(run)),
        section("Classes", _classes(run)),
        section("Card", _card(run), "card"),
        f"<footer>nfaug {text(__version__)}, {_moment(now)}</footer>",
    ]
    return page(f"{title}: an nfaug run", body, f"nfaug {__version__}")


def _lead(run: RunFolder, now: float) -> str:
    parts = []
    if run.finished:
        parts.append('<span class="state">Finished.</span>')
    elif run.rows and run.changed is not None:
        ago = _duration(max(0.0, now - run.changed))
        parts.append(
            f'<span class="state">Not finished.</span> Its last row was written {ago} before this '
            f"page, at {_moment(run.changed)}."
        )
    else:
        parts.append('<span class="state">Not finished.</span> There is no figure yet.')
    if flow := _flow_config(run):
        height, width = flow.image_size
        parts.append(
            f"A flow for images of {flow.channels} x {height} x {width} with "
            f"{flow.parameter_count / 1e6:.3g} million parameters."
        )
    if run.card:
        parts.append('Its <a href="#card">card</a> says how to use it.')
    return f'<p class="lead">{" ".join(parts)}</p>'


def _figures(run: RunFolder) -> Iterable[tuple[str, str]]:
    last = run.rows[-1] if run.rows else {}
    training, metrics = run.section("training"), run.section("metrics")

    def figure(name: str) -> float:
        value = last.get(name, math.nan)
        return value if math.isfinite(value) else _number(metrics.get(name, training.get(name)))

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
    seconds = figure("seconds")
    if math.isfinite(seconds):
        yield "time", _duration(seconds)
    if math.isfinite(images := _number(training.get("images"))):
        yield "training images", f"{images:,.0f}"


def _curves(run: RunFolder) -> str:
    rows = run.rows
    if not rows:
        return "<p>The log has no row yet: one comes with each look at the held-out images.</p>"
    x_name = next((name for name in ("step", "epoch") if name in rows[-1]), "row")
    xs = [row.get(x_name, float(number)) for number, row in enumerate(rows, 1)]

    def line(name: str, column: str, factor: float = 1.0) -> Series:
        return Series(name, xs, [factor * row.get(column, math.nan) for row in rows])

    batch = _number(run.settings.get("batch_size", run.section("training").get("batch_size")))
    speed = Series("images", xs, speeds(rows, batch if math.isfinite(batch) else None))
    latent = "latent_" if "train_latent_bits_per_dim" in rows[-1] else ""
    figures = {
        "bits per dimension" + (" of latents" if latent else ""): [
            line("training", f"train_{latent}bits_per_dim"),
            line("held-out, averaged weights", f"{latent}bits_per_dim"),
        ],
        "NF-Acc, per cent": [line("top 1", "nf_acc", 100), line("top 5", "nf_acc_top5", 100)],
        "learning rate": [line("rate", "lr")],
        "skipped steps, so far": [line("skipped", "skipped_steps")],
        "training images a second": [speed],
    }
    others = [name for name in rows[-1] if name not in _KNOWN]
    for name in others:
        figures[name.replace("_", " ")] = [line(name, name)]
    shown = "".join(curve(title, lines, x_label=x_name) for title, lines in figures.items())
    return f'<div class="curves">{shown}</div>{_log(run)}'


def _log(run: RunFolder) -> str:
    rows = run.rows
    step = max(1, math.ceil(len(rows) / _MOST_ROWS))
    chosen = sorted({*range(0, len(rows), step), len(rows) - 1})
    names = list(rows[-1])
    head = "".join(f"<th>{text(name.replace('_', ' '), 60)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(rows[row].get(n, math.nan))}</td>" for n in names) + "</tr>"
        for row in chosen
    )
    some = "" if step == 1 else f", every {step}th"
    return details(
        f"The log: {len(rows)} rows{some}",
        f'<div class="scroll"><table class="log"><tr>{head}</tr>{body}</table></div>',
    )


def _pictures(run: RunFolder) -> str:
    if not run.pictures:
        return "<p>There is no picture yet.</p>"
    return f'<div class="pictures">{"".join(map(picture, run.pictures))}</div>'


def _prior(run: RunFolder) -> str:
    found = run.section("gaussians")
    if not found:
        return "<p>They are on record when the checkpoint is written.</p>"
    return table(_named(found))


def _settings(run: RunFolder) -> str:
    if not run.settings:
        found = run.section("training")
        return table(_named(found)) or "<p>There is no train.yaml yet.</p>"
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
    return (
        "<p>In bold: what is not nfaug's default.</p>"
        f'<div class="columns">{tables}</div>{_preprocessing(run)}'
    )


def _preprocessing(run: RunFolder) -> str:
    found = run.section("preprocessing")
    return details("What was done to the images first", table(_named(found)))


def _environment(run: RunFolder) -> str:
    found = dict(flat(run.environment))
    if "library_version" in run.config and "packages.nfaug" not in found:
        found["packages.nfaug"] = run.config["library_version"]
    if not found:
        return "<p>There is no environment.json.</p>"
    return table((name.removeprefix("packages."), value) for name, value in found.items())


def _classes(run: RunFolder) -> str:
    names = run.config.get("class_names")
    if not isinstance(names, list) or not names:
        return ""
    shown = "".join(f"<li>{text(name, 60)}</li>" for name in names[:_MOST_CLASSES])
    title = f"{len(names)} classes" + (
        f", the first {_MOST_CLASSES}" if len(names) > _MOST_CLASSES else ""
    )
    return details(title, f'<ol class="names" start="0">{shown}</ol>')


def _card(run: RunFolder) -> str:
    if not run.card:
        return ""
    lines = "\n".join(text(line, 2000) for line in run.card.splitlines())
    return f"<details><summary>README.md</summary><pre>{lines}</pre></details>"


def _named(values: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
    return ((name.replace("_", " "), value) for name, value in flat(values).items())


def _plain(value: Any) -> Any:
    """A setting as YAML gives it back: tuples are lists there."""
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


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _moment(seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):  # a file may carry any time
        return "an unknown time"
    return f"{moment:%Y-%m-%d %H:%M} UTC"
