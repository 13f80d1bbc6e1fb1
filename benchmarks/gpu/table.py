"""The table of figures, made from the lines of the parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .card import WHOLE

__all__ = ["table"]


def table(results: Path) -> str:
    """Markdown of a file of results: for each machine and part, a row a case.

    Of a figure that was measured twice, the last line counts; an error counts until its case has
    a figure.
    """
    machines: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for text in results.read_text().splitlines():
        line = json.loads(text)
        cases = machines.setdefault(line["machine"], {}).setdefault(line["part"], {})
        row = cases.setdefault(line["case"], {})
        if "error" in line:
            row["error"] = line["error"]
        else:
            row.pop("error", None)
            row[line["figure"]] = line["value"]
    blocks = []
    for machine, parts in machines.items():
        blocks.append(f"# {machine}")
        for part, cases in parts.items():
            whole = cases.pop(WHOLE, {})
            outcome = whole.get("error", f"{whole.get('seconds', 0):.0f} s")
            blocks.append(f"## {part}\n\n{outcome}")
            if cases:
                blocks.append(_rows(cases))
    return "\n\n".join(blocks) + "\n"


def _rows(cases: dict[str, dict[str, Any]]) -> str:
    figures: dict[str, None] = {}  # in the order in which they were first measured
    for row in cases.values():
        figures.update(dict.fromkeys(row))
    lines = [f"| case | {' | '.join(figures)} |", f"|---|{'---|' * len(figures)}"]
    for case, row in cases.items():
        cells = [_text(row.get(figure)) for figure in figures]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _text(value: Any) -> str:
    """A value with three digits or, of larger numbers, all before the point."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "/")
