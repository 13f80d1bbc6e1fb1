"""Does NFA help, and what does it cost? Accuracy with 95% confidence intervals over seeds.

    python benchmarks/study.py --table settings --work WORK
    python benchmarks/study.py --table main flows --work WORK --other CIFAR --jobs 2
    python benchmarks/study.py --print

--help lists the tables. CIFAR stands for 10,000 images of CIFAR-10, as a folder or tar.

Each cell trains one small CNN (study_classifier.py) on a few labelled images and measures it once.
Finished cells are rows of results/study.csv, and the same command goes on where it stopped. Then
results/study.md and docs/study.png are written anew from the rows. Flows, and banks of variants,
are made once and kept in --work, outside the repository; use a new one where study_flows.py or the
data change.

What keeps it honest:

- class gaussians, axes and memory of an arm are fitted to its labelled images alone; what the flow
  itself saw is a column of the table;
- settings are chosen on validation images, with other labelled images than those of the reported
  seeds; a cell of the main table looks at the test images once. The flow "u" has seen the training
  images that validation is made on, without labels, and no test image;
- all arms of a seed have the same labelled images, first weights, order of images and number of
  steps; gains are differences within a seed.

NFA is used through a bank of variants of each image, made before training: one of the ways the
package offers, and the one that needs no flow while a classifier trains.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from study_arms import bank_for, losses, make_draw
from study_cells import Cell, append, pending, read
from study_classifier import accuracy, new_classifier, prepared, train_classifier
from study_data import Source, held_out, labelled
from study_flows import flow_for
from study_report import write_report
from study_tables import TABLES, cells_of

HERE = Path(__file__).parent


def run_cell(cell: Cell, source: Source, work: Path) -> dict[str, Any]:
    """Train and measure one cell; the columns of its results."""
    torch.set_num_threads(1)
    few = labelled(source, cell.per_class, cell.seed)
    bank, kept, made_in = None, 0.0, 0.0
    if cell.flow != "-":
        flow = flow_for(cell.flow, source, few, cell.seed, work)
        bank, kept, made_in = bank_for(cell, flow, few, work)
    model = new_classifier(few.channels, len(few.classes), cell.seed)
    started = time.monotonic()
    train_classifier(
        model,
        make_draw(cell, few, bank, losses(model, prepared)),
        cell.base,
        few.targets,
        steps=cell.steps,
        seed=cell.seed,
    )
    seconds = time.monotonic() - started
    held = held_out(source, cell.split)
    return {
        "accuracy": f"{accuracy(model, held):.2f}",
        "tested": len(held.labels),
        "kept": f"{kept:.3f}" if bank is not None else "",
        "bank_seconds": f"{made_in:.1f}",
        "train_seconds": f"{seconds:.1f}",
        "torch": torch.__version__,
    }


def run(cells: list[Cell], source: Source, args: argparse.Namespace) -> None:
    """Run cells, `args.jobs` at a time, and append each as it is done."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        futures = {pool.submit(run_cell, cell, source, args.work): cell for cell in cells}
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            cell = futures[future]
            row = future.result()
            append(args.csv, cell, row)
            print(f"{number}/{len(cells)} {cell} {row['accuracy']}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="tables:\n" + "\n".join(f"  {name}: {what}" for name, what in TABLES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", nargs="+", default=["main"], choices=list(TABLES))
    parser.add_argument("--name", default="fashion-mnist", help="name of the data in the CSV")
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--test-data", help="where the test images are no split of --data")
    parser.add_argument("--other", default="", help="images of other classes, for the flow 'o'")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, a thread each")
    parser.add_argument("--work", type=Path, help="folder for flows and banks")
    parser.add_argument("--csv", type=Path, default=HERE / "results" / "study.csv")
    parser.add_argument("--plot", type=Path, default=HERE.parent / "docs" / "study.png")
    parser.add_argument("--print", action="store_true", help="run nothing; write table and plot")
    args = parser.parse_args()
    if args.work is None and not args.print:
        parser.error("--work is needed (or --print)")
    asked = {"flows", "scales", "other-noise"} & set(args.table)
    if asked and not args.other and not args.print:
        parser.error(f"--table {min(asked)} needs --other, images of other classes")
    return args


def main() -> None:
    args = parse()
    source = Source(args.name, args.data, args.other, args.test_data)
    if not args.print:
        for table in args.table:
            wanted = cells_of(table, args.name, args.seeds)
            run(pending(wanted, read(args.csv)), source, args)
    print(write_report(read(args.csv), args.csv.with_suffix(".md"), args.plot))


if __name__ == "__main__":
    main()
