"""Building blocks of a self-contained HTML page: all text is escaped, and nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ...io.text import printable
from .run_folder import Picture

__all__ = ["details", "duration", "flat", "page", "picture", "section", "table", "text", "tiles"]

_LONGEST = 300  # characters of one text
_MAX_ENTRIES, _MAX_DEPTH = 400, 8  # of a table of settings: YAML can refer to itself


def text(value: object, longest: int = _LONGEST) -> str:
    """Escape a value for text or an attribute, without control characters and cut to `longest`."""
    return escape(printable(value, longest=longest))


def flat(values: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Flatten {"flow": {"steps": 4}} to {"flow.steps": 4}, up to 400 entries."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if len(found) >= _MAX_ENTRIES:
            break
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and depth < _MAX_DEPTH:
            found |= flat(value, f"{name}.", depth + 1)
        elif isinstance(value, Mapping):
            found[name] = "…" if value else "{}"
        else:
            found[name] = value
    return dict(list(found.items())[:_MAX_ENTRIES])


def duration(seconds: float) -> str:
    """Seconds as "90 s", "12 min" or "3 h 05 min"."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def table(rows: Iterable[tuple[object, object]], marked: Iterable[object] = ()) -> str:
    """A table of names and values; the names in `marked` are bold."""
    bold, marked_row = set(marked), '<tr class="marked">'
    cells = "".join(
        f"{marked_row if name in bold else '<tr>'}<th>{text(name)}</th>"
        f"<td>{text(_value(value))}</td></tr>"
        for name, value in rows
    )
    return f'<table class="pairs">{cells}</table>' if cells else ""


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """The main figures, in large type."""
    shown = "".join(f"<div><dt>{text(n)}</dt><dd>{text(v)}</dd></div>" for n, v in figures)
    return f'<dl class="tiles">{shown}</dl>' if shown else ""


def section(title: str, body: str, name: str = "") -> str:
    """A section with a heading; empty if `body` is."""
    anchor = f' id="{text(name)}"' if name else ""
    return f"<section{anchor}><h2>{text(title)}</h2>{body}</section>" if body else ""


def details(title: str, body: str) -> str:
    """A collapsed part of the page."""
    return f"<details><summary>{text(title)}</summary>{body}</details>" if body else ""


def picture(image: Picture) -> str:
    """An embedded image with its name."""
    data = base64.b64encode(image.data).decode()
    name = text(image.name.replace("_", " "))
    return (
        f'<figure class="picture"><img alt="{name}" src="data:{image.kind};base64,{data}"/>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def page(title: str, body: Sequence[str], generator: str) -> str:
    """A complete page, whose policy forbids scripts and requests."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n'
        f'<meta name="generator" content="{text(generator)}"/>\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _value(value: object, depth: int = 0) -> object:
    """Format a value; deep nesting is cut, since YAML can refer to itself."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping) or (isinstance(value, (list, tuple, set)) and depth > 1):
        return "…"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(str(_value(item, depth + 1)) for item in value[:20])
        return shown + (", …" if len(value) > 20 else "")
    return value


_STYLE = """
:root {
  --page: #fcfcfb; --ink: #1d1f22; --soft: #62666c; --rule: #e1e0dc; --panel: #f4f3f0;
  --s0: #1f5f9e; --s1: #b5532a; --s2: #3f7d4e; --s3: #7a4d94;
}
@media (prefers-color-scheme: dark) { :root {
  --page: #16181b; --ink: #e3e2de; --soft: #9b9ea3; --rule: #34373c; --panel: #1e2124;
  --s0: #7db4ec; --s1: #e79a70; --s2: #84c493; --s3: #c39bdc;
} }
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.75rem 0 1rem; padding-bottom: .35rem; font-weight: 650;
  border-bottom: 1px solid var(--rule); }
h3 { font-size: .95rem; margin: 0; font-weight: 600; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--s0); }
.lead { color: var(--soft); }
.state { font-weight: 600; color: var(--ink); }
.problem { border-left: 3px solid var(--s1); padding: .1rem .8rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0 0; }
.tiles div { background: var(--panel); border-radius: 6px; padding: .6rem .8rem; }
.tiles dt { color: var(--soft); font-size: .8rem; }
.tiles dd { margin: 0; font-size: 1.3rem; font-weight: 600; overflow-wrap: anywhere; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr));
  gap: 2rem 2rem; }
figure { margin: 0; break-inside: avoid; min-width: 0; }
figcaption { display: flex; flex-wrap: wrap; gap: .1rem 1rem; align-items: baseline;
  font-size: .9rem; margin-bottom: .4rem; }
.key { color: var(--soft); font-size: .85rem; }
.key b { color: var(--ink); font-weight: 600; }
.key i { display: inline-block; width: 1.1em; height: .18em; margin-right: .4em;
  vertical-align: .3em; }
i.s0 { background: var(--s0); } i.s1 { background: var(--s1); }
i.s2 { background: var(--s2); } i.s3 { background: var(--s3); }
.curve svg { display: block; width: 100%; height: auto; overflow: visible; }
.curve svg * { stroke-linejoin: round; }
.curve text { font-family: inherit !important; }
.pictures { display: grid; gap: 1.75rem; }
.picture img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px;
  padding: 4px; border: 1px solid var(--rule); }
.picture { display: flex; flex-direction: column-reverse; align-items: flex-start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .22rem 1.2rem .22rem 0;
  border-bottom: 1px solid var(--rule); font-weight: 400; overflow-wrap: anywhere; }
.pairs th { color: var(--soft); min-width: 13rem; }
.marked th, .marked td { font-weight: 650; color: var(--ink); }
.log td, .log th { text-align: right; white-space: nowrap; }
.columns { display: grid; gap: 0 3rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); align-items: start; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--soft); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; background: var(--panel);
  padding: 1rem; border-radius: 6px; }
.names { columns: 14rem; padding-left: 1.6rem; font-size: .88rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media print {
  :root { --page: #fff; --ink: #000; --soft: #444; --rule: #ccc; --panel: #f4f4f4;
    --s0: #1f5f9e; --s1: #b5532a; --s2: #3f7d4e; --s3: #7a4d94; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  .curves { grid-template-columns: 1fr 1fr; }
  .tiles div, tr { break-inside: avoid; }
}
"""
