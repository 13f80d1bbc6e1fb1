"""The warning about threads on a busy machine."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

import nfaug.training.trainer as trainer
from nfaug.data.images import TensorImages
from nfaug.training import TrainConfig, train
from nfaug.training.run.threads import warn_about_threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Threads of a process, cores that it may use, cores of the machine, and its load."""
    threads, cores, everywhere, load = request.param
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: everywhere)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))


@pytest.mark.parametrize(
    "machine",
    [
        (1, 2, 2, 9.0),
        (2, 2, 2, 0.3),
        (4, 8, 8, 4.4),
        (4, 4, 64, 30.0),  # a job on 4 of 64 cores: the load is elsewhere
    ],
    indirect=True,
)
def test_no_warning(machine: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_about_threads(processes=2 if torch.get_num_threads() == 1 else 1)


@pytest.mark.parametrize(
    ("machine", "advice"),
    [
        ((2, 2, 2, 1.0), "OMP_NUM_THREADS=1"),
        ((8, 8, 8, 3.0), "OMP_NUM_THREADS=5"),
        ((8, 4, 64, 0.0), "OMP_NUM_THREADS=4"),  # more threads than the job may use
        ((4, 4, 64, 62.0), "OMP_NUM_THREADS=2"),
    ],
    indirect=["machine"],
)
def test_a_busy_machine(machine: None, advice: str) -> None:
    with pytest.warns(RuntimeWarning, match=advice):
        warn_about_threads()


@pytest.mark.parametrize("machine", [(4, 8, 8, 0.0)], indirect=True)
def test_all_processes_count(machine: None) -> None:
    with pytest.warns(RuntimeWarning, match="12 threads") as found:
        warn_about_threads(processes=3)
    assert "OMP_NUM_THREADS=2" in str(found[0].message)


def test_a_training_checks_its_threads(
    tiny_images: TensorImages, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    monkeypatch.setattr(trainer, "warn_about_threads", checked.append)
    train(tiny_images, tiny_config, progress=False)
    assert checked == [1]
