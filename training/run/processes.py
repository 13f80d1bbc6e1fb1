"""The processes of a run: one, or as many as `accelerate launch` or `torchrun` started."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TRACKERS

__all__ = ["Processes", "pick_device"]

_PATIENCE = timedelta(hours=2)  # that a process waits for the others: one of them fits PCA axes
_COMES_WITH = {"tensorboard": "pip install 'nfaug[train]'"}


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU where there is one.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"there is no device {name!r} to compute on: {reason}") from None


def _refuse_lone(started: int) -> None:
    """Without mpirun, `accelerate launch --cpu --num_processes 2` starts one process and says so
    nowhere: it sets an address for processes to meet at, and no number of them.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if on_cpu and started == 1 and "MASTER_ADDR" in os.environ:
        raise ValueError(
            "accelerate launch was to start several processes on the CPU and has started one; on "
            "CPUs use torchrun --nproc-per-node N -m nfaug.training, or give --mpirun_hostfile"
        )


class Processes:
    """How many processes share the work, and which of them this one is.

    Every process goes through the same program: it draws the same numbers, for the whole batch,
    and computes with its own part of it. So a run does not depend on how many they are.

    Attributes:
        count, rank: how many, and the number of this one, from 0.
        device: what this one computes on.
    """

    def __init__(
        self, device: str, trackers: Sequence[str] = (), folder: Path | None = None
    ) -> None:
        self.accelerator: Any = None
        self.count, self.rank = 1, 0
        started = int(os.environ.get("WORLD_SIZE", "1"))
        _refuse_lone(started)
        refuse_mixed_precision(os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
        for name in trackers:
            _refuse_missing(name)
        if started > 1 or trackers:
            # Without being told that there is no GPU, Accelerate would let each of them run alone.
            cpu = started > 1 and (device == "cpu" or not torch.cuda.is_available())
            _refuse_device(device, started)
            self.accelerator = _accelerator(cpu, trackers, folder)
        if started > 1:
            refuse_mixed_precision(self.accelerator.mixed_precision)
            self.count = self.accelerator.num_processes
            self.rank = self.accelerator.process_index
            assert self.count == started, f"{self.count} of {started} processes have met"
            self.device = self.accelerator.device
            if self.device.type == "cuda" and self.device.index is None:
                self.device = torch.device("cuda", torch.cuda.current_device())
        else:
            self.device = pick_device(device)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and shows bars."""
        return self.rank == 0

    @property
    def float64(self) -> torch.device:
        """Where float64 can be kept and summed: the device, or the CPU where it has none."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def part(self, rows: Tensor) -> slice:
        """Which of a batch's rows are this process's: an equal share, give or take one.

        Where there are fewer rows than processes, those left over get the first row; `weight` says
        that it does not count.
        """
        sizes = [len(part) for part in torch.arange(len(rows)).tensor_split(self.count)]
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank]) if sizes[self.rank] else slice(0, 1)

    def weight(self, rows: Tensor) -> float:
        """1, or 0 for a process whose part of the rows is another's."""
        return float(len(rows) > self.rank)

    def mine(self, number: int) -> bool:
        """Whether batch `number` of a pass is this process's, where whole batches are dealt out."""
        return number % self.count == self.rank

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place; every one has to call it."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the tensors of the main one, in place."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), src=0)

    def spread(self, module: nn.Module) -> nn.Module:
        """The module, or its wrapper whose backward pass averages gradients over processes."""
        return module if self.count == 1 else self.accelerator.prepare_model(module)

    def refuse_different(self, value: int, what: str) -> None:
        """Refuse to go on where processes do not have the same number.

        Raises:
            ValueError: `what` it is that they do not share.
        """
        if self.count > 1:
            total = self.sum(torch.tensor([value, value**2], device=self.device))
            if self.count * int(total[1]) != int(total[0]) ** 2:
                raise ValueError(f"the processes do not agree: {what}")

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the group of processes, if one was joined."""
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def refuse_mixed_precision(name: str) -> None:
    """Refuse what would cost the flow its exactness.

    Raises:
        ValueError: says what is allowed.
    """
    if name not in ("no", ""):
        raise ValueError(
            f"mixed precision {name!r} is not possible: couplings in 16 bits move pixels by grey "
            "levels, and the flow would no longer be exact. Allowed is 'no' (float32): accelerate "
            "launch --mixed_precision no"
        )


def _refuse_missing(tracker: str) -> None:
    from importlib.util import find_spec

    if find_spec(tracker) is None:
        cure = _COMES_WITH.get(tracker, f"pip install {tracker}")
        raise ValueError(
            f"the tracker {tracker!r} is not installed: {cure}, or name others of "
            f"{', '.join(TRACKERS)} with --trackers"
        )


def _refuse_device(device: str, count: int) -> None:
    if count > 1 and device not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"with several processes each has its own device: device must be 'auto', 'cpu' or "
            f"'cuda'; got {device!r}"
        )


def _accelerator(cpu: bool, trackers: Sequence[str], folder: Path | None) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

    with warnings.catch_warnings():
        # It announces the number of threads that it sets where nobody did.
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS")
        return Accelerator(
            cpu=cpu,
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(
                project_dir=None if folder is None else str(folder),
                logging_dir=None if folder is None else str(folder / "tensorboard"),
            ),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
