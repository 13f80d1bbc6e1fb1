"""CUDA graphs of encode and decode: the launches of a call, recorded once and replayed as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_MOST = 4  # graphs of each function: each keeps its memory, and shapes beyond are rare
_WARM_UPS = 3  # calls before the capture, in which libraries choose algorithms and allocate
# Mean difference of a replay from a plain call, relative to the mean size of its values. Other
# algorithms differ by far less; one wrong image in a batch of 500 by more.
_TOLERANCE = 1e-3


class _Captured(NamedTuple):
    graph: Any
    given: Tensor
    result: Tensor


class _Place(NamedTuple):
    """What the graphs of a device share; they never run at the same time.

    With a stream of their own, libraries allocate what they keep for it in the warm-up, outside of
    the graphs' memory.
    """

    stream: Any
    pool: Any


class CudaGraphs:
    """Replays functions of one tensor on a CUDA device; calls them plainly where it cannot.

    The first call with a shape, type and memory layout captures a graph, up to four for each
    function; later ones copy their tensor in and the result out. Calls are plain on other devices,
    with more shapes, and while another graph is captured. After a capture one replay is compared
    with a plain call. If they differ, or the capture failed, that is warned of once, and all calls
    are plain from then on. The functions must not wait for the device or draw random numbers. One
    thread may call.

    It follows the documentation of `torch.cuda.graph`; it has not run on a GPU yet.

    Attributes:
        failure: Why nothing is captured any more; empty while captures succeed.
    """

    def __init__(self) -> None:
        self.failure: str = ""
        self._captured: dict[str, dict[Any, _Captured]] = {}
        self._places: dict[torch.device, _Place] = {}

    @property
    def captured(self) -> dict[str, int]:
        """The number of graphs of each function that has some."""
        return {name: len(graphs) for name, graphs in self._captured.items() if graphs}

    def call(self, name: str, function: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """Return function(given); `name` tells functions apart."""
        if self.failure or given.device.type != "cuda" or not len(given):
            return function(given)
        captured = self._captured.setdefault(name, {})
        key = (given.device, given.dtype, given.shape, given.stride())
        if key in captured:
            return _replayed(captured[key], given)
        if len(captured) == _MOST:
            return function(given)
        try:
            if torch.cuda.is_current_stream_capturing():
                return function(given)
            plain = function(given)
            graph = self._capture(function, given)
            _check_same(_replayed(graph, given), plain)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            self._captured.clear()
            self.failure = (str(error) or type(error).__name__).splitlines()[0][:200]
            warnings.warn(f"no CUDA graphs, {name} is called plainly: {self.failure}", stacklevel=2)
            return function(given)
        captured[key] = graph
        return plain

    def _capture(self, function: Callable[[Tensor], Tensor], given: Tensor) -> _Captured:
        static = given.clone()
        with torch.cuda.device(given.device):
            if given.device not in self._places:
                place = _Place(torch.cuda.Stream(), torch.cuda.graph_pool_handle())
                self._places[given.device] = place
            stream, pool = self._places[given.device]
            current = torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    function(static)
            current.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Threads of data loaders, which pin memory, may go on meanwhile.
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                result = function(static)
        return _Captured(graph, static, result)

    def __reduce__(self) -> Any:
        return CudaGraphs, ()  # a copy captures its own


def _replayed(captured: _Captured, given: Tensor) -> Tensor:
    captured.given.copy_(given)
    captured.graph.replay()
    return captured.result.clone()


def _check_same(replayed: Tensor, plain: Tensor) -> None:
    """Raise RuntimeError if a replay is not the plain call, up to rounding.

    Values that are finite in neither of them are left out.
    """
    compared = replayed.isfinite() | plain.isfinite()
    expected = torch.where(compared, plain, 0).double()
    off = (torch.where(compared, replayed, 0).double() - expected).abs().mean()
    size = expected.abs().mean()
    if not bool(off <= _TOLERANCE * size):
        raise RuntimeError(
            f"a replay differs from a plain call by {float(off):.3g} on average, where values "
            f"have {float(size):.3g}"
        )
