"""`nfaug timm` around timm's loaders: with and without the prefetcher, and on two processes."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tools.forked import run_python

SCRIPT = Path(__file__).parents[1] / "tools/timm_train.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)


def run_ranks(run: Callable[..., Any], words: list[Any]) -> Any:
    """Run two processes as torchrun does; it would start interpreters that import torch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    with ThreadPoolExecutor(2) as pool:
        ranks = [
            pool.submit(run, *words, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", **place)
            for rank in "01"
        ]
        first, _ = [rank.result() for rank in ranks]
    return first


@pytest.mark.parametrize(
    ("launcher", "options", "processes"),
    [
        pytest.param((), (), 1, id="prefetcher"),
        pytest.param((), ("--no-prefetcher",), 1, id="plain"),
        pytest.param((), (), 2, id="two processes"),
        pytest.param(TORCHRUN, (), 2, id="torchrun", marks=pytest.mark.soak),
    ],
)
def test_an_unedited_script(
    run: Callable[..., Any],
    folder: Path,
    flow_dir: Path,
    tmp_path: Path,
    launcher: tuple[Any, ...],
    options: tuple[str, ...],
    processes: int,
) -> None:
    out = tmp_path / "record.json"
    words = ["timm", SCRIPT, "--checkpoint", flow_dir, "--p", "1.0", "--gate", "none", "--json"]
    words = [*launcher, "-m", "nfaug", *words, "--", folder, "--out", out, "--mixup", 0.5, *options]
    stats = run_ranks(run, words) if processes > 1 and not launcher else run(*words)
    steps = 6 // processes
    assert stats["seen"] == stats["applied"] == 4 * steps, "counts of one process"
    record = json.loads(out.read_text())
    assert record["sizes"] == [[4, 3, 32, 32]] * steps
    assert record["eval"] == 6


def test_a_script_that_nfa_has_no_part_in(folder: Path, flow_dir: Path, tmp_path: Path) -> None:
    """With a gate that lets no image through the script runs, and the command says so."""
    out = tmp_path / "record.json"
    words = ["timm", SCRIPT, "--checkpoint", flow_dir, "--p", "1.0", "--gate", "1e-6"]
    ran = run_python(["-m", "nfaug", *words, "--", folder, "--out", out], cwd=tmp_path)
    assert ran.returncode == 2
    assert f"NFA: {flow_dir}, p = 1.0, in training loaders\n" in ran.stderr
    assert re.search(r"NFA augmented no image \(NFA: of \d+ images applied 0, ", ran.stderr)
    assert out.exists()


def test_a_script_whose_crops_stay_unchanged(folder: Path, flow_dir: Path, tmp_path: Path) -> None:
    """timm's default crops and a narrow gate: a warning after an epoch, and again at the end."""
    words = ["timm", SCRIPT, "--checkpoint", flow_dir, "--p", "1.0", "--gate", "0.9"]
    ran = run_python(["-m", "nfaug", *words, "--", folder, "--epochs", 3], cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    warned = [line for line in ran.stderr.splitlines() if line.startswith("warning: NFA")]
    assert len(warned) == 1
    assert re.match(r"warning: NFA left \d+ of 48 chosen images unchanged, ", warned[0]), warned
    last = ran.stdout.splitlines()[-1]
    counts = re.match(r"NFA: of 72 images applied (\d+), far 0, ", last)
    assert counts, last
    applied = int(counts[1])
    assert 0 < applied < 48
    assert f". NFA left {72 - applied} of 72 chosen images unchanged, all of them because" in last
    assert last.endswith(f"it chose 100% of all images, and changed {100 * applied / 72:.0f}%")
