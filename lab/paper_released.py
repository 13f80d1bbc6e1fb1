"""Tables 2 and 3 of the paper, and Eq. 9 against Eq. 10, by the authors' rule and schedule.

    python lab/data.py fashion --out runs
    python lab/paper_released.py --name fashion-mnist --data runs/fashion-mnist-train.npz \\
        --test-data runs/fashion-mnist-test.npz
    python lab/data.py cifar10 --out runs
    python lab/paper_released.py --name cifar10 --data runs/cifar10-train-50000.tar

trains one small flow for each missing cell (setting x seed), measures NF-Acc and CNN-Acc, and
appends a row to results/paper_tables/released.csv; the same command goes on after an interruption,
cell by cell. Without --test-data, 1,000 images of each class of --data are the test set, and the
rest is what seeds draw from. `--plan` prints the cells of both data sets and their hours, and
`--print` the tables, with what was found of the paper's orders. The protocol, written before the
first run, is in results/paper_tables/README.md.

Eq. 9 and Eq. 10 are compared at the weights that are best at seed 0, each, over other seeds.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cnn_acc import PASSES, cnn_accuracy
from paper_tables import RESULTS, Setting, config, interval, spread
from torch import Tensor

from nfaug import open_dataset
from nfaug.checkpoint.checkpoint import sample_images
from nfaug.classes.fixed_point import FixedPointConfig, FixedPointDivergence
from nfaug.data.batches import Decoded, decode
from nfaug.data.images import Images
from nfaug.training import TrainingDiverged, train
from nfaug.training.config import TrainPriorConfig
from nfaug.training.metrics import evaluate

COLUMNS = [
    "data", "setting", "seed", "train_images", "epochs", "steps", "minutes", "cnn_minutes",
    "nf_acc", "bits_per_dim", "cnn_acc", "converged", "residual", "torch",
]  # fmt: skip
Row = dict[str, str]
Cells = dict[tuple[str, int], Row]  # by setting and seed


class Kind(NamedTuple):
    """A data set: the side that its images are padded to, the values of an image then, its tables.

    `minutes` are what a flow and CNN-Acc took on one core before the first cell.
    """

    padded: int | None
    dimensions: int
    tables: tuple[str, ...]
    minutes: float


KINDS = {
    "fashion-mnist": Kind(32, 1024, ("3", "2", "kernel"), 10.0),
    "cifar10": Kind(None, 3072, ("3",), 15.0),
}
#: The authors' weights c for 10 classes in 3,072 dimensions. A weight grows with the dimension.
AUTHORS = {"means": 5556, "covariances": 1111, "both": 3333}
#: Weights for 10 classes in 1,024 dimensions, and the paper's row. At the paper's weight for 100
#: classes in 3,072 dimensions, 99 / 9 / 3 times smaller, classes are as far apart.
TABLE_2 = {
    37: "10: 39.48, CNN 31.37",
    183: "50: 63.58, CNN 44.57",
    367: "100: 66.87, CNN 46.38",
    1111: "300: 70.42, CNN 42.65",
    1833: "500: 70.08, CNN 37.27",
}
AVERAGED = (37, 183, 1111)  # weights with the pi of Eq. 10
TITLES = {
    "3": "Table 3: what is fitted",
    "2": "Table 2: the weight",
    "kernel": "Eq. 10, at weights of Table 2",
}
#: What the paper's tables say: a column, and which line of a table is above which.
ORDERS = {
    "3": [
        ("nf_acc", 1, 2), ("nf_acc", 3, 2), ("nf_acc", 2, 0),
        ("cnn_acc", 1, 0), ("cnn_acc", 3, 0), ("cnn_acc", 1, 2), ("cnn_acc", 3, 2),
    ],
    "2": [("nf_acc", 3, 0), ("cnn_acc", 2, 0), ("cnn_acc", 2, 4)],
}  # fmt: skip
FIGURES = {"nf_acc": "NF-Acc", "cnn_acc": "CNN-Acc"}


class Difference(NamedTuple):
    """A mean difference in points, half of its 95% interval, and the number of seeds."""

    mean: float
    half: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.half:.1f} ({self.seeds} seeds)"


def fixed_point(
    fit: Any, weight: float, kernel: Any = "forward", *, damping: float = 0.5
) -> TrainPriorConfig:
    """The authors' rule, their schedule, and as many iterations as theirs."""
    settings = FixedPointConfig(
        fit=fit,
        kld_weight=weight,
        kernel=kernel,
        update="released",
        damping=damping,
        max_iterations=1000,
    )
    return TrainPriorConfig(kind="fpi", fixed_point=settings, schedule="once")


