"""Saved states of a run: folders of safetensors and JSON that a kill leaves whole, or in memory."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save_file

from ...checkpoint.checkpoint import Checkpoint
from ...io.atomic import replace_directory
from ...io.strict_json import jsonable
from ...io.tensors import sha256_of
from .state import Snapshot

__all__ = ["STATE", "FolderStates", "MemoryStates", "States"]

STATE = "state"  # in the run's folder; what a push takes is listed in config.json, and this is not
_FORMAT = 1
_FACTS, _TENSORS = "state.json", "state.safetensors"
_STEP = re.compile(r"step-[0-9]{9,}")


class States(Protocol):
    """Where snapshots are kept."""

    def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot as the newest."""

    def newest(self) -> Snapshot | None:
        """The snapshot that was saved last."""


class MemoryStates:
    """The newest snapshot, for as long as the process lives."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None

    def save(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def newest(self) -> Snapshot | None:
        return self.snapshot


class FolderStates:
    """The `keep` newest snapshots as folder/state/step-NNNNNNNNN, and flows beside them.

    `data` names the images that the run is given, and `plan` what else decides which of them a
    batch has; a state of others is refused. Of several processes one is the `writer`, and the
    others only read.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 1,
        data: str = "",
        plan: Mapping[str, int] | None = None,
        *,
        writer: bool = True,
    ) -> None:
        self.folder = folder / STATE
        self.keep = keep
        self.data = data
        self.plan = dict(plan or {})
        self.writer = writer

    def clear(self) -> None:
        """Remove the states of an earlier run."""
        if self.writer:
            shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, snapshot: Snapshot) -> None:
        if not self.writer:
            return
        steps = snapshot.facts["optimizer"]["steps"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with replace_directory(self.folder / _name(steps), last=_FACTS) as staged:
            save_file(snapshot.tensors, staged / _TENSORS)
            facts: dict[str, Any] = {
                "format": _FORMAT,
                "data": self.data,
                "plan": self.plan,
                "sha256": sha256_of(staged / _TENSORS),
                **snapshot.facts,
            }
            text = json.dumps(jsonable(facts), indent=1, allow_nan=False)
            (staged / _FACTS).write_text(text, encoding="utf-8")
        # Those of later steps are of before a return to an earlier state.
        kept = [_name(step) for step in self.steps() if step <= steps][-self.keep :]
        for entry in self.folder.iterdir():
            if entry.name.startswith((".", "step-")) and entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)

    def newest(self) -> Snapshot | None:
        """The snapshot of the highest step; None where there is none.

        Raises:
            ValueError: it is damaged, of another format, or of a run on other images or batches.
        """
        steps = self.steps()
        if not steps:
            return None
        older = f"; remove it to go on from step {steps[-2]}" if len(steps) > 1 else ""
        path = self.folder / _name(steps[-1])
        snapshot = _read(path, self.data, older)
        if (plan := snapshot.facts.get("plan", self.plan)) != self.plan:
            raise ValueError(
                f"the state in {path} is of a run with {_told(plan)}; settings and images now say "
                f"{_told(self.plan)}. What decides the batches cannot change on the way"
            )
        return snapshot

    def save_flow(self, name: str, checkpoint: Checkpoint) -> None:
        """Keep a flow that is no state: "initial" and "best"."""
        if self.writer:
            checkpoint.save(self.folder / name, overwrite=True)

    def flow(self, name: str, autoencoder: str | None = None) -> Checkpoint | None:
        """A flow that was kept; its `autoencoder` is found where the run's settings say."""
        path = self.folder / name
        return Checkpoint.load(path, autoencoder=autoencoder) if path.is_dir() else None

    def steps(self) -> list[int]:
        """The steps whose snapshots are there, in order."""
        if not self.folder.is_dir():
            return []
        names = (entry.name for entry in self.folder.iterdir())
        return sorted(int(name[5:]) for name in names if _STEP.fullmatch(name))


def _name(steps: int) -> str:
    return f"step-{steps:09}"


def _told(plan: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in plan.items())


def _read(path: Path, data: str, cure: str) -> Snapshot:
    try:
        facts = json.loads((path / _FACTS).read_text(encoding="utf-8"))
        content = (path / _TENSORS).read_bytes()
        if not isinstance(facts, Mapping) or facts.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        if facts["sha256"] != hashlib.sha256(content).hexdigest():
            raise ValueError(f"the SHA-256 of {_TENSORS} is not what {_FACTS} says")
        tensors = load(content)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"the saved state {path} cannot be read: {error}{cure}") from None
    if facts["data"] != data:
        raise ValueError(
            f"the state in {path} is of a run on other images, or on these in another split or "
            "size; give --data what it was, or begin a new run"
        )
    return Snapshot(tensors, dict(facts))
