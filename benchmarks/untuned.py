"""What an augmentation gives at its default strength, on many kinds of images.

    python benchmarks/untuned.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets, a small network is trained from scratch and, with --weights, a network is
fine-tuned, on --per-class labelled images of each class: with what is safe for the images alone,
and with one augmentation more, at the defaults of its class: NFA in pixels with p = 0.5 from a bank
(as `nfaug compare` trains), torchvision's RandAugment and TrivialAugmentWide, its CutMix and MixUp
on every batch, and this package's SpecAugment on spectrograms. One row more asks whether NFA does
less harm with p = 0.25. --data is a folder of tars. --results gets a CSV file of cells for each set
and network, README.md with the tables, and untuned.png.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sets import (
    NETWORKS,
    NFA,
    NOTHING,
    SETS,
    cells_of,
    command_of,
    config_of,
    gain,
    hours_of,
    mean_of,
    networks_of,
    new_parser,
    opened,
    over_sets,
    size_of,
    train_all,
)
from torch import Tensor
from torchvision.transforms import v2

from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.figures import Cell
from nfaug.compare.rows import PIXELS
from nfaug.compare.transforms import transform_of
from nfaug.compare.work import bank_of, draw_batch
from nfaug.data.images import split_per_class, to_tensors
from nfaug.io.atomic import write_text

POLICIES = {
    "RandAugment": "randaugment",
    "TrivialAugment": "trivialaugment",
    "SpecAugment": "specaugment",
}
BATCHES: dict[str, Callable[[int], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "CutMix": lambda classes: v2.CutMix(num_classes=classes),
    "MixUp": lambda classes: v2.MixUp(num_classes=classes),
}
RARE = f"{NFA} at p = 0.25"
RARE_P = 0.25
ADDED = (NFA, RARE, *POLICIES, *BATCHES)
Study = tuple[str, str]  # a data set and a network


def is_spectrogram(name: str) -> bool:
    """Whether SpecAugment takes the place of RandAugment and TrivialAugment."""
    return SETS[name].safe == "spectrogram"


def rows_of(name: str) -> list[str]:
    """The rows of a data set."""
    rows = [NOTHING]
    for row in ADDED:
        if row not in POLICIES or is_spectrogram(name) == (row == "SpecAugment"):
            rows.append(row)
    return rows


def train(
    args: argparse.Namespace, study: Study, rows: Sequence[str], seed: int
) -> dict[str, Cell]:
    """The cell of each row: which images to judge by its classifier gets right."""
    return {row: train_row(args, study, row, seed) for row in rows}


def train_row(args: argparse.Namespace, study: Study, row: str, seed: int) -> Cell:
    """The cell of a row."""
    torch.set_num_threads(1)
    name, network = study
    pool, judged = opened(args.data, name, size_of(args, name, network))
    started = time.monotonic()
    config = config_of(args, network)
    few, _ = split_per_class(pool, args.per_class, seed)
    images, labels = to_tensors(few, progress=False)
    shape = images.shape[1:]
    classes = len(few.classes)
    torch.manual_seed(seed)
    policy = POLICIES.get(row, "")
    transform = transform_of(SETS[name].safe.split(","), policy, (shape[1], shape[2]))
    mixed = BATCHES[row](classes) if row in BATCHES else None
    bank = bank_of(PIXELS, few, config, seed) if row in (NFA, RARE) else None
    p = RARE_P if row == RARE else config.p

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch, targets = draw_batch(images, labels, bank, p, transform, rows)
        if mixed is None:
            return batch, targets
        return mixed(batch.float(), targets)  # a mean of bytes is none

    classifier = Classifier(config, shape, classes, seed)
    classifier.train(draw, len(labels))
    return Cell(classifier.right(*judged).numpy(), time.monotonic() - started)


def regrets(cells: Cells, rows: list[str]) -> dict[str, float]:
    """How far each row is below the best of a data set, in points; the best has 0."""
    means = {row: gain(cells, row).mean for row in rows}
    best = max(means.values())
    return {row: best - mean for row, mean in means.items()}


def summary(cells_by_set: Mapping[str, Cells]) -> list[str]:
    """Lines about the gains of all sets in which every policy has a row: all but spectrograms."""
    names = [name for name in cells_by_set if not is_spectrogram(name)]
    figures: dict[str, list[str]] = {"mean gain": [], "smallest gain": []}
    figures |= {"mean regret": [], "largest regret": []}
    regret = {name: regrets(cells_by_set[name], rows_of(name)) for name in names}
    for row in (NOTHING, *ADDED):
        if row == "SpecAugment" or not names:
            for column in figures.values():
                column.append("")
            continue
        gains = [gain(cells_by_set[name], row) for name in names]
        if row == NOTHING:
            figures["mean gain"].append("")
            figures["smallest gain"].append("")
        else:
            several = len(names) > 1
            mean = over_sets([each.mean for each in gains]) if several else str(gains[0])
            figures["mean gain"].append(mean)
            figures["smallest gain"].append(str(min(gains, key=lambda each: each.mean)))
        of_row = [regret[name][row] for name in names]
        figures["mean regret"].append(f"{np.mean(of_row):.1f}")
        figures["largest regret"].append(f"{max(of_row):.1f}")
    lines = []
    for what, column in figures.items():
        lines.append(f"| **{what}** | {' | '.join(column)} | |")
    return lines


def tables(args: argparse.Namespace, found: Mapping[Study, Cells]) -> str:
    """Gains of each set, and what they are over all sets."""
    lines = ["# Augmentations at their default strengths", ""]
    lines += [
        command_of("untuned.py"),
        "",
        f"{args.per_class} labelled images per class; gains in points of accuracy over what is "
        "safe for the images alone, with 95% intervals. The number of steps is the default of "
        "`nfaug compare`, which was chosen with the first two columns; rivals may gain from more. "
        f"{hours_of(found):.1f} hours of a core.",
        "",
        "![gains](untuned.png)",
        "",
    ]
    for network, title in NETWORKS.items():
        cells_by_set = {name: cells for (name, kind), cells in found.items() if kind == network}
        if not cells_by_set:
            continue
        lines += [f"## {title.capitalize()}", ""]
        lines.append(f"| images | {NOTHING}, % | {' | '.join(ADDED)} | seeds |")
        lines.append("|---" * (3 + len(ADDED)) + "|")
        for name, cells in cells_by_set.items():
            rows = rows_of(name)
            shown = [str(gain(cells, row)) if row in rows else "" for row in ADDED]
            number = min(gain(cells, row).number for row in rows)
            title = SETS[name].title
            plain = mean_of(cells, NOTHING)
            lines.append(f"| {title} | {plain:.1f} | {' | '.join(shown)} | {number} |")
        lines += summary(cells_by_set)
        lines.append("")
    lines.append(
        "The last four lines leave out speech, where not every augmentation has a row. The "
        "interval of a mean is one over data sets. The regret of a row is how far it is below the "
        f'best row of a data set; in the column of "{NOTHING}" it is that of adding nothing. The '
        "best row of a few seeds is in part the luckiest, so every regret is a little too large."
    )
    return "\n".join(lines) + "\n"


def picture(found: Mapping[Study, Cells], file: Path) -> None:
    """A dot for each data set and augmentation, with its interval; a column for each network."""
    from matplotlib import pyplot

    networks = [network for network in NETWORKS if any(kind == network for _, kind in found)]
    figure, axes = pyplot.subplots(
        1,
        len(networks),
        figsize=(4.6 * len(networks), 5.6),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    colours = pyplot.get_cmap("tab10").colors  # type: ignore[attr-defined]
    for network, axis in zip(networks, axes[0], strict=True):
        names = [name for name, kind in found if kind == network]
        for place, row in enumerate(ADDED):
            for number, name in enumerate(names):
                if row not in rows_of(name):
                    continue
                of_row = gain(found[name, network], row)
                height = place + 0.7 * (number / max(1, len(names) - 1) - 0.5)
                half = of_row.half if math.isfinite(of_row.half) else 0.0
                axis.errorbar(
                    of_row.mean,
                    height,
                    xerr=half,
                    fmt="o",
                    markersize=4,
                    linewidth=1,
                    color=colours[list(SETS).index(name) % 10],
                    label=SETS[name].title if place == 0 else None,
                )
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(ADDED)), ADDED)
        axis.set_title(NETWORKS[network])
        axis.set_xlabel("gain, points of accuracy")
    axes[0][0].invert_yaxis()
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0], "untuned")
    parser.add_argument("--steps", type=int, help="default: 800 from scratch, 300 fine-tuned")
    parser.add_argument("--seeds", type=int, default=8)
    parser.set_defaults(results=Path("benchmarks/results/untuned"))
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    found: dict[Study, Cells] = {}
    for name in args.sets:
        for network in networks_of(args):
            folder = args.out / f"{name}-{network}"
            size = size_of(args, name, network)
            found[name, network] = cells_of(args, name, network, folder, size)

    def write() -> None:
        for (name, network), cells in found.items():
            file = args.results / f"{name}-{network}.csv"
            write_text(file, cells.file.read_text(encoding="utf-8"))
        write_text(args.results / "README.md", tables(args, found))
        picture(found, args.results / "untuned.png")

    train_all(args, found, lambda study: [[row] for row in rows_of(study[0])], train, write)


if __name__ == "__main__":
    main()