def tables_of(name: str) -> dict[str, list[Setting]]:
    """The tables of a data set."""
    kind = KINDS[name]

    def fitted(label: str, fit: str, paper: str) -> Setting:
        weight = round(AUTHORS[fit] * kind.dimensions / 3072)
        return Setting(f"{label}, c = {weight:,}", fixed_point(fit, weight), paper)

    data = TrainPriorConfig(kind="data", schedule="once")
    tables = {
        "3": [
            Setting("#1 without KLD", data, "77.31, CNN 62.1 / 39.16, CNN 23.03"),
            fitted("#2 KLD on means", "means", "93.2, CNN 74.76 / 71.65, CNN 37.02"),
            fitted("#3 KLD on covariances", "covariances", "88.75, CNN 61.94 / 57.76, CNN 30.58"),
            fitted("#4 KLD on both", "both", "93.63, CNN 73.03 / 70.42, CNN 42.65"),
        ],
        "2": [Setting(f"c = {c:,}", fixed_point("both", c), paper) for c, paper in TABLE_2.items()],
        "kernel": [Setting(f"c = {c:,}", fixed_point("both", c, "mean"), "") for c in AVERAGED],
    }
    return {table: tables[table] for table in kind.tables}


def rows(args: argparse.Namespace, name: str) -> Cells:
    """The finished cells of a data set."""
    if not args.csv.exists():
        return {}
    with args.csv.open(newline="") as file:
        lines = [row for row in csv.DictReader(file) if row["data"] == name]
    return {(row["setting"], int(row["seed"])): row for row in lines}


def kept(args: argparse.Namespace, name: str) -> dict[str, list[Setting]]:
    """The tables of a data set, without the settings that are left out."""
    return {
        table: [setting for setting in settings if setting.key not in args.without]
        for table, settings in tables_of(name).items()
    }


def best(found: Cells, settings: Sequence[Setting]) -> Setting | None:
    """The setting of the highest NF-Acc at seed 0; None if a cell or every setting is missing."""
    accuracy = {}
    for setting in settings:
        row = found.get((setting.key, 0))
        if row is None:
            return None
        accuracy[setting.key] = float(row["nf_acc"] or 0)  # a solve that diverged has none
    return max(settings, key=lambda setting: accuracy[setting.key], default=None)


def cells(args: argparse.Namespace, name: str) -> list[tuple[Setting, int]]:
    """The cells that are known, in their order; those of a chosen weight once seed 0 is done."""
    found = rows(args, name)
    tables = kept(args, name)
    wanted = {}
    for seed in range(args.seeds):
        for table in ("3", "kernel", "2"):
            if table != "kernel" or seed == 0:
                wanted |= {(s.key, seed): (s, seed) for s in tables.get(table, ())}
    if "kernel" in tables:
        for table in ("2", "kernel"):
            chosen = best(found, tables[table])
            if chosen is not None:
                for seed in range(1, args.seeds + 1):
                    wanted[chosen.key, seed] = (chosen, seed)
    return list(wanted.values())


def parts(args: argparse.Namespace) -> tuple[Images, tuple[Tensor, Tensor]]:
    """The images that seeds draw from, and the test images with their classes."""
    pool = open_dataset(args.data, progress=False)
    if args.test_data:
        tested = open_dataset(args.test_data, progress=False)
    else:
        tested, pool = pool.split(per_class=args.test_images, seed=0)
    return pool, (decode(tested, progress=False), tested.targets)


