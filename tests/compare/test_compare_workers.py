"""A comparison in several processes."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tools.nfa import TensorImages

from nfaug.compare import CompareConfig
from nfaug.compare.images import read_images
from nfaug.compare.methods import Method
from nfaug.compare.run import compare
from nfaug.compare.work import Work
from nfaug.compare.workers import workers


def textures(count: int, side: int) -> TensorImages:
    """Images of two classes, none of which looks like another one."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = (255 * torch.nn.functional.interpolate(noise, (side, side))).byte()
    return TensorImages(pixels, torch.arange(count) % 2, ("a", "b"))


def test_processes_compute_what_one_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    settings = CompareConfig(
        per_class=6,
        network="test_resnet",
        weights=str(weights),
        methods="frozen,none,nfa+randaugment",
        seeds=2,
        steps=1,
        variants=2,
        device="cpu",
    )
    data = textures(64, 32)
    found = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each process has
    for name, processes in (("one", 1), ("two", 2)):
        with pytest.warns(UserWarning, match="seeds is 2"):
            found[name] = compare(
                data,
                config=settings,
                out=tmp_path / name,
                processes=processes,
                progress=False,
            )
    torch.set_num_threads(threads)
    one, two = found.values()
    assert [method.name for method in one.methods][:2] == ["frozen", "none"]
    assert one.methods == two.methods
    for method in one.methods:
        assert one.accuracy(method) == two.accuracy(method)
    assert sorted(entry.name for entry in (tmp_path / "two").iterdir()) == [
        "cells.csv", "gains.png", "settings.json", "table.md",
    ]  # fmt: skip


def test_an_error_of_a_process_is_its_own(tmp_path: Path) -> None:
    config = CompareConfig(per_class=4)
    data = read_images(textures(16, 8), config=config)
    folder = tmp_path / "images"

    def compute() -> None:
        with workers(data, config, 2, folder) as run:
            with pytest.raises(FileNotFoundError, match="no-such-flow"):
                list(run({"a flow": (Work.trained, [Method("./no-such-flow")], 0)}))
            for child in multiprocessing.active_children():
                child.kill()
            list(run({"the next": (Work.trained, [Method()], 0)}))

    with pytest.raises(ChildProcessError, match="--processes"):
        compute()
    assert not folder.exists()


@pytest.mark.parametrize("interrupted", ["the start", "a job"])
def test_an_interruption_waits_for_the_pool(
    interrupted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside `submit` it left a lock of the pool closed, and the comparison never ended.

    While processes started it was lost.
    """
    data = read_images(textures(16, 8), config=(config := CompareConfig(per_class=4)))
    submitted: list[Future[Any]] = []
    ended: list[int] = []
    plain = ProcessPoolExecutor.submit

    def submit(pool: ProcessPoolExecutor, *words: Any) -> Future[Any]:
        if (words[0] is int) == (interrupted == "the start"):
            signal.raise_signal(signal.SIGINT)
        submitted.append(plain(pool, *words))
        return submitted[-1]

    def compute() -> None:
        with workers(data, config, 2, tmp_path / "images") as run:
            for seed, _ in run({seed: (Work.trained, [Method()], seed) for seed in range(100)}):
                ended.append(seed)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    with pytest.raises(KeyboardInterrupt):
        compute()
    assert len(submitted) == 102  # two start the processes
    assert len(ended) < 10
    assert not (tmp_path / "images").exists()
