"""nfaug demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..io.atomic import check_output
from .common import new_parser

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug demo`."""
    made = new_parser(
        "demo",
        "The whole job on scikit-learn's handwritten digits, in minutes on a laptop: train a flow, "
        "fit it, draw what it does, and fine-tune a ResNet-18 on 10 and 50 labels per class "
        "without and with NFA. Writes report.md with pictures and a table.",
    )
    made.add_argument("--out", default="nfaug-demo", help="the folder to write")
    made.add_argument("--quick", action="store_true", help="the same path in under a minute")
    made.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Run it and point at the report."""
    from ..training.demo import DemoSettings, run_demo

    out = Path(arguments.out)
    check_output(out, overwrite=arguments.overwrite)
    settings = DemoSettings.quick() if arguments.quick else DemoSettings()
    result = run_demo(out, settings)
    return result | {"report": str(out / "report.md")}
