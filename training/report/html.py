"""The parts of a page: everything that is put in is escaped, and nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .markup import text
from .run_folder import Picture

__all__ = ["details", "flat", "page", "picture", "section", "table", "tiles"]

_MOST_ENTRIES, _DEEPEST = 400, 8  # of a table of settings: YAML may refer to itself


def flat(values: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """{"flow": {"steps": 4}} as {"flow.steps": 4}, at most 400 entries."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if len(found) >= _MOST_ENTRIES:
            break
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and depth < _DEEPEST:
            found |= flat(value, f"{name}.", depth + 1)
        elif isinstance(value, Mapping):
            found[name] = "…" if value else "{}"
        else:
            found[name] = value
    return dict(list(found.items())[:_MOST_ENTRIES])


def table(rows: Iterable[tuple[object, object]], marked: Iterable[object] = ()) -> str:
    """Two columns, names and values; the names in `marked` stand out."""
    bold, marked_row = set(marked), '<tr class="marked">'
    cells = "".join(
        f"{marked_row if name in bold else '<tr>'}<th>{text(name)}</th>"
        f"<td>{text(_value(value))}</td></tr>"
        for name, value in rows
    )
    return f'<table class="pairs">{cells}</table>' if cells else ""


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """The few figures that matter, large."""
    shown = "".join(f"<div><dt>{text(n)}</dt><dd>{text(v)}</dd></div>" for n, v in figures)
    return f'<dl class="tiles">{shown}</dl>' if shown else ""


def section(title: str, body: str, name: str = "") -> str:
    """A headed part of the page; nothing where it is empty."""
    anchor = f' id="{text(name)}"' if name else ""
    return f"<section{anchor}><h2>{text(title)}</h2>{body}</section>" if body else ""


def details(title: str, body: str) -> str:
    """What is folded away until somebody asks for it."""
    return f"<details><summary>{text(title)}</summary>{body}</details>" if body else ""


def picture(image: Picture) -> str:
    """An image with its name, its bytes in the page."""
    data = base64.b64encode(image.data).decode()
    name = text(image.name.replace("_", " "))
    return (
        f'<figure class="picture"><img alt="{name}" src="data:{image.kind};base64,{data}"/>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def page(title: str, body: Sequence[str], generator: str) -> str:
    """A whole page, which may load nothing and run nothing."""
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
    """How a value is shown; of what is nested only the outside, since YAML may refer to itself."""
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
.curve svg { display: block; width: 100%; height: auto; }
.curve text { fill: var(--soft); font-size: 11.5px; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); }
.line.s2 { stroke: var(--s2); } .line.s3 { stroke: var(--s3); }
.dot.s0 { fill: var(--s0); } .dot.s1 { fill: var(--s1); }
.dot.s2 { fill: var(--s2); } .dot.s3 { fill: var(--s3); }
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
