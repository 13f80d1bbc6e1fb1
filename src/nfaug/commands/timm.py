"""nfaug timm."""

from __future__ import annotations

import sys
import traceback
from argparse import SUPPRESS
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..augment.config import MixConfig
from .common import CHECKPOINT, add_autoencoder, fit_first, mixing
from .parser import new_parser

# What --help shows.
_USUAL = ("script", "checkpoint", "autoencoder", "p", "mix")


def expand(argv: Sequence[str]) -> list[str]:
    """Pass all words after -- to the script unchanged, including those that look like options."""
    words = list(argv)
    if "--" not in words:
        return words
    end = words.index("--")
    options = words[:end]
    for word in words[end + 1 :]:
        options.append(f"--script-arg={word}")
    return options


def parser() -> ArgumentParser:
    """Options of `nfaug timm`."""
    parser = new_parser(
        "timm",
        "Run timm's train.py, or another script that calls timm.data.create_loader, unedited and "
        "with NFA. The script's own arguments follow the word --.",
        "Mixup and CutMix run after NFA, on the device. Random erasing runs in timm's prefetcher, "
        "before NFA.",
        usage="SCRIPT --checkpoint CHECKPOINT [options] -- [arguments]",
        example="nfaug timm train.py --checkpoint my-nfa -- --data-dir my-data --model resnet18",
    )
    parser.unknown_hint = (
        " (arguments of the script follow --, as in: nfaug timm train.py --checkpoint my-nfa -- "
        "--model resnet18)"
    )
    parser.add_argument("script", help="the script; its own arguments follow --")
    parser.add_argument("--checkpoint", required=True, help=CHECKPOINT)
    add_autoencoder(parser)
    parser.add_class_arguments(MixConfig)
    parser.add_argument("--script-arg", action="append", type=str, default=[], help=SUPPRESS)
    parser.show_all_with("--help-all", _USUAL)
    return parser


def run(arguments: Namespace) -> dict[str, Any] | str:
    """Run the script, and return NFA's counters: with --json as figures, otherwise as a line.

    The line also says what happens if NFA left many images unchanged.
    """
    from ..augment.transform import NFAugment
    from ..checkpoint.checkpoint import load
    from ..integrations.timm import run_script
    from ..integrations.timm.counts import format_stats, many_unchanged

    config = mixing(arguments)
    checkpoint = load(arguments.checkpoint, autoencoder=arguments.autoencoder, gaussians=False)
    if checkpoint.pca is None:
        raise fit_first(arguments.checkpoint)
    nfa = NFAugment(checkpoint, config=config)
    print(f"NFA: {arguments.checkpoint}, p = {nfa.p}, in training loaders", file=sys.stderr)
    script_arguments = list(arguments.script_arg)
    try:
        stats = run_script(arguments.script, script_arguments, nfa)
    except Exception as error:
        # Errors of nfaug become one line on the command line; those of the script need a traceback.
        frames = list(traceback.walk_tb(error.__traceback__))
        frame, _ = frames[-1]
        if frame.f_globals.get("__name__", "").partition(".")[0] == "nfaug":
            raise
        traceback.print_exception(error)
        raise SystemExit(1) from None
    chosen = sum(count for name, count in stats.items() if name != "seen")
    if chosen and not stats["applied"]:
        raise ValueError(
            f"the script ran, and NFA augmented no image ({format_stats(stats)}): fit the "
            "checkpoint to images like those that the script trains on"
        )
    if arguments.json:
        return dict(stats)
    line = format_stats(stats)
    message = many_unchanged(stats)
    if message:
        line += f". {message}"
    return line
