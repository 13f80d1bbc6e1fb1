from __future__ import annotations

import math

import pytest
import torch
from tools.nfa import TensorImages, images_of
from torch import Tensor

from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.classes.gaussians import ClassGaussians
from nfaug.data.batches import Decoded
from nfaug.flows.codec import pad, to_flow
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig
from nfaug.training.metrics import evaluate


def flow_of(size: tuple[int, int], seed: int = 0) -> Flow:
    torch.manual_seed(seed)
    flow = Flow(
        FlowConfig(
            channels=1, image_size=size, backbone=MefConfig(steps=(1,), blocks=(1,), width=(4,))
        )
    )
    images = images_of(torch.arange(64) % 3, channels=1, size=size)
    padded = pad(images, flow.config.size)
    flow.initialize(to_flow(padded, torch.rand(padded.shape)))
    return flow.eval()


def test_figures(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    gaussians = tiny_checkpoint.gaussians
    assert gaussians is not None
    data = Decoded(tiny_images.images, tiny_images.targets)
    figures = evaluate(tiny_checkpoint.flow, gaussians, data, round_trip=True)
    assert list(figures) == [
        *("images", "bits_per_dim", "nf_acc", "nf_acc_top5", "exact", "wrong_levels")
    ]
    assert figures["images"] == 36
    assert figures["nf_acc_top5"] == 1, "there are three classes"
    assert (figures["exact"], figures["wrong_levels"]) == (1, 0)
    with torch.no_grad():
        z = tiny_checkpoint.flow.encode(tiny_images.images)[0]
    expected = (gaussians.log_prob(z).argmax(1) == tiny_images.targets).double().mean()
    assert figures["nf_acc"] == pytest.approx(float(expected))


def test_batch_size_changes_nothing(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    gaussians = tiny_checkpoint.gaussians
    assert gaussians is not None
    data = Decoded(tiny_images.images, tiny_images.targets)
    small, large = (
        evaluate(tiny_checkpoint.flow, gaussians, data, batch_size=size) for size in (7, 100)
    )
    assert small["nf_acc"] == large["nf_acc"]
    assert small["bits_per_dim"] == pytest.approx(large["bits_per_dim"], rel=1e-6)
    other = evaluate(tiny_checkpoint.flow, gaussians, data, seed=1)
    assert other["bits_per_dim"] != large["bits_per_dim"]
    assert other["nf_acc"] == large["nf_acc"], "NF-Acc uses the noiseless encoding"


def test_bits_of_uniform_noise() -> None:
    """No model needs fewer than 8 bits per pixel on uniform noise; a fitted one comes close."""
    torch.manual_seed(0)
    images = torch.randint(256, (2000, 1, 4, 4), dtype=torch.uint8)
    flow = Flow(
        FlowConfig(
            channels=1, image_size=(4, 4), backbone=MefConfig(steps=(1,), blocks=(0,), width=(4,))
        )
    )
    flow.initialize(to_flow(images, torch.rand(images.shape)))
    gaussian = ClassGaussians(torch.zeros(1, 16), torch.ones(1, 16))
    labels = torch.arange(2000) % 2
    figures = evaluate(flow.eval(), gaussian, Decoded(images, labels))
    assert "nf_acc" not in figures, "one gaussian has no classes"
    # Mixing makes sums of uniforms, and a gaussian costs log2(sqrt(2 pi e / 12)) = 0.25 bits more.
    assert 8 < figures["bits_per_dim"] < 8.26


def test_bits_of_a_padded_flow() -> None:
    """Bits are divided by the visible pixels, not by those of the black margin."""
    images = images_of(torch.arange(12) % 3, channels=1, size=(6, 6))
    flow = flow_of((7, 7))
    gaussian = ClassGaussians(torch.zeros(1, 64), torch.ones(1, 64))
    seven = torch.nn.functional.pad(images, (1, 0, 1, 0))
    figures = evaluate(flow, gaussian, Decoded(seven, torch.zeros(12, dtype=torch.int64)))
    with torch.no_grad():
        z, logdet = flow.encode(seven)
    nats = -(gaussian.log_prob(z, torch.zeros(12, dtype=torch.int64)) + logdet).mean()
    expected = (float(nats) + 64 * math.log(128)) / (49 * math.log(2))
    assert figures["bits_per_dim"] == pytest.approx(expected, abs=0.3)


def test_top_5() -> None:
    """NF-Acc is the share of the top class, nf_acc_top5 that of the top five."""
    flow = flow_of((4, 4))
    images = images_of(torch.zeros(6, dtype=torch.int64), channels=1, size=(4, 4))
    with torch.no_grad():
        centre = flow.encode(images)[0].flatten(1).mean(0)
    away = torch.arange(8.0)[:, None]  # class y lies y to the side: its rank is y + 1
    gaussians = ClassGaussians(centre + away * 100, torch.ones(8, 16))
    labels = torch.tensor([0, 1, 4, 5, 7, 0])
    figures = evaluate(flow, gaussians, Decoded(images, labels))
    assert figures["nf_acc"] == pytest.approx(2 / 6)
    assert figures["nf_acc_top5"] == pytest.approx(4 / 6)


def test_an_inexact_round_trip(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Flow.decode

    def wrong(self: Flow, z: Tensor, **kwargs: bool) -> Tensor:
        images = decode(self, z, **kwargs)
        images[0, 0, :2, 0] ^= 1
        return images

    monkeypatch.setattr(Flow, "decode", wrong)
    gaussians = tiny_checkpoint.gaussians
    assert gaussians is not None
    data = Decoded(tiny_images.images, tiny_images.targets)
    figures = evaluate(tiny_checkpoint.flow, gaussians, data, round_trip=True, batch_size=18)
    assert figures["exact"] == pytest.approx(34 / 36)
    assert figures["wrong_levels"] == 4


def test_no_image(tiny_checkpoint: Checkpoint) -> None:
    assert tiny_checkpoint.gaussians is not None
    none = Decoded(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0).long())
    with pytest.raises(ValueError, match="no images"):
        evaluate(tiny_checkpoint.flow, tiny_checkpoint.gaussians, none)
