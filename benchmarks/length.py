"""How long a classifier must be trained until the row without an augmentation gains no more.

    python benchmarks/length.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets (those of benchmarks/untuned.py) and each number of --steps, classifiers are
trained on --per-class labelled images of each class, with what is safe for the images alone and
with NFA in pixels. --out keeps the cells, so that the same command goes on; --results gets
length.md.
"""

import argparse
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy import stats
from untuned import (
    NETWORKS,
    NFA,
    NOTHING,
    SETS,
    gain,
    networks_of,
    new_parser,
    opened,
    train,
)

from nfaug.compare.cells import Cells
from nfaug.compare.report.figures import gain_of
from nfaug.io.atomic import write_text

Found = dict[tuple[str, str, int], Cells]


def mean_of(cells: Cells, row: str) -> float:
    """The mean accuracy of a row over its seeds."""
    return float(np.mean([cell.accuracy for (name, _), cell in cells.items() if name == row]))


def over_sets(ours: list[float], others: list[float]) -> str:
    """The mean difference of two rows, with a 95% interval over data sets (Student's t)."""
    differences = np.subtract(ours, others)
    error = differences.std(ddof=1) / len(differences) ** 0.5
    half = error * stats.t.ppf(0.975, len(differences) - 1)
    return f"{differences.mean():+.1f} ± {half:.1f}"


def page(args: argparse.Namespace, found: Found) -> str:
    """Accuracy without augmentation by the number of steps, and NFA's gain."""
    hours = sum(cells.seconds for cells in found.values()) / 3600
    lines = ["# How long to train", "", f"`python benchmarks/length.py {shlex.join(args.given)}`"]
    lines += [
        "",
        f"{args.per_class} labelled images per class. {hours:.1f} hours of a core. Accuracy of "
        f'"{NOTHING}" in per cent, and in brackets what more it has than with the number of steps '
        "before, with a 95% interval; below it the gain of NFA in pixels over it.",
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
            more.append("" if before is None else over_sets(plain_means, before))
            means.append(over_sets(nfa_means, plain_means))
            before = plain_means
        lines.append(f"| **mean of the sets** | {NOTHING}, more than before | {' | '.join(more)} |")
        lines.append(f"| | {NFA} | {' | '.join(means)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[200, 400, 800, 1600])
    parser.add_argument("--finetuned-steps", type=int, nargs="+", default=[150, 300, 600])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/length"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    args.given = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    found: Found = {}
    for name in args.sets:
        for network in networks_of(args):
            size = SETS[name].size if network == "scratch" else args.image_size
            count = len(opened(args.data, name, size)[1][1])
            for steps in args.steps if network == "scratch" else args.finetuned_steps:
                record = {"set": name, "network": network, "size": size, "steps": steps}
                folder = args.out / f"{name}-{network}-{steps}"
                found[name, network, steps] = Cells(folder, record, count)
    with ProcessPoolExecutor(args.processes) as pool:
        for seed in range(args.seeds):
            jobs = {}
            for (name, network, steps), cells in found.items():
                for row in (NOTHING, NFA):
                    if (row, seed) not in cells:
                        given = argparse.Namespace(**{**vars(args), "steps": steps})
                        job = pool.submit(train, given, name, network, row, seed)
                        jobs[name, network, steps, row] = job
            for (name, network, steps, row), job in jobs.items():
                cell = job.result()
                found[name, network, steps].add(row, seed, cell.right, cell.seconds)
                print(f"{name}, {network}, {steps} steps, {row}, {seed}: {cell.accuracy:.1f}%")
                sys.stdout.flush()
            write_text(args.results / "length.md", page(args, found))


if __name__ == "__main__":
    main()
