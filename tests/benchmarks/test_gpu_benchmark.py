"""`benchmarks.gpu`: its parts on a CPU and on a pretended GPU, its lines and its table."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.device import pretended_gpu
from torch.utils.data import TensorDataset

import nfaug
from benchmarks.gpu import __main__ as gpu
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.flows.flow import Flow

ROOT = Path(__file__).parents[2]
PARTS = (
    "rates", "waits", "agree", "calls", "step", "small", "compiled", "exact", "limit", "train",
    "fit", "bank", "compare", "nccl",
)  # fmt: skip
# Compilers and recomputation look below the calls from Python, where a pretended GPU is a CPU.
NOT_PRETENDED = ("compiled", "recompute")
# Parts that would ask a real GPU: in other processes, or compiled whole.
ON_CPUS = ("exact", "compiled", "nccl")


@pytest.fixture(scope="module")
def flow() -> Checkpoint:
    """A tiny RGB flow that is fitted to ten classes."""
    mef = nfaug.MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8), low_rank_above=8)
    made = Flow(nfaug.FlowConfig(3, (8, 8), mef))  # low rank as in builtin:rgb32
    made.initialize(torch.rand(16, 3, 8, 8) * 2 - 1)
    images = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8)
    data = TensorDataset(images, torch.arange(30) % 10)
    return nfaug.fit(made.eval(), data, rank=2, gaussians=True, progress=False)


def lines(card: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in card.results.read_text().splitlines()]


def run_with(flow: Checkpoint, card: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Run a part with a tiny flow in the place of the bundled ones; return its lines."""

    def bundled(card: Any, name: str) -> Checkpoint:
        if name == "pixels":
            return nfaug.load("builtin:pixels").to(card.device)
        copied = nfaug.Flow.from_tensors(flow.flow.config, flow.flow.state_dict())
        return dataclasses.replace(flow, flow=copied.eval()).to(card.device)

    monkeypatch.setattr(type(card), "bundled", bundled)
    with warnings.catch_warnings():
        gpu.run_part(card)
    return lines(card)


@pytest.mark.parametrize("part", ["exact", "compiled", "train", "nccl"])
def test_a_part_on_a_cpu(
    part: str,
    flow: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parts that compile, recompute or start processes; others do what they do on a GPU."""
    card = gpu.Card(torch.device("cpu"), True, tmp_path / "results.jsonl", part)
    found = run_with(flow, card, monkeypatch)
    assert [line for line in found if "error" in line] == []
    assert {line["part"] for line in found} == {part}
    assert all(line["value"] >= 0 for line in found if line["figure"] != "backend")


@pytest.mark.parametrize("part", [part for part in PARTS if part not in ON_CPUS])
def test_a_part_on_a_gpu(
    part: str,
    flow: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No part mixes devices. Clocks and counts of the pretended GPU are those of the host."""
    counts: dict[str, Callable[..., Any]] = {
        "get_device_name": lambda device: "a pretended card",
        "synchronize": lambda device: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: 0,
        "max_memory_allocated": lambda device: 3 * 2**20,
        "set_sync_debug_mode": lambda mode: None,
    }
    for name, count in counts.items():
        monkeypatch.setattr(torch.cuda, name, count)
    with pretended_gpu() as device:
        card = gpu.Card(device, True, tmp_path / "results.jsonl", part)
        found = run_with(flow, card, monkeypatch)
    errors = [line for line in found if "error" in line]
    assert [
        line for line in errors if not any(word in line["case"] for word in NOT_PRETENDED)
    ] == []
    figures = {line["figure"]: line["value"] for line in found if "figure" in line}
    assert figures.get("peak MiB", 3) == 3
    assert figures.get("waits", 0) == 0


def test_the_calls_hold_each_part_once_and_fit_ten_minutes() -> None:
    parts = [part for call in gpu.CALLS for part in call.split()]
    assert sorted(parts) == sorted(PARTS)
    assert list(gpu.PARTS) == list(PARTS)
    written = (ROOT / "benchmarks/README.md").read_text()
    for call in gpu.CALLS:
        assert sum(gpu.PARTS[part].minutes for part in call.split()) <= 8
        assert f"python -m benchmarks.gpu {call}\n" in written
        assert f"\n    {call}\n" in gpu.__doc__


def test_no_part_takes_a_whole_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {}
    card = gpu.Card(torch.device("cpu"), True, tmp_path / "results.jsonl")

    def run(words: list[str], *, timeout: float, **_: Any) -> None:
        limits[card.part] = timeout

    monkeypatch.setattr(gpu.subprocess, "run", run)
    for card.part in PARTS:
        gpu.run_apart(card)
    assert limits["rates"] == 180
    assert max(limits.values()) == limits["compiled"] == 540


def test_waits_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch warns of each, and at the first use that the mode is a prototype."""
    modes = []

    def set_mode(mode: str) -> None:
        modes.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)

    def job() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered ...)", stacklevel=2)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    card = gpu.Card(torch.device("cuda:0"), True, tmp_path / "results.jsonl")
    assert card.waits(job) == 3
    assert modes == ["warn", "default"]


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    """Parts have processes of their own, and append to the same lines."""
    out = tmp_path / "runs"
    card = gpu.Card(torch.device("cpu"), True, out / "results.jsonl", "step")
    out.mkdir()
    broken = gpu.Part(card.note, 0)  # no minutes: it is stopped at once
    gpu.PARTS["step"], kept = broken, gpu.PARTS["step"]
    try:
        gpu.main(["step", "rates", "--tiny", "--device", "cpu", "--out", str(out)])
    finally:
        gpu.PARTS["step"] = kept
    text = (out / "table.md").read_text()
    assert text.startswith("# no GPU, torch ")
    assert "## step\n\nTimeoutExpired" in text
    assert "| copy |" in text
    shown = (out / "table.md").stat().st_mtime_ns
    gpu.main(["--table", "--out", str(out)])
    assert (out / "table.md").read_text() == text
    assert (out / "table.md").stat().st_mtime_ns > shown


def test_the_table(tmp_path: Path) -> None:
    """A row a case; what was measured again replaces what was there, and an error, too."""
    card = gpu.Card(torch.device("cpu"), True, tmp_path / "results.jsonl", "step")
    with card.case("compiled"):
        raise ValueError("no | compiler")
    with card.case("exact"):
        raise ValueError("no card")
    card.note("plain", ms=1.23456, launches=1870, exact=True, gpu_ms=None)
    card.note("plain", ms=1234.5)
    card.note("compiled", ms=0.5)
    assert gpu.table(card.results).splitlines()[2:] == [
        "## step",
        "",
        "0 s",
        "",
        "| case | ms | error | launches | exact |",
        "|---|---|---|---|---|",
        "| compiled | 0.5 |  |  |  |",
        "| exact |  | ValueError: no card |  |  |",
        "| plain | 1,234 |  | 1,870 | yes |",
    ]


def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    for words, advice in ((["--device", "cpu"], "--tiny"), (["flows", "--tiny"], "rates")):
        with pytest.raises(SystemExit):
            gpu.main(words)
        assert advice in capsys.readouterr().err


@pytest.mark.soak
def test_all_parts_with_the_bundled_flows(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--device", "cpu"]
    words += ["--out", str(tmp_path)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    text = (tmp_path / "table.md").read_text()
    assert "Error" not in text
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(PARTS)
