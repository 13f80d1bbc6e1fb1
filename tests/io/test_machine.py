"""Devices, cores and workers of the processes of one machine."""

from __future__ import annotations

import copy
import ctypes
import os
import pickle
from types import SimpleNamespace

import pytest
import torch
from tools.device import pretended_gpu

from nfaug.data.batches import default_workers
from nfaug.run.blocks import blocks
from nfaug.run.device import PerDevice, pick_device
from nfaug.run.memory import keep_freed_memory
from nfaug.run.ranks import own_cores


def test_shards_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert [str(pick_device("auto", part)) for part in (0, 3, 4, 9)] == [
        "cuda:0", "cuda:3", "cuda:0", "cuda:1"
    ]  # fmt: skip
    assert str(pick_device("auto")) == "cuda", "the current one"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert str(pick_device("auto", 1)) == "cuda:2", "a launcher knows better"
    assert str(pick_device("cpu", 1)) == "cpu"


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [own_cores(count) for count in (1, 8, 20)] == [12, 1, 1]
    assert [default_workers(count) for count in (1, 3, 8)] == [12, 4, 0]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (own_cores(), own_cores(6)) == (3, 2)


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device would be an invalid one, and the error one of CUDA, later."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(ValueError, match="LOCAL_RANK is 3, and this process sees 2 GPUs"):
        pick_device("auto")
    assert pick_device("cpu").type == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(pick_device("auto")) == "cuda:1"


def test_a_value_for_each_device() -> None:
    made: list[torch.device] = []
    cpu = torch.device("cpu")

    def make(device: torch.device) -> int:
        made.append(device)
        return len(made)

    values: PerDevice[int] = PerDevice()
    with pretended_gpu() as gpu:
        for device, expected in ((cpu, 1), (gpu, 2), (cpu, 1), (torch.device("cuda"), 2)):
            assert values.on(device, make) == expected
        assert made == [cpu, gpu], "once each"
    copies = [copy.copy(values), copy.deepcopy(values), pickle.loads(pickle.dumps(values))]
    assert [copied.on(cpu, make) for copied in copies] == [3, 4, 5], "anew"
    assert values.on(cpu, make) == 1


@pytest.mark.parametrize(
    ("total", "row", "options", "sizes"),
    [
        (7, 10, {"at_once": 30}, [3, 3, 1]),
        (6, 10, {"at_once": 39}, [3, 3]),
        (3, 100, {"at_once": 30}, [1, 1, 1]),
        (5, 100, {"at_once": 30, "least": 4}, [4, 1]),
        (3, 2**18, {}, [3]),
        (5, 2**18, {}, [4, 1]),
        (3, 0, {}, [3]),
        (0, 10, {}, []),
    ],
)
def test_blocks(total: int, row: int, options: dict[str, int], sizes: list[int]) -> None:
    found = list(blocks(total, row, **options))
    assert [part.stop - part.start for part in found] == sizes
    assert [place for part in found for place in range(total)[part]] == list(range(total))


def test_freed_memory_is_kept_where_glibc_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: asked.append((name, value)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    assert asked == [(-3, 2**25), (-1, 2**31 - 1)]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())  # of another C library
    keep_freed_memory()
    assert len(asked) == 2
