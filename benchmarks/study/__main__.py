"""Does NFA help, and what does it cost? Accuracy with 95% confidence intervals over seeds.

    python -m benchmarks.study --table settings --work WORK
    python -m benchmarks.study --table main flows --work WORK --other CIFAR --jobs 2
    python -m benchmarks.study --print

Run it from the repository root, with the extra `train` installed. CIFAR is a folder or tar of
10,000 images of CIFAR-10.

Each finished cell is a row of results/study.csv. The same command continues after an interruption.
Then results/study.md and docs/study.png are written from all rows. Flows and banks of variants are
made once and kept in --work, outside the repository. Use a new --work after a change to the code
that makes them: flows.py, banks.py, candidates.py and what these use of nfaug. All rows of a CSV
must come from the same images (--data, --test-data, --other, --unlabelled), flows and code: use a
new --csv after a change of these.

Rules of the comparison:

- The class gaussians, axes and memory of an arm are fitted to its labelled images alone. A column
  of the table says which images the flow was trained on.
- Settings are chosen on images held out of the training images, with other seeds than those that
  are reported. Each cell of a reported table uses the test images once. The flows "u", "b", "n..."
  and "c" saw all training images of Fashion-MNIST or CIFAR-10 without labels, held-out images
  included, and no test image. NFA with them uses more images than rivals do; "p" and "l" do not.
- In the tables of comparison.py, every rival has six candidates and RandAugment nine; for
  photographs, for digits and for other numbers of labels than 50, three and five. What comes before
  RandAugment has three shares p of its own with 50 labels, and NFA its default strength as well.
  With larger networks, RandAugment has two candidates (ResNet-18) or four (small-swin), NFA before
  it two shares p, and NFA alone has the settings of the small CNN. The package's flows and defaults
  (gate, strength, mixing by axis) were chosen before, on another draw of held-out images of the
  same data sets: NFA has had more choices than its rivals.
- Labelled images of different seeds overlap where a class has few images, so that intervals are a
  little too narrow there. All seeds share the test images: a second half-width is over them.
- All arms of a seed share the labelled images, initial weights, order of images and number of
  steps. Gains are differences within a seed.

NFA is used through a bank of variants that is made before training, so that no flow runs while a
classifier trains.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from .cells import Cell, pending, read
from .classifiers import NETWORKS, network_of
from .comparison import (
    RANDAUGMENTS,
    headline,
    headline_tuning,
    label_tuning,
    labels,
    longer,
    network_tuning,
    photographs,
    rivals,
    stacked_tuning,
    tuning,
)
from .data import DATASETS, DataSet
from .gains import groups
from .report import write_report
from .run import run
from .tables import TABLES

# The tables of comparison.py, whose cells depend on finished ones.
BY_TUNING = {
    "network": "learning rate and weight decay of --network, on images held out for choices",
    "tuning": "settings of NFA and of every rival, on the same images",
    "stacked-tuning": "three p of NFA (two strengths) and of what is simpler, before RandAugment",
    "label-tuning": "three candidates of NFA, five of RandAugment, with other numbers of labels",
    "longer": "those that regularise most, with twice the steps, on the same images",
    "rivals": "NFA and every rival, with the settings that tuning chose",
    "labels": "NFA with and without a flow, with those numbers of labels",
    "photographs": "the same with all labels, for images larger than the flow",
    "headline-tuning": "RandAugments for --network (ResNet-18: two), and two p of NFA before one",
    "headline": "NFA on flip + crop, without a flow too, and on RandAugment, for --network",
}
RESULTS = Path(__file__).resolve().parents[1] / "results"


def parse(words: list[str] | None = None) -> argparse.Namespace:
    titles = {name: table.title for name, table in TABLES.items()} | BY_TUNING
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description=__doc__,
        epilog="tables:\n" + "\n".join(f"  {name}: {title}" for name, title in titles.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", nargs="+", default=["main"], choices=list(titles))
    parser.add_argument(
        "--name", default="fashion-mnist", help=f"of the data set: {', '.join(DATASETS)}, or new"
    )
    parser.add_argument("--data", help="training images; needed for a new --name")
    parser.add_argument("--test-data", help="test images, if they are not a split of --data")
    parser.add_argument("--other", help="images of other classes, for the flow 'o'")
    parser.add_argument("--flow", help="one more flow for the table photographs, 'f'")
    parser.add_argument("--unlabelled", help="images for the flow 'u'; default --data")
    parser.add_argument(
        "--network",
        default="small-cnn",
        help=f"{', '.join(NETWORKS)}, or NAME:LR:WEIGHT_DECAY:BATCH; the tables network, "
        "headline-tuning and headline take the name alone; the other tables of comparison.py use "
        "the protocol's",
    )
    parser.add_argument(
        "--validation", type=_positive, help="images per class that are held out of --data"
    )
    parser.add_argument("--image-size", type=_positive, help="resize to squares of this side")
    parser.add_argument("--seeds", type=_positive, default=10)
    parser.add_argument(
        "--jobs", type=_positive, default=1, help="cells at a time, one thread each"
    )
    parser.add_argument("--work", type=Path, help="folder for flows and banks")
    parser.add_argument("--csv", type=Path, default=RESULTS / "study.csv")
    parser.add_argument(
        "--plot", type=Path, help="default: docs/study.png, or beside another --csv"
    )
    parser.add_argument("--print", action="store_true", help="run nothing; write table and plot")
    args = parser.parse_args(words)
    if args.plot is None:
        own = args.csv == RESULTS / "study.csv"
        pictures = RESULTS.parents[1] / "docs"
        args.plot = pictures / "study.png" if own else args.csv.with_suffix(".png")
    if args.print:
        if not args.csv.exists():
            parser.error(f"--print needs finished cells: there is no {args.csv}")
        return args
    if args.work is None:
        parser.error("--work is needed (or --print)")
    known = DATASETS.get(args.name)
    if args.data is None and (known is None or not known.path):
        parser.error(f"--name {args.name} needs --data")
    try:
        network_of(args.network)
    except ValueError as error:
        parser.error(str(error))
    larger = {"headline", "headline-tuning"} & set(args.table)
    if larger and args.network not in RANDAUGMENTS:
        names = ", ".join(RANDAUGMENTS)
        parser.error(f"--table {min(larger)} needs --network, one of {names}; got {args.network}")
    if args.flow and "photographs" not in args.table:
        parser.error("--flow is used by --table photographs alone")
    needs_other = [name for name in args.table if _needs_other(name)]
    if needs_other and not args.other:
        parser.error(f"--table {needs_other[0]} needs --other, images of other classes")
    return args


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1; got {text}")
    return int(text)


def _needs_other(table: str) -> bool:
    return table == "rivals" or (table in TABLES and TABLES[table].needs_other)


def data_set(args: argparse.Namespace) -> DataSet:
    """The registered data set of this name, with the paths given on the command line."""
    given = {
        "path": args.data,
        "test_path": args.test_data,
        "other": args.other,
        "unlabelled": args.unlabelled,
        "flow": args.flow,
        "image_size": args.image_size,
        "validation": args.validation,
    }
    known = DATASETS.get(args.name) or DataSet(args.name, args.data)
    return replace(known, **{name: path for name, path in given.items() if path})


def wanted(table: str, data: str, args: argparse.Namespace) -> list[Cell]:
    """The cells of a table; of "network", more once the first ones are done.

    Raises:
        ValueError: Cells of other tables are needed first, or the table does not fit the data set.
    """
    if table in TABLES:
        return TABLES[table].cells(data, args.seeds, args.network)
    rows = read(args.csv)
    cells = {
        "network": lambda: network_tuning(rows, data, args.network),
        "tuning": lambda: tuning(rows, data),
        "stacked-tuning": lambda: stacked_tuning(rows, data),
        "label-tuning": lambda: label_tuning(rows, data),
        "longer": lambda: longer(rows, data),
        "rivals": lambda: rivals(rows, data, args.seeds),
        "labels": lambda: labels(rows, data, args.seeds),
        "photographs": lambda: photographs(rows, data, args.seeds, given=args.flow is not None),
        "headline-tuning": lambda: headline_tuning(rows, data, args.network),
        "headline": lambda: headline(rows, data, args.seeds, args.network),
    }
    return cells[table]()


def _run_tables(args: argparse.Namespace) -> None:
    groups(read(args.csv))  # refuses different versions of a flow, before hours of training
    data = data_set(args)
    for table in args.table:
        while cells := pending(wanted(table, data.name, args), read(args.csv)):
            run(cells, data, csv=args.csv, work=args.work, jobs=args.jobs)


def main() -> None:
    args = parse()
    if not args.print:
        try:
            _run_tables(args)
        except ValueError as error:
            raise SystemExit(f"python -m benchmarks.study: error: {error}") from error
    print(write_report(read(args.csv), args.csv.with_suffix(".md"), args.plot))


if __name__ == "__main__":
    main()
