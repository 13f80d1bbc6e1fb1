"""nfaug report."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from .common import new_parser

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug report`."""
    made = new_parser(
        "report",
        "Write an HTML report of a training run, finished or still running: curves, pictures, "
        "settings and environment. The page is self-contained.",
    )
    made.add_argument("run", help="the folder of the run, the --out of nfaug train")
    made.add_argument(
        "--out", help="the page to write or replace (default: report.html in the folder)"
    )
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Write the report."""
    from ..training.report.page import write_report

    path = write_report(arguments.run, arguments.out)
    return {"report": str(path), "bytes": path.stat().st_size}
