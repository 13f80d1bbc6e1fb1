"""nfaug convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..checkpoint.checkpoint import Checkpoint, CheckpointConfig
from ..io.atomic import check_output
from ..io.text import printable
from .common import locks_out, new_parser

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug convert`."""
    made = new_parser(
        "convert",
        "Convert a checkpoint of the paper's released implementation (a Lightning .ckpt file) to "
        "a checkpoint directory. The file is a pickle: nothing in it is imported or run.",
        "Then fit it to your images with nfaug fit, since released files hold no PCA axes.",
    )
    made.add_argument("file", help="the released .ckpt file")
    made.add_argument("--out", required=True, help="the checkpoint directory to write")
    made.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    made.add_argument(
        "--class-names", type=list[str] | None, help="names in label order; numbers by default"
    )
    return made


@locks_out
def run(arguments: Namespace) -> dict[str, Any]:
    """Convert and save."""
    from ..checkpoint.convert import convert_checkpoint

    out = Path(arguments.out)
    check_output(out, overwrite=arguments.overwrite)
    found = convert_checkpoint(arguments.file)
    number = 0 if found.gaussians is None else found.gaussians.num_classes
    names = arguments.class_names or [str(y) for y in range(number)]
    if len(names) != number:
        raise ValueError(f"the file has {number} classes; --class-names gives {len(names)}")
    config = CheckpointConfig(
        found.flow.config,
        class_names=tuple(names),
        gaussians={"kind": "released"} if number else {},
        training={"converted_from": printable(Path(arguments.file).name), **found.info},
    )
    Checkpoint(found.flow, config, found.gaussians).save(out, overwrite=True)
    return {
        "out": str(out),
        "flow": found.flow.config.to_dict(),
        "classes": number,
        **found.info,
    }
