"""The yardsticks of `benchmarks/flow.py` compute what they stand for."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from device_tools import pretended_gpu
from torch import Tensor

from nfaug.flows.flow import FlowConfig
from nfaug.flows.mef import MefConfig

TINY = FlowConfig(
    channels=1, image_size=(4, 4), backbone=MefConfig(steps=(1, 1), blocks=(1, 1), width=(4, 4))
)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    torch.manual_seed(0)
    return importlib.import_module("flow")


def test_the_plain_exponential_is_the_exponential(benchmark: ModuleType) -> None:
    matrices = torch.randn(5, 3, 3)
    plain = importlib.import_module("plain_flow")
    exact = torch.linalg.matrix_exp(matrices.double()).float()
    for tolerance in (0.0, 1e-8):
        exponential = plain.plain_expm(matrices, tolerance)
        assert torch.allclose(exponential, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{}, {"squeeze": "haar"}, {"attention_heads": 2}])
def test_every_row_of_the_table(benchmark: ModuleType, change: dict[str, Any]) -> None:
    config = replace(TINY, image_size=(8, 8), backbone=replace(TINY.backbone, **change))
    flow = benchmark.example_flow(config, "cpu")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.03)
    rows = benchmark.measure(flow, 2, 1, {"train"}, rate=1e9)
    assert [row.split("|")[1].strip() for row in rows] == ["encode", "decode", "train step"]
    columns = benchmark.HEADER.splitlines()[0].count("|")
    assert all(row.count("|") == columns for row in rows)


def test_the_cost_of_attention(benchmark: ModuleType) -> None:
    lines = benchmark.attention_cost(TINY, 2, batch=2, repeat=1, device="cpu")
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["encode", "decode"]
    assert len({line.count("|") for line in lines}) == 1


def test_rows_of_a_gpu(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents are compared in full float32: under TF32, cuDNN's default, they differ by 2e-3."""
    plain = benchmark.PlainFlow
    allowed = []

    class Noted(plain):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            allowed.append(torch.backends.cudnn.allow_tf32)
            return super().forward(x)

    monkeypatch.setattr(benchmark, "PlainFlow", Noted)
    monkeypatch.setattr(benchmark, "sync", lambda device: None)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pretended_gpu() as gpu:
        flow = benchmark.example_flow(TINY, str(gpu))
        rows = benchmark.measure(flow, 2, 1, {"train"}, rate=1e9)
    assert allowed == [False] * (len(allowed) - 2) + [True] * 2, "the two steps of the last row"
    names = ["encode", "decode", "train step", "train step, TF32"]
    assert [row.split("|")[1].strip() for row in rows] == names
    assert not torch.backends.cudnn.allow_tf32


def test_the_limit_is_all_convolutions_and_nothing_else(benchmark: ModuleType) -> None:
    flow = benchmark.example_flow(TINY, "cpu")
    convs = benchmark.Convolutions(flow, 2)
    assert [len(weights) for *_, weights in convs.layers] == [5, 5]
    products = 0
    for coupling, pixels in zip(benchmark.couplings(flow), (4, 1), strict=True):
        kernels = [w for w in coupling.net.parameters() if w.dim() == 4]
        products += pixels * sum(kernel.numel() for kernel in kernels)
    assert convs.flop == 2 * products
    convs()
    convs.train()
