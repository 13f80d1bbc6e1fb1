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
        "Write one HTML page about a training run, finished or still running: curves, pictures, "
        "settings, environment. The page needs no other file and no network.",
    )
    made.add_argument("run", help="the folder of the run: the --out of nfaug train")
    made.add_argument(
        "--out", help="the page to write; report.html in the folder by default. It is replaced"
    )
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Read the folder, write the page."""
    from ..training.report.page import write_report

    path = write_report(arguments.run, arguments.out)
    return {"report": str(path), "bytes": path.stat().st_size}
