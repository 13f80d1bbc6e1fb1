"""The state of a run, and the snapshots of it that are saved to disk or kept in memory."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nfaug.checkpoint.autoencoder import copy_autoencoder
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.checkpoint.checkpoint import load as load_checkpoint
from nfaug.classes.fixed_point.config import read_record
from nfaug.classes.gaussians import ClassGaussians
from nfaug.io.atomic import replace_directory
from nfaug.io.facts import Facts
from nfaug.io.tensors import read_tensors, write_tensors

from .optimizer import FlowOptimizer

_FOLDER = "state"  # in the run's folder; config.json does not list it, so a push leaves it out
_FORMAT = 5  # with the hash of state.json
_FACTS = "state.json"
_TENSORS = "state.safetensors"
_STEP = re.compile(r"step-[0-9]{9,}")
_ENTRY = re.compile(r"\.?(step-\d+|initial)(\.|$)")  # with the suffixes of unfinished saves
_KEPT = 2  # snapshots: one in reserve, should a disk damage the newest


@dataclass
class Snapshot:
    """A copy of a `RunState`: named tensors, and everything else as JSON values."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass
class RunState:
    """The state of a run between two steps: everything that the next step depends on.

    Attributes:
        optimizer: Weights, their average, moments and the step count.
        gaussians: The class gaussians.
        prior: How they were found.
        noise_rng: Generator, on the device, of dequantisation noise and augmentation.
        choice_rng: Generator, on the CPU, of the data order and of samples.
        epoch: The current epoch, from 1.
        position: Number of its batches that are done.
        order: The epoch's images in order; None between two epochs.
        elapsed: Seconds of training, over all processes that worked on the run in turn.
        rollbacks: Number of returns to an earlier state.
        finished: Whether the last epoch is over.
        history: Rows of the log.
        losses: Bits/dim of every step that was not skipped.
        refitted: The epoch after which Gaussians were last solved, 0 for the start. A run that ends
            with `prior.refit_epoch` leaves out that solve.
    """

    optimizer: FlowOptimizer
    gaussians: ClassGaussians
    prior: dict[str, Any]
    noise_rng: torch.Generator
    choice_rng: torch.Generator
    epoch: int = 1
    position: int = 0
    order: Tensor | None = None
    elapsed: float = 0.0
    rollbacks: int = 0
    finished: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    refitted: int = 0

    def snapshot(self) -> Snapshot:
        """Copy the state to the CPU."""
        tensors = self.optimizer.tensors()
        for name, tensor in self.gaussians.state_dict().items():
            tensors[f"gaussians.{name}"] = tensor
        tensors["noise"] = self.noise_rng.get_state()
        tensors["choice"] = self.choice_rng.get_state()
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        if self.order is not None:
            tensors["order"] = self.order
        copies = {}
        for name, tensor in tensors.items():
            copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
        facts = {
            "optimizer": self.optimizer.facts(),
            "prior": dict(self.prior),
            "history": [dict(row) for row in self.history],
            "epoch": self.epoch,
            "position": self.position,
            "elapsed": self.elapsed,
            "rollbacks": self.rollbacks,
            "finished": self.finished,
            "refitted": self.refitted,
        }
        return Snapshot(copies, facts)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot."""
        tensors = snapshot.tensors
        facts = snapshot.facts
        self.optimizer.restore(tensors, facts["optimizer"])
        gaussians = ClassGaussians(
            tensors["gaussians.means"], tensors["gaussians.variances"], tensors["gaussians.counts"]
        )
        self.gaussians = gaussians.to(self.optimizer.flow.device)
        self.prior = read_record(facts["prior"])
        self.noise_rng.set_state(tensors["noise"])
        self.choice_rng.set_state(tensors["choice"])
        self.losses = tensors["losses"].tolist()
        self.order = tensors["order"].clone() if "order" in tensors else None
        self.epoch = facts["epoch"]
        self.position = facts["position"]
        self.elapsed = facts["elapsed"]
        self.rollbacks = facts["rollbacks"]
        self.finished = facts["finished"]
        self.refitted = facts["refitted"]
        self.history = [_without_none(row) for row in facts["history"]]


class Snapshots:
    """The newest snapshots of a run, as folder/state/step-NNNNNNNNN, or one in memory.

    A snapshot is written beside its place and renamed, so a kill at any time leaves the one before.

    Args:
        folder: The run's folder; None to keep the newest snapshot in memory.
        writer: Whether this process writes. With several processes only the main one does.
    """

    def __init__(self, folder: Path | None, *, writer: bool = True) -> None:
        self.folder: Path | None = None if folder is None else folder / _FOLDER
        self.fixed: Facts = Facts({})
        self.writer: bool = writer
        self.memory: Snapshot | None = None

    def expect(self, fixed: Facts) -> None:
        """Set what a resumed run must keep; see `RunContext.fixed`."""
        self.fixed = fixed

    def steps(self) -> list[int]:
        """The steps that have a snapshot on disk, in order."""
        if self.folder is None:
            return []
        names = [path.name for path in self.folder.glob("step-*") if _STEP.fullmatch(path.name)]
        return sorted(int(name.removeprefix("step-")) for name in names)

    def clear(self, *kept: str) -> None:
        """Remove all snapshots but those named `kept`, and what an interrupted save left."""
        if self.folder is None or not self.writer:
            return
        for entry in self.folder.glob("*"):
            if _ENTRY.match(entry.name) and entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)

    def save(self, snapshot: Snapshot) -> None:
        """Save a snapshot, and remove all but the newest ones."""
        if self.folder is None:
            self.memory = snapshot
            return
        if not self.writer:
            return
        steps = snapshot.facts["optimizer"]["steps"]
        with replace_directory(self.folder / _name(steps)) as staged:
            digest = write_tensors(staged / _TENSORS, snapshot.tensors)
            head = {"format": _FORMAT, "fixed": self.fixed, "tensors_sha256": digest}
            facts = Facts(head | snapshot.facts)
            text = json.dumps({"sha256": facts.sha256(), **facts}, indent=1)
            (staged / _FACTS).write_text(text, encoding="utf-8")
            # safetensors writes files that only their owner can read.
            shutil.copymode(staged / _FACTS, staged / _TENSORS)
        # Snapshots of later steps date from before a rollback.
        earlier = [_name(step) for step in self.steps() if step <= steps]
        self.clear("initial", *earlier[-_KEPT:])

    def newest(self) -> Snapshot | None:
        """Load the newest snapshot; None if there is none.

        Raises:
            ValueError: If it is damaged, or the run has other values of `fixed`.
        """
        steps = self.steps()
        if self.folder is None or not steps:
            return self.memory
        self.clear("initial", *map(_name, steps))
        path = self.folder / _name(steps[-1])
        what = f"{self.folder.parent} holds a run"
        with _whole(path):
            facts = Facts.read(path / _FACTS)
        facts.check_format(_FORMAT, what, "Resume with that version, or start a new run")
        with _whole(path):
            expected = facts.pop("sha256")
            digest = facts.sha256()
            if digest != expected:
                raise ValueError(f"the SHA-256 of {_FACTS} is {digest}, it says {expected!r:.80}")
            tensors = read_tensors(path / _TENSORS, facts["tensors_sha256"])
        self.fixed.check_same(facts["fixed"], what, "Pass what it was, or start a new run")
        return Snapshot(tensors, facts)

    def save_initial(
        self, checkpoint: Checkpoint, autoencoder: str | None = None, base: str | None = None
    ) -> None:
        """Save the flow that the run starts from beside the snapshots.

        The file of its autoencoder, `autoencoder` or one in the checkpoint `base`, goes with it.
        """
        if self.writer and self.folder is not None:
            folder = checkpoint.save(self.folder / "initial", overwrite=True)
            record = checkpoint.config.autoencoder
            copy_autoencoder(record, folder, given=autoencoder, base=base or None)

    def initial(self, autoencoder: str | None = None) -> Checkpoint:
        """Load the flow that the run started from, with its `autoencoder` at this location."""
        assert self.folder is not None
        return load_checkpoint(self.folder / "initial", autoencoder=autoencoder)


def _without_none(row: Mapping[str, float | None]) -> dict[str, float]:
    """A row of the log with NaN where JSON, which has none, holds null."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def _name(steps: int) -> str:
    return f"step-{steps:09}"


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of errors in the files of a saved state that it is damaged, and what to do."""
    try:
        yield
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"the saved state {path} is damaged ({error}); remove it to resume from the state "
            "before it"
        ) from error
