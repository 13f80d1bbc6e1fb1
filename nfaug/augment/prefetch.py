"""NFA one batch ahead of the training step, on a CUDA stream of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .transform import NFAugment

__all__ = ["augmented_ahead"]


def augmented_ahead(
    loader: Iterable[Any], nfa: NFAugment, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of a loader on a device, augmented while the step before them runs.

    The copy to the GPU and NFA of the next batch are queued on a second stream before a batch is
    yielded, so that they fill what the model's step leaves idle. The loader should pin its memory.
    If it yields tensors that are on a GPU already, the second stream first waits for all that is
    queued on the current one, because those tensors may not be computed yet: NFA then overlaps
    only with what is queued later. Batches and random draws are those of a plain loop. On other
    devices it is that plain loop.

    Example:
        >>> import torch
        >>> import nfaug
        >>> from nfaug.augment.prefetch import augmented_ahead
        >>> loader = [(torch.rand(4, 3, 32, 32), torch.arange(4)) for _ in range(2)]
        >>> nfa = nfaug.NFAugment("builtin:rgb32")
        >>> [images.shape for images, labels in augmented_ahead(loader, nfa, "cpu")]
        [torch.Size([4, 3, 32, 32]), torch.Size([4, 3, 32, 32])]

    Args:
        loader: Batches (images, labels), in memory or on a GPU.
        nfa: The augmentation.
        device: The device of the model.
    """
    device = torch.device(device)
    if device.type != "cuda":
        for images, labels in loader:
            yield nfa(images.to(device), labels.to(device))
        return
    side = torch.cuda.Stream(device)
    ready: tuple[Tensor, Tensor, torch.cuda.Event] | None = None
    for batch in loader:
        given: list[Tensor] = [*batch]
        _wait_for(given, side)
        with torch.cuda.stream(side):
            images, labels = (x.to(device, non_blocking=True) for x in given)
            images, labels = nfa(images, labels)
            event = torch.cuda.Event()
            event.record(side)
        if ready is not None:
            yield _taken(*ready, device)
        ready = images, labels, event
    if ready is not None:
        yield _taken(*ready, device)


def _wait_for(batch: Sequence[Tensor], side: torch.cuda.Stream) -> None:
    """Let the side stream wait for the tensors of a batch that are on a GPU already."""
    for tensor in batch:
        if tensor.device.type == "cuda":
            side.wait_stream(torch.cuda.current_stream(tensor.device))
            tensor.record_stream(side)  # its memory must not be reused before NFA has read it


def _taken(
    images: Tensor, labels: Tensor, event: torch.cuda.Event, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A batch of the side stream, for the current one."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(event)
    for tensor in (images, labels):
        tensor.record_stream(stream)  # its memory must not be reused before the step is done
    return images, labels