def run_cells(args: argparse.Namespace) -> None:
    """Train, measure and record each cell that is not in the CSV file."""
    pool, test = parts(args)
    while True:
        found = rows(args, args.name)
        missing = [(s, seed) for s, seed in cells(args, args.name) if (s.key, seed) not in found]
        if not missing:
            return
        row = cell(args, *missing[0], pool, test)
        new = not args.csv.exists()
        with args.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(f"{len(missing)} cells to do; done: {row}", flush=True)


def cell(
    args: argparse.Namespace,
    setting: Setting,
    seed: int,
    pool: Images,
    test: tuple[Tensor, Tensor],
) -> dict[str, Any]:
    """The row of a setting and a seed. One that diverges has no accuracy, and says how."""
    started = time.process_time()  # of a core: the machine may be shared
    few, _ = pool.split(per_class=args.per_class, seed=seed)
    row = {"data": args.name, "setting": setting.key, "seed": seed, "train_images": len(few)}
    row |= {"epochs": args.epochs, "torch": torch.__version__}
    try:
        result = train(few, config=config(args, setting.prior, seed), progress=False)
    except (FixedPointDivergence, TrainingDiverged) as error:
        minutes = (time.process_time() - started) / 60
        return row | {"minutes": f"{minutes:.2f}", "converged": type(error).__name__}
    flow, gaussians = result.checkpoint.flow, result.checkpoint.gaussians
    assert gaussians is not None
    figures = evaluate(flow, gaussians, Decoded(*test))
    between = time.process_time()
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(gaussians.num_classes).repeat_interleave(args.per_class)
    images = sample_images(flow, gaussians, labels, generator=generator)
    share = cnn_accuracy(images, labels, test, passes=args.passes, seed=seed)
    ended = time.process_time()
    record = result.checkpoint.config.gaussians
    if "residual" in record:
        row |= {"converged": record["converged"], "residual": f"{record['residual']:.3g}"}
    return row | {
        "steps": len(result.loss),
        "minutes": f"{(ended - started) / 60:.2f}",
        "cnn_minutes": f"{(ended - between) / 60:.2f}",
        "nf_acc": f"{100 * figures['nf_acc']:.2f}",
        "bits_per_dim": f"{figures['bits_per_dim']:.4f}",
        "cnn_acc": f"{100 * share:.2f}",
    }


def plan(args: argparse.Namespace) -> str:
    """The cells of both data sets, those that are done, and the hours of a core that are left."""
    lines = ["| data | cells | done | minutes each | hours left |", "|---|---|---|---|---|"]
    hours = 0.0
    for name, kind in KINDS.items():
        found = rows(args, name)
        known = cells(args, name)
        count = len(known)
        tables = kept(args, name)
        if "kernel" in tables and best(found, tables["kernel"]) is None:
            count += args.seeds + 1  # the chosen weight of Eq. 10, and one more seed of Eq. 9's
        minutes = kind.minutes
        if found:
            minutes = statistics.fmean(float(row["minutes"]) for row in found.values())
        left = (count - len(found)) * minutes / 60
        hours += left
        lines.append(f"| {name} | {count} | {len(found)} | {minutes:.1f} | {left:.1f} |")
    return "\n".join([*lines, "", f"{hours:.1f} hours of a core."])


