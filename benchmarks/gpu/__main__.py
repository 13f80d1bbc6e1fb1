"""What a GPU does with the package: one table, with the card's name, in 40 minutes of an H100.

    make gpu                                 the CUDA tests, then all parts
    python -m benchmarks.gpu step train      some parts
    python -m benchmarks.gpu --tiny          all of them, tiny: does everything run? Also on a CPU
    python -m benchmarks.gpu --table         the table of what was measured, and no measurement

| part | minutes | figures |
|---|---|---|
| rates | 1 | TFLOP/s of matrix products, GB/s, microseconds a launch |
| waits | 1 | how often a call of `NFAugment` makes the host wait |
| agree | 1 | CPU against GPU in gray levels, and the GPU against itself |
| calls | 3 | a call of `NFAugment` alone: ms, launches, peak memory |
| step | 3 | a step of ResNet-50 at batch 128 and 256, 224 pixels, and its ratio to one without NFA: rgb32, pixels. Aim: at most 1.10 |
| small | 2 | the same of ResNet-18 at 32 and 64 pixels, which takes the host longer than the GPU |
| compiled | 6 | the step of ResNet-50 with a compiled flow |
| exact | 4 | images that do not come back bit for bit: TF32, cudnn.benchmark, batch size, compiled |
| limit | 3 | encode and decode, in NHWC and NCHW, beside their convolutions in float32, TF32, bfloat16 |
| train | 3 | training images/s of the paper's flow, hours to 500 epochs, waits, peak memory |
| fit | 3 | images/s of a fit of JPEGs |
| bank | 3 | images/s of a bank of JPEGs |
| compare | 3 | seconds and accuracies of a small comparison on the card and on the CPU |
| nccl | 1 | a step of distributed training in one process under torchrun, by NCCL |

On a machine that is lent for ten minutes at a time, these calls fit (`CALLS`):

    rates waits agree calls
    step small
    compiled
    exact limit
    train fit
    bank compare nccl

The minutes are estimates until a card has run them. Each part runs in a process of its own, and
ends after three times its minutes, at most nine: an error, also one after which a process cannot
use the GPU, does not stop the next part. Each figure is a JSON line in `results.jsonl` in the
folder `--out` (runs/gpu), as soon as it is measured; the table, `table.md` beside it, is made from
all lines there. Parts can therefore be measured one by one, and again. Ratios are medians over
rounds in which all take turns. Nothing is read from the network.
"""  # noqa: E501

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from .augment import agree, calls, waits
from .card import WHOLE, Card
from .files import bank, fit
from .flows import exact, limit, rates, train
from .steps import compiled, small, step
from .table import table
from .whole import compare, nccl


class Part(NamedTuple):
    """A part, and the minutes of an H100 that it should take."""

    run: Callable[[Card], None]
    minutes: int


PARTS = {
    "rates": Part(rates, 1),
    "waits": Part(waits, 1),
    "agree": Part(agree, 1),
    "calls": Part(calls, 3),
    "step": Part(step, 3),
    "small": Part(small, 2),
    "compiled": Part(compiled, 6),
    "exact": Part(exact, 4),
    "limit": Part(limit, 3),
    "train": Part(train, 3),
    "fit": Part(fit, 3),
    "bank": Part(bank, 3),
    "compare": Part(compare, 3),
    "nccl": Part(nccl, 1),
}
#: Parts that fit into ten minutes together.
CALLS = (
    "rates waits agree calls",
    "step small",
    "compiled",
    "exact limit",
    "train fit",
    "bank compare nccl",
)
_LONGEST = 9  # minutes of a part: what it noted until then is in the results


def run_part(card: Card) -> None:
    """Run the card's part here."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    PARTS[card.part].run(card)


def run_apart(card: Card) -> bool:
    """Run the card's part in a process of its own; return whether it ended without an error."""
    words = [sys.executable, "-m", "benchmarks.gpu", card.part, "--here"]
    words += ["--device", str(card.device), "--out", str(card.results.parent)]
    words += ["--tiny"] * card.tiny
    start = time.perf_counter()
    with card.case(WHOLE):
        minutes = min(3 * PARTS[card.part].minutes, _LONGEST)
        subprocess.run(words, check=True, timeout=60 * minutes)
        card.note(WHOLE, seconds=time.perf_counter() - start)
        return True
    return False


def main(words: list[str] | None = None) -> int:
    """Run parts, write their table, and return 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0]
    )
    parser.add_argument("parts", nargs="*", help=f"some of: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--table", action="store_true", help="write the table and measure nothing")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    device = torch.device(options.device)
    if not options.tiny and not options.table and device.type != "cuda":
        parser.error("there is no GPU here; --tiny checks on a CPU that everything runs")
    options.out.mkdir(parents=True, exist_ok=True)
    card = Card(device, options.tiny, options.out / "results.jsonl")
    if options.here:
        [card.part] = options.parts
        run_part(card)
        return 0
    failed = False
    if not options.table:
        for card.part in options.parts or PARTS:
            failed |= not run_apart(card)
    text = table(card.results)
    (options.out / "table.md").write_text(text)
    print(text)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
