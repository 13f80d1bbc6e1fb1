"""Run the cells of the study in processes and append their results."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch

from .arms import ARMS, losses, make_draw
from .banks import bank_for
from .cells import Cell, append
from .classifiers import (
    class_accuracy,
    new_classifier,
    predicted_right,
    prepared,
    train_classifier,
)
from .data import DataSet, held_out, labelled
from .flows import flow_for, flow_sha
from .gains import packed

__all__ = ["run", "run_cell"]


def run_cell(cell: Cell, data: DataSet, work: Path) -> dict[str, Any]:
    """Train and measure one cell; returns its result columns."""
    torch.set_num_threads(1)
    few = labelled(data, cell.per_class, cell.seed, cell.split)
    flow = None if cell.flow == "-" else flow_for(cell.flow, data, few, cell.seed, work)
    bank, changed, bank_seconds = None, 0.0, 0.0
    if maker := ARMS[cell.arm].bank:
        bank, changed, bank_seconds = bank_for(cell, maker, flow, few, work, data)
    model = new_classifier(few.channels, len(few.classes), cell.seed, cell.network)
    started = time.monotonic()
    train_classifier(
        model,
        make_draw(cell, few, bank, losses(model, prepared)),
        cell.base,
        few.targets,
        steps=cell.steps,
        seed=cell.seed,
        network=cell.network,
        images=few.images,
    )
    seconds = time.monotonic() - started
    held = held_out(data, cell.split)
    right = predicted_right(model, held)
    return {
        "accuracy": f"{class_accuracy(right, held.labels):.2f}",
        "tested": len(held.labels),
        "kept": f"{changed:.3f}" if bank is not None else "",
        "bank_seconds": f"{bank_seconds:.1f}",
        "train_seconds": f"{seconds:.1f}",
        "torch": torch.__version__,
        "flow_sha": "" if flow is None else flow_sha(flow),
        "right": packed(right) if cell.split == "test" else "",
    }


def run(cells: list[Cell], data: DataSet, *, csv: Path, work: Path, jobs: int) -> None:
    """Run `jobs` cells at a time; each appends its result to `csv` when it is done.

    Raises:
        RuntimeError: Some cells failed; the others are done.
    """
    context = multiprocessing.get_context("spawn")
    failed = []
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(_run_and_append, cell, data, work, csv): cell for cell in cells}
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            cell = futures[future]
            if error := future.exception():
                failed.append(f"{cell}: {error!r}")
            shown = repr(error) if error else future.result()
            print(f"{number}/{len(cells)} {cell} {shown}", flush=True)
    if failed:
        raise RuntimeError(f"{len(failed)} cells failed:\n" + "\n".join(failed))


def _run_and_append(cell: Cell, data: DataSet, work: Path, csv: Path) -> str:
    results = run_cell(cell, data, work)
    append(csv, cell, results)
    return str(results["accuracy"])
