"""Work on arrays in blocks that stay in the cache of a CPU."""

from __future__ import annotations

from collections.abc import Iterator

IN_CACHE = 2**20  # bytes; new memory, and what the cache has lost, cost more than computing


def blocks(total: int, row: int, *, at_once: int = 0, least: int = 1) -> Iterator[slice]:
    """The rows 0 to total - 1 in blocks of one size, of which the last may be smaller.

    Args:
        total: The number of rows, or of columns.
        row: Bytes that the work on one of them takes.
        at_once: Bytes that the work on a block may take; 0 for what stays in a cache.
        least: The fewest rows of a block, also where they take more.
    """
    size = max(least, (at_once or IN_CACHE) // max(1, row))
    for first in range(0, total, size):
        yield slice(first, min(first + size, total))
