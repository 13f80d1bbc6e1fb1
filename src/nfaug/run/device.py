"""The device to compute on."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_PINS = ("cuda", "xpu")  # devices with an allocator of pinned memory of the CPU


def pick_device(name: str, process: int | None = None) -> torch.device:
    """The device called `name`; "auto" is this process's GPU if there is one, else the CPU.

    Args:
        name: A device of torch, or "auto".
        process: This process's number among those that share the machine, without a launcher
            that sets LOCAL_RANK. Numbers beyond the last GPU begin again at the first. None for
            torch's current GPU.

    Raises:
        ValueError: If torch has no such device on this machine, or LOCAL_RANK is beyond the last
            GPU.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        count = torch.cuda.device_count()
        local = os.environ.get("LOCAL_RANK")
        if local:
            if int(local) >= count:
                raise ValueError(
                    f"LOCAL_RANK is {local}, and this process sees {count} GPUs: start one process "
                    "for each GPU, or set LOCAL_RANK=0 where each process sees one of its own"
                )
            return torch.device("cuda", int(local))
        if process is not None:
            return torch.device("cuda", process % count)
        return torch.device("cuda")
    try:
        empty = torch.empty(0, device=name)
        empty.cpu()  # fails on "meta", which computes nothing
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0].partition(". ")[0]  # some go on for a page
        raise ValueError(
            f"there is no device {name!r} here ({reason}); auto is the GPU if there is one, else "
            "the CPU"
        ) from None
    return empty.device


def float64_device(device: torch.device) -> torch.device:
    """The device for float64 sums: the CPU in place of an Apple GPU, which has no float64."""
    if device.type == "mps":
        return torch.device("cpu")
    return device


def is_read_at_once(device: torch.device) -> bool:
    """Whether reading a tensor's values costs nothing: the host would wait for an accelerator."""
    return device.type == "cpu"


class PerDevice(Generic[T]):
    """A value for each device that asked for it.

    A copy and a pickle hold no value, and make theirs anew.
    """

    def __init__(self) -> None:
        self._values: dict[torch.device, T] = {}

    def on(self, device: torch.device, make: Callable[[torch.device], T]) -> T:
        """The value for a device, which `make` made in the first call."""
        if device not in self._values:
            device = torch.empty(0, device=device).device  # with its number: "cuda:0" for "cuda"
        if device not in self._values:
            self._values[device] = make(device)
        return self._values[device]

    def __reduce__(self) -> tuple[type[PerDevice[Any]], tuple[()]]:
        return PerDevice, ()


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on another device, copied from the CPU without waiting for queued work.

    MPS has no memory that is pinned for it: there the copy waits.
    """
    device = torch.device(device)
    if device.type not in _PINS or tensor.device.type != "cpu":
        return tensor.to(device)
    # A copy from pageable memory waits for all queued GPU work. The allocator does not reuse freed
    # pinned memory before its copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)
