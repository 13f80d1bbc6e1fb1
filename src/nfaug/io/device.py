"""The device to compute on."""

from __future__ import annotations

import os

import torch

__all__ = ["is_read_at_once", "pick_device"]


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is this process's GPU if there is one, else the CPU.

    Raises:
        ValueError: If torch has no such device on this machine.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = os.environ.get("LOCAL_RANK")
        return torch.device(f"cuda:{local}" if local else "cuda")
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


def is_read_at_once(device: torch.device) -> bool:
    """Whether reading a tensor's values costs nothing: the host would wait for an accelerator."""
    return device.type == "cpu"
