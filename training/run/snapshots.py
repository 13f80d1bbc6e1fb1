"""The state of a run, and the snapshots of it that are saved to disk or kept in memory."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from nfaug.augment.params import seed_of
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.checkpoint.checkpoint import load as load_checkpoint
from nfaug.classes.gaussians import ClassGaussians
from nfaug.io.atomic import replace_directory
from nfaug.io.strict_json import jsonable, parse_json
from nfaug.io.tensors import sha256_of

from .optimizer import FlowOptimizer

__all__ = ["STATE", "FolderStates", "MemoryStates", "RunState", "Snapshot", "States"]

STATE = "state"  # sub-folder of the run; config.json does not list it, so a push leaves it out
_FORMAT = 2  # 1 has no "contents" and no "state_sha256"
_FACTS, _TENSORS = "state.json", "state.safetensors"
_COUNTERS = ("epoch", "position", "elapsed", "rollbacks", "finished")
_PICTURES = ("convergence", "kl", "latents", "loss", "progress_samples")  # that a run writes
_STEP = re.compile(r"step-[0-9]{9,}")


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
        noise: Generator, on the device, of dequantisation noise and augmentation.
        choice: Generator, on the CPU, of the data order and of samples.
        epoch: The current epoch, from 1.
        position: Number of its batches that are done.
        order: The epoch's images in order; None between two epochs.
        elapsed: Seconds of training, over all processes that worked on the run in turn.
        rollbacks: Number of returns to an earlier state.
        finished: Whether the last epoch is over.
        history: Rows of the log.
        losses: Bits/dim of every step that was not skipped.
        refitted: The epoch after which gaussians were last solved, 0 for the start. A run that ends
            with `prior.refit_epoch` skips that solve.
    """

    optimizer: FlowOptimizer
    gaussians: ClassGaussians
    prior: dict[str, Any]
    noise: torch.Generator
    choice: torch.Generator
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
        tensors |= {f"gaussians.{k}": value for k, value in self.gaussians.state_dict().items()}
        tensors["noise"] = self.noise.get_state()
        tensors["choice"] = self.choice.get_state()
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        if self.order is not None:
            tensors["order"] = self.order
        copied = {
            k: value.detach().to("cpu", copy=True).contiguous() for k, value in tensors.items()
        }
        facts = {
            "optimizer": self.optimizer.facts(),
            "prior": dict(self.prior),
            "refitted": self.refitted,
            "history": [dict(row) for row in self.history],
            **{name: getattr(self, name) for name in _COUNTERS},
        }
        return Snapshot(copied, facts)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot.

        Raises:
            RuntimeError, KeyError, TypeError, ValueError: If it does not fit the flow.
        """
        tensors, facts = snapshot.tensors, snapshot.facts
        self.optimizer.restore(tensors, facts["optimizer"])
        parts = (tensors[f"gaussians.{name}"] for name in ("means", "variances", "counts"))
        self.gaussians = ClassGaussians(*parts).to(self.optimizer.flow.device)
        self.prior = dict(facts["prior"])
        if tensors["noise"].numel() == self.noise.get_state().numel():
            self.noise.set_state(tensors["noise"])
        else:
            warnings.warn(
                "the state was saved on another kind of device: noise is drawn anew from here on",
                stacklevel=2,
            )
            steps = self.optimizer.steps
            self.noise.manual_seed(seed_of(*tensors["noise"].tolist()[:64], steps))
        self.choice.set_state(tensors["choice"])
        self.losses = tensors["losses"].tolist()
        self.order = tensors["order"].clone() if "order" in tensors else None
        for name in _COUNTERS:
            setattr(self, name, facts[name])
        # Older states do not know it: what was due by now counts as done.
        self.refitted = int(facts.get("refitted", self.epoch - 1))
        self.history = [
            {name: math.nan if value is None else value for name, value in row.items()}
            for row in facts["history"]
        ]


class MemoryStates:
    """Keeps the newest snapshot in memory."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None

    def save(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def newest(self) -> Snapshot | None:
        return self.snapshot


class FolderStates:
    """Keeps the newest snapshots as folder/state/step-NNNNNNNNN, safe against a kill at any time.

    Args:
        folder: The run's folder.
        keep: Number of snapshots to keep.
        data: Fingerprint of the run's images; a snapshot with another one is refused.
        contents: Hash of the contents of their files, checked in the same way.
        plan: Other values that decide what a batch contains; checked in the same way.
        writer: Whether this process writes. With several processes only the main one does.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 1,
        data: str = "",
        plan: Mapping[str, int] | None = None,
        *,
        contents: str = "",
        writer: bool = True,
    ) -> None:
        self.folder = folder / STATE
        self.keep = keep
        self.data, self.contents = data, contents
        self.plan = dict(plan or {})
        self.writer = writer

    def clear(self) -> None:
        """Remove the snapshots and the pictures of an earlier run."""
        if self.writer and self.folder.is_dir():
            shutil.rmtree(self.folder, ignore_errors=True)
            for name in _PICTURES:
                (self.folder.parent / "pictures" / f"{name}.png").unlink(missing_ok=True)

    def save(self, snapshot: Snapshot) -> None:
        if not self.writer:
            return
        steps = snapshot.facts["optimizer"]["steps"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_directory(self.folder / _name(steps)) as staged:
            save_file(snapshot.tensors, staged / _TENSORS)
            facts: dict[str, Any] = jsonable(
                {
                    "format": _FORMAT,
                    "data": self.data,
                    "contents": self.contents,
                    "plan": self.plan,
                    "sha256": sha256_of(staged / _TENSORS),
                    **snapshot.facts,
                }
            )
            facts["state_sha256"] = _hash(facts)
            text = json.dumps(facts, indent=1, allow_nan=False)
            (staged / _FACTS).write_text(text, encoding="utf-8")
        # Snapshots of later steps date from before a rollback.
        kept = [_name(step) for step in self.steps() if step <= steps][-self.keep :]
        for entry in self.folder.iterdir():
            if entry.name.startswith((".", "step-")) and entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)

    def newest(self) -> Snapshot | None:
        """Load the snapshot of the highest step; None if there is none.

        Raises:
            ValueError: If it is damaged, has another format, or belongs to a run on other images
                or batches.
        """
        steps = self.steps()
        if not steps:
            return None
        path = self.folder / _name(steps[-1])
        try:
            snapshot = _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise self.unusable(error) from None
        facts = snapshot.facts
        if facts["format"] < _FORMAT:
            warnings.warn(
                f"the state in {path} was saved by an earlier version: whether the images have the "
                "same contents is not checked",
                stacklevel=2,
            )
        if facts["data"] != self.data or facts.get("contents", self.contents) != self.contents:
            raise ValueError(
                f"the state in {path} belongs to a run on other images, or on another split or "
                "size of these; pass the same --data, or start a new run"
            )
        if (plan := facts.get("plan", self.plan)) != self.plan:
            raise ValueError(
                f"the state in {path} belongs to a run with {_list(plan)}; settings and images now "
                f"give {_list(self.plan)}. A resumed run must keep these values"
            )
        return snapshot

    def unusable(self, error: Exception) -> ValueError:
        """The error of a damaged newest snapshot."""
        steps = self.steps()
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        cure = f"remove it to resume from step {steps[-2]}" if len(steps) > 1 else "start a new run"
        return ValueError(
            f"the saved state {self.folder / _name(steps[-1])} is damaged ({reason}); {cure}"
        )

    def save_initial(self, checkpoint: Checkpoint) -> None:
        """Save the flow that the run starts from beside the snapshots."""
        if self.writer:
            checkpoint.save(self.folder / "initial", overwrite=True)

    def initial(self, autoencoder: str | None = None) -> Checkpoint:
        """Load the flow that the run started from, with its `autoencoder` at this location.

        Raises:
            ValueError: If it is missing.
        """
        path = self.folder / "initial"
        if not path.is_dir():
            raise ValueError(f"{path} is missing: the run cannot be resumed")
        return load_checkpoint(path, autoencoder=autoencoder)

    def steps(self) -> list[int]:
        """The steps that have a snapshot, in order."""
        if not self.folder.is_dir():
            return []
        names = (entry.name for entry in self.folder.iterdir())
        return sorted(int(name[5:]) for name in names if _STEP.fullmatch(name))


States: TypeAlias = MemoryStates | FolderStates


def _name(steps: int) -> str:
    return f"step-{steps:09}"


def _list(plan: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in plan.items())


def _hash(facts: Mapping[str, Any]) -> str:
    """SHA-256 of all facts but the hash itself."""
    rest = {name: value for name, value in facts.items() if name != "state_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Snapshot:
    facts = parse_json((path / _FACTS).read_bytes())
    content = (path / _TENSORS).read_bytes()
    if not isinstance(facts, dict):
        raise ValueError(f"{_FACTS} is not an object")
    if facts["format"] not in (1, _FORMAT):
        raise ValueError(f"its format is {facts['format']!r}, not {_FORMAT}")
    if facts["format"] == _FORMAT and facts["state_sha256"] != _hash(facts):
        raise ValueError(f"{_FACTS} was changed: it does not have its SHA-256")
    if facts["sha256"] != hashlib.sha256(content).hexdigest():
        raise ValueError(f"the SHA-256 of {_TENSORS} differs from the one in {_FACTS}")
    if not isinstance(facts.get("plan", {}), dict):
        raise ValueError(f"plan in {_FACTS} is not a mapping")
    int(facts["optimizer"]["steps"])
    return Snapshot(load(content), facts)