def table(args: argparse.Namespace, name: str, number: str) -> str:
    """A table of a data set: means over seeds with a standard deviation."""
    found = rows(args, name)
    lines = [
        f"### {TITLES[number]}: {name}",
        "",
        "| setting | NF-Acc, % | bits/dim | CNN-Acc, % | solves that converged | paper |",
        "|---|---|---|---|---|---|",
    ]
    for setting in kept(args, name)[number]:
        mine = [row for (key, _), row in found.items() if key == setting.key]
        words = [setting.label]
        for column, digits in (("nf_acc", 1), ("bits_per_dim", 2), ("cnn_acc", 1)):
            words.append(spread([float(row[column]) for row in mine if row[column]], digits))
        solved = [row["converged"] == "True" for row in mine if row["converged"]]
        words += [f"{sum(solved)} of {len(solved)}", setting.paper]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def difference(
    found: Cells, column: str, high: Setting, low: Setting, seeds: range
) -> Difference | None:
    """The mean difference of two settings in a column, paired by seed; None for fewer than two."""
    values = []
    for seed in seeds:
        ours = found.get((high.key, seed), {}).get(column)
        others = found.get((low.key, seed), {}).get(column)
        if ours and others:
            values.append(float(ours) - float(others))
    if len(values) < 2:
        return None
    return Difference(*interval(values), len(values))


def verdict(steps: Sequence[Difference | None]) -> str:
    """What was found of an order, from its steps."""
    known = [step for step in steps if step is not None]
    if len(known) < len(steps):
        return "not measured"
    if all(step.mean > step.half for step in known):
        return "found"
    if any(step.mean <= 0 for step in known):
        return "not found"
    return "not decided"


def order(args: argparse.Namespace, name: str, number: str) -> str:
    """The steps of a table's order, by each figure, and whether it was found."""
    found = rows(args, name)
    settings = tables_of(name)[number]
    lines = []
    for column, title in FIGURES.items():
        steps = []
        for high, low in [step[1:] for step in ORDERS[number] if step[0] == column]:
            step = difference(found, column, settings[high], settings[low], range(args.seeds))
            steps.append(step)
            words = f"{title}, {settings[high].label} less {settings[low].label}"
            lines.append(f"- {words}: {step or 'not measured'}")
        lines.append(f"- **The paper's order of {title}: {verdict(steps)}.**")
    return "\n".join(lines)


def kernels(args: argparse.Namespace, name: str) -> str:
    """Eq. 9 less Eq. 10, each at the weight that is best at seed 0."""
    found = rows(args, name)
    tables = kept(args, name)
    forward = best(found, tables["2"])
    averaged = best(found, tables["kernel"])
    if forward is None or averaged is None:
        return "Eq. 9 less Eq. 10: not measured"
    lines = [f"Eq. 9 at {forward.label} less Eq. 10 at {averaged.label}, without seed 0:", ""]
    for column, title in FIGURES.items():
        step = difference(found, column, forward, averaged, range(1, args.seeds + 1))
        lines.append(f"- {title}: {step or 'not measured'}")
    return "\n".join(lines)


def printed(args: argparse.Namespace) -> str:
    """All tables, and what was found of their orders."""
    texts = []
    for name, kind in KINDS.items():
        for number in kind.tables:
            texts.append(table(args, name, number))
            if number in ORDERS:
                texts.append(order(args, name, number))
            else:
                texts.append(kernels(args, name))
    return "\n\n".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", choices=list(KINDS), default="fashion-mnist")
    parser.add_argument("--data", help="images to train on")
    parser.add_argument("--test-data", help="test images where they are not a part of --data")
    parser.add_argument("--test-images", type=int, default=1000, help="of a class, out of --data")
    parser.add_argument("--per-class", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--passes", type=int, default=PASSES, help="over the images of the flow")
    parser.add_argument("--without", nargs="+", default=[], help="settings to leave out")
    parser.add_argument("--csv", type=Path, default=RESULTS / "paper_tables/released.csv")
    parser.add_argument("--plan", action="store_true", help="print the cells and hours, and stop")
    parser.add_argument("--print", action="store_true", help="print the tables, and stop")
    args: Any = parser.parse_args()
    torch.set_num_threads(1)
    args.padded = KINDS[args.name].padded
    if args.plan:
        print(plan(args))
        return
    if not args.print:
        if args.data is None:
            parser.error("--data is needed (or --plan, or --print)")
        run_cells(args)
    print(printed(args))


if __name__ == "__main__":
    main()
