from __future__ import annotations

from typing import Any

import pytest
import torch
from tools.device import pretended_gpu
from tools.nfa import NAMES, TensorImages, batch_of, checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

import nfaug
from benchmarks.gpu.launches import Launches, count_call, count_step, main, paths


class Halving(nn.Module):
    """An autoencoder of images at half their size."""

    latent_channels = 3
    factor = 2
    input_range = (0.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(1))

    def encode(self, x: Tensor) -> Tensor:
        return self.one * F.avg_pool2d(x, 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.one * F.interpolate(z, scale_factor=2.0)


def test_what_is_counted() -> None:
    with pretended_gpu() as gpu:
        images = torch.rand(2, 3, 4, 4).to(gpu)
        with Launches() as launches:
            torch.rand(3) + 1  # on the CPU
            images.flatten(1).T[:2]
            torch.empty(3, device=gpu)
        assert launches.counts == {"launches": 0, "uploads": 0, "waits": 0}
        with Launches() as launches:
            F.conv2d(images, images, images[:, 0, 0, 0])
            torch.zeros(3, device=gpu)
        assert launches.counts == {"launches": 3, "uploads": 0, "waits": 0}
        with Launches() as launches:
            torch.rand(3).to(gpu, non_blocking=True)
            torch.tensor([1.0], device=gpu)
            images.sum().item()
            images.cpu()
        assert launches.counts == {"launches": 1, "uploads": 2, "waits": 3}


@pytest.mark.parametrize("mix", ["axis", "regions"])
@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("share", [0.5, [0.2, 0.5, 1.0]])
def test_a_call_waits_for_nothing(mix: str, floating: bool, share: Any) -> None:
    found = count_call(checkpoint(), 8, floating=floating, mix=mix, p=share, noise=0.1)
    assert found.waits == 0
    assert found.uploads == 3, "integers, weights, noise"
    assert 100 < found.counts["launches"] < 400


def test_a_call_with_a_flow_on_latents_waits_for_nothing() -> None:
    """Its autoencoder, means and deviations were uploaded three times a call."""
    images, labels = batch_of(24, size=(16, 16))
    data = TensorImages(images, labels, NAMES)
    fitted = nfaug.fit("builtin:pixels", data, autoencoder=Halving(), rank=2, progress=False)
    for floating in (False, True):
        found = count_call(fitted, 16, floating=floating)
        assert (found.uploads, found.waits) == (2, 0)


def test_a_bundled_flow_does_not_launch_more_than_it_did() -> None:
    found = count_call(nfaug.load("builtin:rgb32"), 32, floating=False)
    assert found.counts["launches"] <= 900


def test_a_training_step_waits_once() -> None:
    backbone = nfaug.MefConfig(steps=(1,), blocks=(1,), width=(8,))
    # The step itself, and once torch: it takes gradients to the device below the pretended one.
    assert count_step(backbone).waits == 2


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    of_pixels = {"pixels": paths()["pixels, uint8, 32 px"]}
    monkeypatch.setattr("benchmarks.gpu.launches.paths", lambda: of_pixels)
    main(["--operations", "1"])
    header, _, row, operation = capsys.readouterr().out.splitlines()
    assert header.count("|") == row.count("|")
    assert int(row.split("|")[2]) > int(operation.split()[0]) > 0
