"""The backbone without weights, and the bundled checkpoint `builtin:pixels`."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tools.nfa import NAMES, TensorImages, images_of
from torch import Tensor

import nfaug
from nfaug.flows.backbone import Identity
from nfaug.flows.codec import to_flow
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig

SHAPES = [(1, (28, 28)), (3, (32, 32)), (3, (5, 7)), (4, (1, 3))]


def identity(channels: int = 3, size: tuple[int, int] = (32, 32)) -> Flow:
    return Flow(FlowConfig(channels, size, Identity()))


def random_images(channels: int, size: tuple[int, int], count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, *size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("channels", "size"), SHAPES)
def test_latents_are_the_pixels(channels: int, size: tuple[int, int]) -> None:
    flow, images = identity(channels, size), random_images(channels, size)
    for form in (flow, flow.freeze(), copy.deepcopy(flow)):
        z, logdet = form.encode(images)
        assert torch.equal(z, to_flow(images))
        assert torch.equal(logdet, torch.zeros(4))
        assert torch.equal(form.decode(z), images)
        assert torch.equal(form.inverse(z)[0], z)
        assert not form.state_dict()
        assert not form.frozen
    assert flow.config.shape == (channels, *size)
    assert flow.config.parameter_count == flow.config.flop == 0


def test_device_and_dtype_are_known() -> None:
    flow = identity()
    assert (flow.device, flow.dtype) == (torch.device("cpu"), torch.float32)
    double = flow.double()
    assert double.freeze().dtype == torch.float64
    assert double.encode(random_images(3, (32, 32)))[0].dtype == torch.float64
    assert flow.to("meta").freeze().device.type == "meta"
    assert Flow.from_tensors(flow.config, {}).device.type == "cpu"


def test_with_shape() -> None:
    flow = identity().double().eval().with_shape(1, (7, 9))
    assert flow.config == FlowConfig(1, (7, 9), Identity())
    assert flow.dtype == torch.float64
    assert not flow.training
    assert flow.codec.image_size == (7, 9)
    fixed = Flow(FlowConfig(1, (4, 4), MefConfig(steps=(1,), blocks=(0,), width=(4,))))
    assert identity().shape_free
    assert not fixed.shape_free
    with pytest.raises(ValueError, match="mef"):
        fixed.with_shape(1, (8, 8))


@pytest.mark.parametrize(("channels", "size"), [(1, (6, 5)), (3, (8, 8))])
def test_fit_takes_the_shape_of_the_data(
    channels: int, size: tuple[int, int], tmp_path: Path
) -> None:
    labels = torch.arange(12) % 3
    images = images_of(labels, channels=channels, size=size)
    base, data = nfaug.load("builtin:pixels"), TensorImages(images, labels, NAMES)
    fitted = nfaug.fit(base, data, rank=3, progress=False)
    assert fitted.flow.config == FlowConfig(channels, size, Identity())
    assert fitted.config.flow == fitted.flow.config
    loaded = nfaug.load(fitted.save(tmp_path / "fitted"))
    nfa = nfaug.NFAugment(loaded, p=1.0, gate=None)
    assert nfa(images, labels)[0].shape == images.shape
    assert nfa.stats()["applied"] == 12


def mix_pixels(
    train: Tensor, images: Tensor, labels: Tensor, partners: Tensor, weights: Tensor
) -> Tensor:
    """x' = x + sum_k w_k u_k u_k^T (x_partner - x) with the principal axes u_k of the class."""
    mixed = images.double().flatten(1)
    for i, (label, partner) in enumerate(zip(labels.tolist(), partners.tolist(), strict=True)):
        rows = train[label].double().flatten(1)
        axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[: weights.shape[1]]
        change = images[partner].double().flatten() - images[i].double().flatten()
        mixed[i] += (weights[i] * (axes @ change)) @ axes
    return mixed.clamp(0, 255).view(images.shape)


def test_mixing_is_per_axis_mixing_of_pixels() -> None:
    labels = torch.arange(30) % 3
    images = images_of(labels, size=(32, 32))
    fitted = nfaug.fit(
        nfaug.load("builtin:pixels"),
        TensorImages(images, labels, NAMES),
        rank=9,
        memory=False,
        progress=False,
    )
    nfa = nfaug.NFAugment(fitted, p=1.0, gate=None, partners="batch")
    draws = nfa.draw(labels)
    new, _ = nfa.replay(images, labels, draws)
    assert nfa.stats()["applied"] == 30
    index = draws.index
    train = torch.stack([images[labels == label] for label in range(3)])
    expected = mix_pixels(train, images[index], labels[index], draws.partner, draws.weights)
    assert (new[index].double() - expected).abs().max() < 0.6, "rounding to 8 bits"
    assert (new.double() - images.double()).abs().mean() > 1
