"""CUDA graphs of encode and decode, as far as a machine without a GPU can tell."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Iterator
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


def test_a_capture_that_fails_warns_once_and_calls_plainly() -> None:
    """The GPU that is pretended has no streams."""
    images, labels = batch_of(12)
    nfa = nfaug.NFAugment(checkpoint(), p=1.0, cuda_graphs=True)
    draws = nfa.draw(labels)
    expected, _ = nfa.replay(images, labels, draws)
    with pretended_gpu() as gpu:
        with pytest.warns(UserWarning, match="graphs") as caught:
            found = [nfa.replay(images.to(gpu), labels, draws)[0].cpu() for _ in range(2)]
        assert len(caught) == 1
    for new in found:
        assert (new.int() - expected.int()).abs().max() <= 1


class Device:
    """Stands in for torch.cuda: a graph replays what was called last when it was captured."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.replays = 0

    def double(self, x: Tensor) -> Tensor:
        y = 2 * x
        self.calls.append((x, y))
        return y

    @contextlib.contextmanager
    def graph(self, graph: Any, **options: Any) -> Iterator[None]:
        yield
        x, y = self.calls[-1]

        def replay() -> None:
            self.replays += 1
            y.copy_(2 * x)

        graph.replay = replay


def test_later_calls_of_a_shape_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def wait_stream(self, stream: Any) -> None: ...

    class Graph: ...

    device = Device()
    cuda: Any = torch.cuda
    monkeypatch.setattr(cuda, "Stream", Stream)
    monkeypatch.setattr(cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(cuda, "current_stream", Stream)
    monkeypatch.setattr(cuda, "graph_pool_handle", lambda: 0)
    monkeypatch.setattr(cuda, "is_current_stream_capturing", lambda: False)
    for name in ("device", "stream"):
        monkeypatch.setattr(cuda, name, lambda given: contextlib.nullcontext())
    monkeypatch.setattr(cuda, "graph", device.graph)
    graphs = CudaGraphs()
    with pretended_gpu() as gpu:
        given = [torch.rand(2, 3).to(gpu) for _ in range(3)]
        results = [graphs.call("double", device.double, x) for x in given]
        for x, y in zip(given, results, strict=True):
            assert torch.equal(y, 2 * x), "a later replay does not change it"
        assert (len(device.calls), device.replays) == (4, 3)
        for count in range(3, 9):  # of other shapes three are captured, and the others called
            x = torch.rand(count).to(gpu)
            assert torch.equal(graphs.call("double", device.double, x), 2 * x)
        assert (len(device.calls), device.replays) == (4 + 3 * 4 + 3, 3 + 3)
        graphs.call("double", device.double, given[0])
        assert device.replays == 7
