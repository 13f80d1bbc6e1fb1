"""Data-parallel training over one process, or those of `accelerate launch` or `torchrun`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nfaug.data.batches import Batches
from nfaug.flows.flow import Flow
from nfaug.io.device import pick_device
from nfaug.io.ranks import TIMEOUT, Ranks, launched

__all__ = ["Processes", "Shard", "draw_noise", "shared_batches"]


class Processes(Ranks):
    """The group of processes that share a run, and this process's place in it.

    Every process draws the same random numbers for the whole batch and computes on its own rows,
    so the result does not depend on how many processes there are. Accelerate joins the processes,
    averages gradients and opens trackers; its mixed precision is off, since a flow whose couplings
    compute in 16 bits is not exact.

    Args:
        device: As in `TrainConfig.device`; Accelerate chooses it if there are several processes.
        trackers: Trackers to open through Accelerate.
        folder: The run's folder, where trackers write.

    Attributes:
        count: Number of processes.
        rank: Index of this process, from 0.
        device: Device of this process.

    Raises:
        ValueError: If a tracker is not installed, or there is no such device.
    """

    def __init__(
        self, device: str, trackers: Sequence[str] = (), folder: Path | None = None
    ) -> None:
        super().__init__()
        self.accelerator: Any = None
        for name in trackers:
            if find_spec(name) is None:  # Accelerate would leave it out without a word
                raise ValueError(
                    f"there is no tracker {name!r} here: install it, or choose among tensorboard "
                    "(the extra train), wandb and trackio with --trackers"
                )
        several = launched() > 1
        if several or trackers:
            # Without `cpu` and without a GPU, Accelerate runs every process on its own.
            cpu = several and (device == "cpu" or not torch.cuda.is_available())
            from accelerate import Accelerator
            from accelerate.utils import InitProcessGroupKwargs

            self.accelerator = Accelerator(
                cpu=cpu,
                mixed_precision="no",
                log_with=list(trackers) or None,
                project_dir=None if folder is None else folder / "tensorboard",
                kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
            )
        if several:
            self.count: int = self.accelerator.num_processes
            self.rank: int = self.accelerator.process_index
            self.device: torch.device = self.accelerator.device
        else:
            self.device = pick_device(device)

    @property
    def float64(self) -> torch.device:
        """The device for float64 sums: the CPU on Apple GPUs, which have no float64."""
        if self.device.type == "mps":
            return torch.device("cpu")
        return self.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, wrapped to average gradients if there are several processes."""
        if self.count == 1:
            return module
        wrapped: nn.Module = self.accelerator.prepare_model(module)
        return wrapped

    def wait(self) -> None:
        """Block until every process has called this."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group."""
        if self.count > 1:
            self.accelerator.state.destroy_process_group()


class Shard(NamedTuple):
    """One process's rows of a batch.

    Attributes:
        images: uint8 images, or latents.
        labels: Labels (B,).
        part: The slice of the batch that these rows are.
        total: Number of images in the whole batch.
        weight: 0 if the rows repeat another process's and must not count, else 1.
    """

    images: Tensor
    labels: Tensor
    part: slice
    total: int
    weight: float


def draw_noise(flow: Flow, count: int, generator: torch.Generator, gaussian: float = 0.0) -> Tensor:
    """Draw dequantisation noise (count, C, H, W) on the generator's device.

    Uniform on [0, 1) in grey levels, plus gaussian noise of standard deviation `gaussian`.
    """
    shape = (count, *flow.config.shape)
    noise = torch.rand(shape, generator=generator, device=generator.device)
    if gaussian:
        normal = torch.randn(shape, generator=generator, device=generator.device)
        noise.add_(normal, alpha=gaussian)
    return noise


def shared_batches(
    data: Batches, order: Tensor, batch_size: int, ranks: Ranks | None = None
) -> Iterator[Shard]:
    """Split every batch over the processes and yield this one's shards.

    Sizes differ by at most one. If a batch has fewer rows than there are processes, the others get
    its first row with `weight` 0: with gradients, every process must take part.
    """
    if not len(order):
        return
    ranks = ranks or Ranks()
    batches = order.split(batch_size)
    shards: list[Tensor] = []
    for batch in batches:
        shard = batch.tensor_split(ranks.count)[ranks.rank]
        shards.append(shard if len(shard) else batch[:1])
    largest = max(len(shard) for shard in shards)
    loaded = data.iterate(torch.cat(shards), largest)
    for batch, (images, labels) in zip(batches, loaded, strict=True):
        parts = batch.tensor_split(ranks.count)
        if len(parts[ranks.rank]):
            start = sum(len(part) for part in parts[: ranks.rank])
            weight = 1.0
        else:
            start = 0
            weight = 0.0
        rows = slice(start, start + len(images))
        yield Shard(images, labels, rows, len(batch), weight)
