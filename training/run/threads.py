"""A warning about threads that share cores with other work."""

from __future__ import annotations

import os
import warnings

import torch

__all__ = ["warn_about_threads"]


def warn_about_threads(processes: int = 1) -> None:
    """Warn if the threads of this run and the machine's other load exceed its cores.

    OpenMP threads spin while they wait for each other. On shared cores most of their time is
    waiting: one training was 12 times slower than with a single thread. The load is the average of
    the last minute. One thread in each process never causes a warning: it waits for no other.
    """
    own = torch.get_num_threads()
    if own == 1 or not hasattr(os, "getloadavg"):  # Windows has none
        return
    threads = own * processes
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    load = os.getloadavg()[0]
    if threads + load <= cores + 0.5:
        return
    free = max(1, int(cores - load + 0.5))
    warnings.warn(
        f"{threads} threads share {cores} cores with a load of {load:.1f}. Threads that wait for "
        f"each other can make training many times slower: set OMP_NUM_THREADS={free}",
        RuntimeWarning,
        stacklevel=3,
    )
