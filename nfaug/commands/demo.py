"""nfaug demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..io.atomic import check_output
from .common import locks_out, new_parser

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug demo`."""
    made = new_parser(
        "demo",
        "Run every step in minutes on a laptop: draw variants of colour photographs with the "
        "bundled flow, train a flow on scikit-learn's handwritten digits without labels, and "
        "compare small CNNs with and without NFA over ten seeds. Writes report.md with pictures, "
        "a plot and a table.",
    )
    made.add_argument("--out", default="nfaug-demo", help="the folder to write")
    made.add_argument("--quick", action="store_true", help="a shorter run, under a minute")
    made.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    return made


@locks_out
def run(arguments: Namespace) -> dict[str, Any]:
    """Run the demo and return its figures."""
    from ..training.demo import DemoSettings, run_demo

    out = Path(arguments.out)
    check_output(out, overwrite=arguments.overwrite)
    settings = DemoSettings.quick() if arguments.quick else DemoSettings()
    result = run_demo(out, settings)
    return result | {"report": str(out / "report.md")}
