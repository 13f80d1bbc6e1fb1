"""CUDA graphs of encode and decode, as far as a machine without a GPU can tell."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from device_tools import pretended_gpu
from nfa_tools import batch_of, checkpoint
from torch import Tensor

import nfaug
from nfaug.augment.graphs import CudaGraphs


def test_a_cpu_calls_plainly() -> None:
    images, labels = batch_of(12)
    plain = nfaug.NFAugment(checkpoint(), p=1.0)
    graphed = nfaug.NFAugment(plain.engine, p=1.0, cuda_graphs=True)
    assert graphed.engine.on(torch.device("cpu"))[0] is plain.engine.on(torch.device("cpu"))[0]
    draws = plain.draw(labels)
    expected, _ = plain.replay(images, labels, draws)
    for form in (graphed, copy.deepcopy(graphed), pickle.loads(pickle.dumps(graphed))):
        assert torch.equal(form.replay(images, labels, draws)[0], expected)


class Streams:
    """Stands in for torch.cuda: a graph replays what was called last when it was captured.

    Attributes:
        calls: What was called, and its results.
        replays: The number of replays.
        streams: The streams that were made.
        on: The streams of warm-ups and captures, in order.
        wrong: What a replay adds to each value.
        refuses: Whether nothing can be captured.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.replays = 0
        self.streams: list[Any] = []
        self.on: list[Any] = []
        self.wrong = 0.0
        self.refuses = False

    def double(self, x: Tensor) -> Tensor:
        y = 2 * x
        self.calls.append((x, y))
        return y

    def new_stream(self) -> Any:
        self.streams.append(SimpleNamespace(wait_stream=lambda stream: None))
        return self.streams[-1]

    def stream(self, stream: Any) -> Any:
        self.on.append(stream)
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def graph(self, graph: Any, *, stream: Any, **options: Any) -> Iterator[None]:
        self.on.append(stream)
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        yield
        x, y = self.calls[-1]

        def replay() -> None:
            self.replays += 1
            y.copy_(2 * x + self.wrong)

        graph.replay = replay


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """Nothing here reaches a card of this machine."""
    found = Streams()
    cuda: Any = torch.cuda
    monkeypatch.setattr(cuda, "Stream", found.new_stream)
    monkeypatch.setattr(cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(cuda, "current_stream", found.new_stream)
    monkeypatch.setattr(cuda, "graph_pool_handle", lambda: 0)
    monkeypatch.setattr(cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(cuda, "device", lambda given: contextlib.nullcontext())
    monkeypatch.setattr(cuda, "stream", found.stream)
    monkeypatch.setattr(cuda, "graph", found.graph)
    return found


def test_a_capture_that_fails_warns_once_and_calls_plainly(streams: Streams) -> None:
    streams.refuses = True
    images, labels = batch_of(12)
    nfa = nfaug.NFAugment(checkpoint(), p=1.0, cuda_graphs=True)
    draws = nfa.draw(labels)
    expected, _ = nfa.replay(images, labels, draws)
    graphs = nfa.engine.graphs
    assert graphs is not None
    with pretended_gpu() as gpu:
        with pytest.warns(UserWarning, match="graphs") as caught:
            found = [nfa.replay(images.to(gpu), labels, draws)[0].cpu() for _ in range(2)]
        assert len(caught) == 1
    assert graphs.captured == {}
    assert "not permitted" in graphs.failure
    for new in found:
        assert (new.int() - expected.int()).abs().max() <= 1


def test_later_calls_of_a_shape_replay(streams: Streams) -> None:
    graphs = CudaGraphs()
    with pretended_gpu() as gpu:
        given = [torch.rand(2, 3).to(gpu) for _ in range(3)]
        results = [graphs.call("double", streams.double, x) for x in given]
        for x, y in zip(given, results, strict=True):
            assert torch.equal(y, 2 * x), "a later replay does not change it"
        # The first shape: a plain call, three to warm up, the capture, and a replay as a check.
        assert (len(streams.calls), streams.replays) == (5, 3)
        for count in range(3, 9):  # of other shapes three are captured, and the others called
            x = torch.rand(count).to(gpu)
            assert torch.equal(graphs.call("double", streams.double, x), 2 * x)
        assert (len(streams.calls), streams.replays) == (5 + 3 * 5 + 3, 3 + 3)
        graphs.call("double", streams.double, given[0])
        assert streams.replays == 7
    assert graphs.captured == {"double": 4}
    assert graphs.failure == ""


def test_warm_ups_and_captures_share_one_stream(streams: Streams) -> None:
    graphs = CudaGraphs()
    with pretended_gpu() as gpu:
        for count in (2, 3):
            graphs.call("double", streams.double, torch.rand(count).to(gpu))
    assert len(streams.on) == 4
    assert all(each is streams.on[0] for each in streams.on)


def test_a_replay_that_differs_is_not_used(streams: Streams) -> None:
    """By a value, or by one that is not finite; what both have is no difference."""
    for wrong in (0.1, math.nan, math.inf):
        streams.wrong = wrong
        graphs = CudaGraphs()
        with pretended_gpu() as gpu:
            x = torch.rand(20).to(gpu)
            with pytest.warns(UserWarning, match="differs from a plain call"):
                first = graphs.call("double", streams.double, x)
            replays = streams.replays
            assert torch.equal(first, 2 * x)
            assert torch.equal(graphs.call("double", streams.double, x), 2 * x)
        assert streams.replays == replays, "no replay after the failure"
        assert graphs.captured == {}
    streams.wrong = 0.0
    graphs = CudaGraphs()
    with pretended_gpu() as gpu:
        x = torch.tensor([1.0, math.nan, math.inf]).to(gpu)
        graphs.call("double", streams.double, x)
    assert graphs.captured == {"double": 1}
