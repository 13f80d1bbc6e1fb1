"""A training run: its processes, and its folder with the lock, the settings and the snapshots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nfaug.checkpoint.manifest import CONFIG, RUN_SETTINGS
from nfaug.data.image_files import ImageDecodeError
from nfaug.io.atomic import check_output, write_text
from nfaug.io.extras import require
from nfaug.io.lock import lock_output
from nfaug.io.strict_json import jsonable
from nfaug.run.ranks import Ranks, joined

from .config import TrainConfig
from .snapshots import Snapshots


class RunStopped(OSError):
    """Something outside the run stopped it: the disk, the images or another process.

    Repair it, and call `train(..., resume=True)` to continue from the last saved state.

    Example:
        >>> RunStopped("No space left on device").exit_code
        4
    """

    exit_code = 4


class Run:
    """A run that is open: its processes are joined, and its folder is locked.

    Args:
        out: The folder; None for a run that writes nothing and keeps a snapshot in memory.
        ranks: The processes that share the run.
        resume: Whether to go on from the newest snapshot in the folder, if there is one.

    Attributes:
        resumes: Whether there is a snapshot to go on from.
        snapshots: The snapshots of the run.
    """

    def __init__(self, out: Path | None, ranks: Ranks, *, resume: bool = False) -> None:
        self.out: Path | None = out
        self.ranks: Ranks = ranks
        self.snapshots: Snapshots = Snapshots(out, writer=ranks.main)
        self.resumes: bool = resume and bool(self.snapshots.steps())
        self._asked_to_resume = resume

    @classmethod
    @contextlib.contextmanager
    def open(cls, out: Path | None, config: TrainConfig, *, resume: bool = False) -> Iterator[Run]:
        """Join the processes and lock the folder while the block runs.

        Raises:
            ModuleNotFoundError: A library that the settings need is missing.
            ValueError: There is no such device.
            OSError: Another process writes to the folder.
        """
        require("ema_pytorch")  # of `FlowOptimizer`, which is made after the data are read
        lock: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if out is not None:
            if config.tensorboard:
                require("tensorboard")
            lock = lock_output(out)
        # In a group, which must be joined before, only the main process locks.
        with joined(config.device) as ranks, lock:
            yield cls(out, ranks, resume=resume)

    def check_output(self, *, overwrite: bool) -> None:
        """Check that the folder can be written: it is new, the run goes on, or `overwrite` is set.

        Raises:
            FileExistsError: It holds something else, or an unfinished run.
            OSError: It cannot be replaced.
        """
        assert self.out is not None
        has_snapshots = bool(self.snapshots.steps())
        has_result = (self.out / CONFIG).exists()
        # A resumed run must not replace the result of a run whose snapshots are gone.
        unfinished = has_snapshots or not has_result
        replacing = (self._asked_to_resume and unfinished) or overwrite
        if has_snapshots and not has_result and not replacing:
            raise FileExistsError(
                f"{self.out} holds an unfinished run: continue it with --resume {self.out}, or "
                "replace it with --overwrite"
            )
        check_output(self.out, overwrite=replacing)

    def begin(self, config: TrainConfig, words: Mapping[str, Any] | None = None) -> None:
        """Remove the snapshots of an earlier run, and save the settings, on the main process.

        Args:
            config: The settings.
            words: What `nfaug train` was given besides; without it no settings are saved.
        """
        if not self.resumes:
            self.snapshots.clear()  # before new settings are saved beside old snapshots
        if self.out is None or words is None or not self.ranks.main:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        settings = jsonable({**words, **config.to_dict()})
        write_text(self.out / RUN_SETTINGS, yaml.safe_dump(settings, sort_keys=False))

    def hint(self) -> str:
        """Say which state is saved and how to resume from it."""
        steps = self.snapshots.steps()
        if not steps:
            return "no state was saved yet"
        return (
            f"the state of step {steps[-1]} is saved (in Python use resume=True): resume with "
            f"nfaug train --resume {self.out}"
        )

    @contextlib.contextmanager
    def stopped_from_outside(self) -> Iterator[None]:
        """Turn errors of files and of other processes into `RunStopped`.

        Raises:
            RunStopped: The message names the error, the last saved state and how to resume.
        """
        try:
            yield
        except (OSError, ImageDecodeError) as error:
            raise RunStopped(f"{error}; {self.hint()}") from error
        except RuntimeError as error:
            # gloo and data loaders raise a plain RuntimeError when another process ends.
            words = ("gloo", "nccl", "connection", "peer", "dataloader")
            if not any(word in str(error).lower() for word in words):
                raise
            reason = str(error).splitlines()[0][:200]
            raise RunStopped(
                f"another process ended, see its message ({reason}); {self.hint()}"
            ) from error
