"""`capture=True` and `augmented_ahead` change no result."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nfa_tools import batch_of, checkpoint

from nfaug.augment.capture import _ROWS, CapturedEngine, Inputs, padded
from nfaug.augment.prefetch import _wait_for, augmented_ahead
from nfaug.augment.transform import NFAugment


def test_on_the_cpu_capture_is_ignored() -> None:
    images, labels = batch_of(20)
    plain, captured = NFAugment(checkpoint(), p=0.6), NFAugment(checkpoint(), p=0.6, capture=True)
    for _ in range(3):
        params = plain.make_params(labels)
        expected = plain(images, labels, params=params)[0]
        assert torch.equal(captured(images, labels, params=params)[0], expected)
    assert captured.stats() == plain.stats()
    again = pickle.loads(pickle.dumps(captured))
    assert torch.equal(copy.deepcopy(again)(images, labels, params=params)[0], expected)


def test_padding_changes_no_image() -> None:
    """Added rows are repeats that are not augmented and are nobody's partner."""
    images, labels = batch_of(19)
    nfa = NFAugment(checkpoint(), p=0.6, partners="both", noise=0.1)
    params = nfa.make_params(labels)
    taken = params.index
    assert len(taken) == 12
    usable = torch.ones(12, dtype=torch.bool)
    draws = tuple(getattr(params, name) for name in _ROWS)
    inputs = Inputs(images[taken], labels[taken], usable, draws)
    assert padded(inputs, 6) is inputs
    more = padded(inputs)
    assert {len(x) for x in more.tensors()} == {16}
    assert not more.usable[12:].any()
    fields = dict(zip(_ROWS, more.draws, strict=True))
    assert not fields["chosen"][12:].any()
    engine, own = nfa.engine, (nfa._normalization, nfa.settings)
    changed = type(params)(batch=16, memory=params.memory, **fields)
    few, many = (
        engine.mix(engine.encode(x.images, x.labels, *own), x.usable, drawn, *own)
        for x, drawn in ((inputs, params), (more, changed))
    )
    assert torch.equal(many[0][:12], few[0])
    assert torch.equal(many[0][12:], images[taken[:1]].expand(4, -1, -1, -1))
    for name, mask in few[1].items():
        assert torch.equal(many[1][name][:12], mask)
        assert not many[1][name][12:].any()


class FakeStream:
    """A stream on a machine without a GPU."""

    def __init__(self, device: Any = None) -> None:
        self.waited: list[Any] = []

    def wait_stream(self, stream: Any) -> None:
        self.waited.append(stream)


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Capture on the CPU: graphs whose replay does nothing; the modes of all captures."""
    found: list[str] = []

    def record(graph: Any, *, capture_error_mode: str) -> contextlib.AbstractContextManager[None]:
        found.append(capture_error_mode)
        return contextlib.nullcontext()

    monkeypatch.setattr(CapturedEngine, "_captures", lambda self, _: not self._failed)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(
        torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None), raising=False
    )
    return found


def test_a_shape_is_captured_once_and_without_regard_to_other_threads(modes: list[str]) -> None:
    images, labels = batch_of(20)
    plain, captured = NFAugment(checkpoint(), p=0.6), NFAugment(checkpoint(), p=0.6, capture=True)
    params = plain.make_params(labels)
    expected = plain(images, labels, params=params)[0]
    for _ in range(4):
        assert torch.equal(captured(images, labels, params=params)[0], expected)
    assert modes == ["thread_local"]


def test_a_replay_gets_the_batch(modes: list[str]) -> None:
    """Without the copy into its inputs, a graph would return its first batch for ever."""
    nfa = NFAugment(checkpoint(), p=0.6, capture=True)
    for seed in range(3):
        images, labels = batch_of(20, seed=seed)
        params = nfa.make_params(labels)
        nfa(images, labels, params=params)
    assert nfa._captured is not None
    (recorded,) = nfa._captured._graphs.values()
    assert recorded is not None
    taken = params.index
    assert torch.equal(recorded.inputs.images[:12], images[taken])
    assert torch.equal(recorded.inputs.labels[:12], labels[taken])
    for name, held in zip(_ROWS, recorded.inputs.draws, strict=True):
        if name != "chosen":  # which the transform changes for images that cannot be augmented
            assert torch.equal(held[:12], getattr(params, name)), name


def test_a_graph_keeps_the_mean_and_std_that_it_reads(modes: list[str]) -> None:
    images, labels = batch_of(20)
    nfa = NFAugment(checkpoint(), p=0.6, capture=True, mean=0.5, std=0.25)
    normalised = (images / 255 - 0.5) / 0.25
    for _ in range(2):
        nfa(normalised, labels)
    read = [weakref.ref(x) for x in nfa._normalization._on(images.device)]
    nfa.set_normalization(0.5, 0.25)  # equal values, new tensors
    gc.collect()
    assert all(x() is not None for x in read)


def test_a_graph_that_is_recorded_in_inference_mode_serves_training(modes: list[str]) -> None:
    images, labels = batch_of(20)
    nfa = NFAugment(checkpoint(), p=0.6, capture=True)
    params = nfa.make_params(labels)
    with torch.inference_mode():
        expected = nfa(images, labels, params=params)[0].clone()
        nfa(images, labels, params=params)
    assert modes == ["thread_local"]
    new = nfa(images, labels, params=params)[0]
    assert torch.equal(new, expected)
    assert not new.is_inference()


def test_graphs_are_for_a_shape_a_gate_and_keep(modes: list[str]) -> None:
    images, labels = batch_of(20)
    nfa = NFAugment(checkpoint(), capture=True)
    for p, strength in ((0.45, 1.5), (0.5, 1.0), (0.6, 0.5), (0.7, 0.2), (0.8, 1.5)):
        nfa.p, nfa.strength = p, strength  # 9 to 16 images, padded to 16
        nfa(images, labels)
    assert len(modes) == 1
    nfa.gate = 1.0
    nfa(images, labels)
    nfa(images, labels)
    assert len(modes) == 2


@pytest.mark.parametrize("failing", ["Stream", "graph"])
def test_a_failed_capture_falls_back_with_one_warning(
    failing: str, modes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no capture here")

    monkeypatch.setattr(torch.cuda, failing, fail)
    images, labels = batch_of(20)
    plain, captured = NFAugment(checkpoint(), p=0.6), NFAugment(checkpoint(), p=0.6, capture=True)
    params = plain.make_params(labels)
    expected = plain(images, labels, params=params)[0]
    assert torch.equal(captured(images, labels, params=params)[0], expected)
    with pytest.warns(UserWarning, match="capture here"):
        assert torch.equal(captured(images, labels, params=params)[0], expected)
    for _ in range(3):  # warnings are errors here
        assert torch.equal(captured(images, labels, params=params)[0], expected)


def test_the_second_stream_waits_for_batches_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"current of {device}")
    side: Any = FakeStream()
    kept: list[Any] = []
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), record_stream=kept.append)
    _wait_for([torch.zeros(2), on_gpu], side)
    assert side.waited == ["current of cuda"]
    assert kept == [side]


def test_batches_ahead_are_those_of_a_plain_loop() -> None:
    loader = [batch_of(10, seed=seed) for seed in range(3)]
    torch.manual_seed(0)
    nfa = NFAugment(checkpoint())
    expected = [nfa(images, labels)[0] for images, labels in loader]
    torch.manual_seed(0)
    found = [images for images, _ in augmented_ahead(loader, nfa, "cpu")]
    assert len(found) == 3
    assert all(map(torch.equal, found, expected))
