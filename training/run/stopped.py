"""What stops a run from outside, as one error that says what is left of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from safetensors import SafetensorError

from ...data.readers import ImageDecodeError
from .processes import Processes
from .snapshots import FolderStates, States

__all__ = ["OUTSIDE", "RunStopped", "stopped_from_outside", "what_is_left"]

OUTSIDE = (OSError, SafetensorError, ImageDecodeError)  # of files that cannot be read or written


class RunStopped(OSError):
    """Something outside the run stopped it: the disk, the images, another process."""

    exit_code = 4


@contextlib.contextmanager
def stopped_from_outside(states: States, processes: Processes) -> Iterator[None]:
    """Tell errors of files and of other processes apart from those of the program.

    Raises:
        RunStopped: in their place.
    """
    try:
        yield
    except RunStopped:
        raise
    except OUTSIDE as error:
        raise RunStopped(f"{error}; {what_is_left(states)}") from error
    except RuntimeError as error:
        if processes.count == 1 or not _of_processes(error):
            raise
        reason = str(error).splitlines()[0][:200]
        raise RunStopped(
            f"another process has ended, see its message ({reason}); {what_is_left(states)}"
        ) from error


def what_is_left(states: States) -> str:
    """The state that is saved, and how to go on."""
    if not isinstance(states, FolderStates):
        return "nothing was saved: the run has no folder"
    steps = states.steps()
    if not steps:
        return "no state had been saved yet"
    run = states.folder.parent
    return f"the state of step {steps[-1]} is saved: go on with nfaug train --resume {run}"


def _of_processes(error: RuntimeError) -> bool:
    """Whether the communication between processes failed. Of gloo it is a plain RuntimeError."""
    words = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(
        word in words for word in ("gloo", "nccl", "connection", "peer")
    )
