"""Signals and outside failures: how a run stops and what it tells the user."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError

from nfaug.data.decode import ImageDecodeError

from .distributed import Processes
from .snapshots import FolderStates, States

__all__ = [
    "OUTSIDE",
    "Interrupted",
    "RunStopped",
    "SignalGuard",
    "resume_hint",
    "stopped_from_outside",
]

OUTSIDE = (OSError, SafetensorError, ImageDecodeError)  # files that cannot be read or written
# SIGHUP is what a run gets when its terminal closes; Windows has none.
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run after its state was saved.

    Attributes:
        exit_code: 128 plus the signal's number, as in shells.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class RunStopped(OSError):
    """Something outside the run stopped it: the disk, the images or another process."""

    exit_code = 4


class SignalGuard:
    """Defer SIGINT, SIGTERM and SIGHUP to a safe point.

    Inside this context signals are only recorded; Ctrl-C (SIGINT) after a recorded signal has its
    usual effect. SIGTERM may come twice within milliseconds, from a job manager and from torchrun.
    `timeout`, Slurm and a terminal signal all processes: after a recorded signal, the end of a
    data-loader worker (SIGCHLD) no longer raises torch's error, which could come while a state is
    saved.
    An ignored SIGHUP stays ignored, as nohup asks. Signal handlers can only be set on the main
    thread; elsewhere, and if not `enabled`, the context does nothing.

    Attributes:
        number: The first signal received, 0 for none.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.number = 0
        self.enabled = enabled and threading.current_thread() is threading.main_thread()
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> SignalGuard:
        if self.enabled:
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        while self.previous:  # a signal may add SIGCHLD meanwhile
            signal.signal(*self.previous.popitem())

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            self.__exit__()
            signal.raise_signal(number)
        if not self.number and hasattr(signal, "SIGCHLD"):
            self.previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.number = self.number or number


@contextlib.contextmanager
def stopped_from_outside(states: States, processes: Processes) -> Iterator[None]:
    """Turn errors of files and of other processes into `RunStopped`.

    Raises:
        RunStopped: The message names the error, the last saved state and how to resume.
    """
    try:
        yield
    except RunStopped:
        raise
    except OUTSIDE as error:
        raise RunStopped(f"{error}; {resume_hint(states)}") from error
    except RuntimeError as error:
        if processes.count == 1 or not _is_communication_error(error):
            raise
        reason = str(error).splitlines()[0][:200]
        raise RunStopped(
            f"another process ended, see its message ({reason}); {resume_hint(states)}"
        ) from error


def resume_hint(states: States) -> str:
    """Say which state is saved and how to resume from it."""
    if not isinstance(states, FolderStates):
        return "nothing was saved: the run has no folder"
    steps = states.steps()
    if not steps:
        return "no state was saved yet"
    run = states.folder.parent
    return f"the state of step {steps[-1]} is saved: resume with nfaug train --resume {run}"


def _is_communication_error(error: RuntimeError) -> bool:
    """Whether communication between processes failed. gloo raises a plain RuntimeError."""
    words = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(
        word in words for word in ("gloo", "nccl", "connection", "peer")
    )
