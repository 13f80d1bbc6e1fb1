"""CUDA graphs of encode and decode: the launches of a call, recorded once and replayed as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_MOST = 4  # graphs of each function: each keeps its memory, and shapes beyond are rare
_WARM_UPS = 3  # calls before the capture, in which libraries choose algorithms and allocate


class _Captured(NamedTuple):
    graph: Any
    given: Tensor
    result: Tensor


class CudaGraphs:
    """Replays functions of one tensor on a CUDA device; calls them plainly where it cannot.

    The first call with a shape, type and memory layout captures a graph, up to four for each
    function; later ones copy their tensor in and the result out. Calls are plain on other devices,
    with more shapes, while another graph is captured, and for good after a capture failed, which
    warns. The functions must not wait for the device or draw random numbers. One thread may call.

    It follows the documentation of `torch.cuda.graph`; it has not run on a GPU yet.
    """

    def __init__(self) -> None:
        self._captured: dict[str, dict[Any, _Captured]] = {}
        self._pool: Any = None  # memory that the graphs share: they never run at the same time
        self._failed = False

    def call(self, name: str, function: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """Return function(given); `name` tells functions apart."""
        if self._failed or given.device.type != "cuda" or not len(given):
            return function(given)
        captured = self._captured.setdefault(name, {})
        key = (given.device, given.dtype, given.shape, given.stride())
        if key not in captured:
            if len(captured) == _MOST:
                return function(given)
            try:
                if torch.cuda.is_current_stream_capturing():
                    return function(given)
                captured[key] = self._capture(function, given)
            except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
                self._failed = True
                self._captured.clear()
                reason = str(error).splitlines()[0][:200]
                warnings.warn(f"no CUDA graphs, {name} is called plainly: {reason}", stacklevel=2)
                return function(given)
        graph, static, result = captured[key]
        static.copy_(given)
        graph.replay()
        return result.clone()

    def _capture(self, function: Callable[[Tensor], Tensor], given: Tensor) -> _Captured:
        static = given.clone()
        with torch.cuda.device(given.device):
            current = torch.cuda.current_stream()
            side = torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    function(static)
            current.wait_stream(side)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # Threads of data loaders, which pin memory, may go on meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = function(static)
        return _Captured(graph, static, result)

    def __reduce__(self) -> Any:
        return CudaGraphs, ()  # a copy captures its own
