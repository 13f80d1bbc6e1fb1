"""Memory that the processes of a job share, each of which fills a part of it."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .ranks import Ranks


class SharedTensor(NamedTuple):
    """A tensor in memory that several processes map.

    Attributes:
        values: The tensor.
        rows: The part of its first dimension that this process has to fill.
    """

    values: Tensor
    rows: range


def shared_tensor(
    shape: Sequence[int], dtype: torch.dtype, ranks: Ranks, *, step: int = 1
) -> SharedTensor:
    """A tensor that all processes of a machine share, through a file without a name.

    Processes share it if they are on one host and see each other's temporary files; those of
    another machine fill one of their own. All must call this, and then wait until the others have
    filled their parts.

    Args:
        shape: Its shape.
        dtype: Its type.
        ranks: The processes.
        step: Parts begin at multiples of it.

    Raises:
        OSError: There is no room for the file.
    """
    if ranks.count == 1 or 0 in shape:
        return SharedTensor(torch.empty(tuple(shape), dtype=dtype), range(shape[0]))
    handle, name = tempfile.mkstemp(prefix="nfaug-")
    try:
        places = ranks.everyone((socket.gethostname(), name))
        # Several machines may have one TMPDIR, and their maps of a file there differ.
        sharing = []
        for rank, (host, other) in enumerate(places):
            if host == socket.gethostname() and os.path.exists(other):
                sharing.append(rank)
        error: OSError | None = None
        if ranks.rank == sharing[0]:
            error = _reserve(handle, math.prod(shape) * dtype.itemsize)
        ranks.agree(error)
        values = torch.from_file(
            places[sharing[0]][1], shared=True, size=math.prod(shape), dtype=dtype, device="cpu"
        )
        ranks.wait()  # until all have mapped it
    finally:
        os.close(handle)
        with contextlib.suppress(PermissionError):  # Windows does not remove files that are mapped
            os.unlink(name)
    steps = -(-shape[0] // step)
    place = sharing.index(ranks.rank)
    first = steps * place // len(sharing) * step
    end = steps * (place + 1) // len(sharing) * step
    return SharedTensor(values.view(tuple(shape)), range(first, min(end, shape[0])))


def _reserve(handle: int, size: int) -> OSError | None:
    """Give a file its size on the disk; return the error if there is no room for it.

    Without room, writing into the mapped file would kill the process.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        else:
            os.truncate(handle, size)
    except OSError as error:
        return OSError(
            f"the processes share {size / 2**30:.1f} GiB of images or latents through a file in "
            f"{tempfile.gettempdir()}, which has no room ({error.strerror}): set TMPDIR to a "
            "folder that has, or lower dataset.memory_gib"
        )
    return None
