"""The warning about threads on a busy machine."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

from nfaug.training.run.threads import warn_about_threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    threads, cores, load = request.param
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))


@pytest.mark.parametrize("machine", [(1, 2, 9.0), (2, 2, 0.3), (4, 8, 4.4)], indirect=True)
def test_no_warning(machine: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_about_threads(processes=2 if torch.get_num_threads() == 1 else 1)


@pytest.mark.parametrize(
    ("machine", "advice"),
    [((2, 2, 1.0), "OMP_NUM_THREADS=1"), ((8, 8, 3.0), "OMP_NUM_THREADS=5")],
    indirect=["machine"],
)
def test_a_busy_machine(machine: None, advice: str) -> None:
    with pytest.warns(RuntimeWarning, match=advice):
        warn_about_threads()


@pytest.mark.parametrize("machine", [(4, 8, 0.0)], indirect=True)
def test_all_processes_count(machine: None) -> None:
    with pytest.warns(RuntimeWarning, match="12 threads"):
        warn_about_threads(processes=3)
