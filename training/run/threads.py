"""A warning about threads that share cores with other work."""

from __future__ import annotations

import os
import warnings

import torch

__all__ = ["warn_about_threads"]


def warn_about_threads(processes: int = 1) -> None:
    """Warn if this run has more threads than cores, or if the machine's other load needs them.

    OpenMP threads spin while they wait for each other. On shared cores most of their time is
    waiting: one training was 12 times slower than with a single thread. The load is the average of
    the last minute over the whole machine, so it counts against all of its cores, even if this
    process may use only some of them. One thread in each process never causes a warning: it waits
    for no other.
    """
    own = torch.get_num_threads()
    if own == 1 or not hasattr(os, "getloadavg"):  # Windows has none
        return
    threads = own * processes
    usable = getattr(os, "sched_getaffinity", None)
    machine = os.cpu_count() or 1
    cores = min(machine, len(usable(0))) if usable else machine
    load = os.getloadavg()[0]
    if threads <= cores and threads + load <= machine + 0.5:
        return
    free = max(1, min(cores, int(machine - load + 0.5)) // processes)
    warnings.warn(
        f"{threads} threads share {cores} cores; the load of the machine is {load:.1f} on "
        f"{machine}. Threads that wait for each other can make training many times slower: set "
        f"OMP_NUM_THREADS={free}",
        RuntimeWarning,
        stacklevel=3,
    )
