"""How the C library treats memory that is freed."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt, and the largest values that it takes.
_TRIM_THRESHOLD, _MOST_FREE = -1, 2**31 - 1
_MMAP_THRESHOLD, _MOST_ON_HEAP = -3, 2**25


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors for the next ones; elsewhere do nothing.

    By default it gives blocks of some megabytes back to the system and takes them again at each
    call. Touching them anew took a fifth of the time of a call of `builtin:rgb32`
    (benchmarks/results/memory.md). It is for processes that are ours: commands, not libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    mallopt(_MMAP_THRESHOLD, _MOST_ON_HEAP)
    mallopt(_TRIM_THRESHOLD, _MOST_FREE)
