"""How long a classifier must be trained until the row without an augmentation gains no more.

    python benchmarks/length.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets (those of benchmarks/sets.py) and each number of --steps, classifiers are
trained on --per-class labelled images of each class, with what is safe for the images alone and
with NFA in pixels. --out keeps the cells, so that the same command goes on; --results gets
length.md.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from sets import (
    NETWORKS,
    NFA,
    NOTHING,
    SETS,
    cells_of,
    command_of,
    gain,
    hours_of,
    mean_of,
    networks_of,
    new_parser,
    over_sets,
    size_of,
    train_all,
)
from untuned import train_row

from nfaug.compare.cells import Cells
from nfaug.compare.figures import Cell, gain_of
from nfaug.io.atomic import write_text

Study = tuple[str, str, int]  # a data set, a network, and a number of steps
Found = dict[Study, Cells]


def with_steps(args: argparse.Namespace, steps: int) -> argparse.Namespace:
    """The options with one number of steps."""
    return argparse.Namespace(**{**vars(args), "steps": steps})


def train(
    args: argparse.Namespace, study: Study, rows: Sequence[str], seed: int
) -> dict[str, Cell]:
    """The cell of each row."""
    name, network, steps = study
    given = with_steps(args, steps)
    return {row: train_row(given, (name, network), row, seed) for row in rows}


def page(args: argparse.Namespace, found: Found) -> str:
    """Accuracy without augmentation by the number of steps, and NFA's gain."""
    lines = ["# How long to train", "", command_of("length.py")]
    lines += [
        "",
        f"{args.per_class} labelled images per class. {hours_of(found):.1f} hours of a core. "
        f'Accuracy of "{NOTHING}" in per cent, and in brackets what more it has than with the '
        "number of steps before, with a 95% interval; below it the gain of NFA in pixels over it.",
        "",
    ]
    for network in networks_of(args):
        steps = args.steps if network == "scratch" else args.finetuned_steps
        lines += [f"## {NETWORKS[network].capitalize()}", ""]
        lines.append(f"| images | | {' | '.join(f'{count:,} steps' for count in steps)} |")
        lines.append("|---" * (2 + len(steps)) + "|")
        for name in args.sets:
            plain = []
            gains = []
            before = None
            for count in steps:
                cells = found[name, network, count]
                ours = [cells[NOTHING, seed] for row, seed in sorted(cells) if row == NOTHING]
                text = f"{np.mean([cell.accuracy for cell in ours]):.1f}" if ours else ""
                if before and ours:
                    number = min(len(ours), len(before))
                    text += f" ({gain_of(ours[:number], before[:number])})"
                plain.append(text)
                gains.append(str(gain(cells, NFA)))
                before = ours
            lines.append(f"| {SETS[name].title} | {NOTHING} | {' | '.join(plain)} |")
            lines.append(f"| | {NFA} | {' | '.join(gains)} |")
        more = []
        means = []
        before = None
        for count in steps:
            plain_means = [mean_of(found[name, network, count], NOTHING) for name in args.sets]
            nfa_means = [mean_of(found[name, network, count], NFA) for name in args.sets]
            more.append("" if before is None else over_sets(np.subtract(plain_means, before)))
            means.append(over_sets(np.subtract(nfa_means, plain_means)))
            before = plain_means
        lines.append(f"| **mean of the sets** | {NOTHING}, more than before | {' | '.join(more)} |")
        lines.append(f"| | {NFA} | {' | '.join(means)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0], "length")
    parser.add_argument("--steps", type=int, nargs="+", default=[200, 400, 800, 1600])
    parser.add_argument("--finetuned-steps", type=int, nargs="+", default=[150, 300, 600])
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    found: Found = {}
    for name in args.sets:
        for network in networks_of(args):
            size = size_of(args, name, network)
            for steps in args.steps if network == "scratch" else args.finetuned_steps:
                folder = args.out / f"{name}-{network}-{steps}"
                given = with_steps(args, steps)
                found[name, network, steps] = cells_of(given, name, network, folder, size)

    def write() -> None:
        write_text(args.results / "length.md", page(args, found))

    train_all(args, found, lambda _: [[NOTHING], [NFA]], train, write)


if __name__ == "__main__":
    main()
