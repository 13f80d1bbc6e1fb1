"""A comparison in several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from nfa_tools import write_images
from safetensors.torch import save_file

from nfaug.compare import CompareConfig
from nfaug.compare.rows import Row
from nfaug.compare.run import compare
from nfaug.compare.workers import Workers
from nfaug.data.open import open_dataset


def test_processes_compute_what_one_does(tmp_path: Path) -> None:
    """All rows of the ladder, with strengths that are chosen."""
    write_images(tmp_path / "data", 32, train=9)
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    settings = CompareConfig(
        per_class=6,
        network="test_resnet",
        weights=str(weights),
        rows="frozen,frozen+nfa,none,nfa+randaugment",
        seeds=2,
        steps=1,
        tune=True,
        variants=2,
        device="cpu",
    )
    data = open_dataset(tmp_path / "data")
    one = compare(data, config=settings, out=tmp_path / "one", progress=False)
    two = compare(data, config=settings, out=tmp_path / "two", processes=2, progress=False)
    assert len(one.rows) == 4
    assert one.rows == two.rows
    for row in one.rows:
        assert abs(one.accuracy(row) - two.accuracy(row)) < 20  # threads round differently
    assert "magnitude" in (tmp_path / "two" / "cells.csv").read_text()
    assert "chosen inside" in two.text()
    assert (tmp_path / "one" / "features.npy").exists()


def test_an_error_of_a_process_is_its_own(tmp_path: Path) -> None:
    settings = CompareConfig()
    with Workers(tmp_path, settings, 2, 2) as workers:
        with pytest.raises(ValueError, match="seed-0"):
            workers.cell(Row(), 0).result()
        for process in workers._processes:
            process.kill()
        with pytest.raises(ChildProcessError, match="--processes"):
            workers.cell(Row(), 0).result()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
def test_an_interruption_leaves_a_table_and_no_process(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 16, train=8)
    command = [sys.executable, "-m", "nfaug", "compare", "--data", "data", "--out", "out"]
    command += ["--per-class", "4", "--steps", "40", "--seeds", "500", "--processes", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "cells.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.exists() else []
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "| nothing more |" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "train.py").exists()
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
