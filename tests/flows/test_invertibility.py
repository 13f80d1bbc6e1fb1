from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor

from nfaug.flows.flow import Flow, FlowConfig
from nfaug.flows.invertibility import extreme_images, local_condition, measure

CONFIG = FlowConfig(channels=1, image_size=(7, 8), steps=(2, 1), blocks=(1, 1), width=(6, 6))
STEPS = {"blocks.0.0", "blocks.0.1", "blocks.1.0"}
EXTREMES = {"noise", "black", "white", "single_pixel", "inverted"}


def trained() -> Flow:
    torch.manual_seed(0)
    flow = Flow(CONFIG)
    flow.initialize(torch.rand(64, *CONFIG.shape) * 2 - 1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return flow


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, 1, 7, 8), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("form", ["trained", "frozen"])
def test_a_sound_flow_is_exact_everywhere(form: str) -> None:
    flow = trained() if form == "trained" else trained().freeze()
    generator = torch.Generator().manual_seed(0)
    report = measure(flow, images(40), {"other": images(3)}, batch_size=16, generator=generator)
    assert set(report) == {"images", "other", *EXTREMES, "mixed", *STEPS}
    for name in ("images", "other", *EXTREMES):
        assert report[name]["exact"] == 1, name
        assert report[name]["non_finite"] == 0
        assert 0 < report[name]["max"] < 0.1
    assert report["images"]["count"] == 40
    assert report["mixed"]["count"] == 40
    assert 0 < report["mixed"]["max"] < 0.01
    assert report["mixed"]["exact"] > 0.9
    assert report["mixed"]["latent"] < 1e-5
    for name in ("images", "other", *EXTREMES, "mixed"):
        assert report[name]["condition"] > 1
        bound = report[name]["lipschitz"] * report[name]["inverse_lipschitz"]
        assert report[name]["condition"] <= bound * (1 + 1e-9)
    for name in STEPS:
        assert 0 < report[name]["scale_min"] <= report[name]["scale_max"]
        assert 0 < report[name]["exponent"] <= CONFIG.bound
    json.dumps(report, allow_nan=False)


def test_condition_is_that_of_the_jacobian() -> None:
    flow = trained().double().freeze()
    with torch.no_grad():
        z = flow.encode(images(3))[0]
        v = flow.inverse(z)[0]
    found = local_condition(flow, z, iterations=80)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda point: flow(point)[0].flatten(), v[row : row + 1]
        )
        values = torch.linalg.svdvals(jacobian.reshape(CONFIG.dim, CONFIG.dim))
        assert float(found["lipschitz"][row]) == pytest.approx(float(values[0]), rel=1e-2)
        assert float(found["inverse_lipschitz"][row]) == pytest.approx(
            1 / float(values[-1]), rel=1e-2
        )
    product = found["lipschitz"] * found["inverse_lipschitz"]
    assert torch.equal(found["condition"], product)


def test_condition_shows_a_large_scale() -> None:
    flow = trained()
    before = measure(flow, images(4))
    with torch.no_grad():
        flow.blocks[0][0].actnorm.scale[0, 0, 0].fill_(400)
    after = measure(flow, images(4))
    assert after["blocks.0.0"]["scale_max"] == pytest.approx(400)
    assert after["images"]["condition"] > 20 * before["images"]["condition"]


def test_condition_of_the_identity() -> None:
    report = measure(Flow(FlowConfig(1, (7, 8), backbone="identity")), images(4))
    assert report["images"]["condition"] == pytest.approx(1, abs=1e-6)
    assert report["images"]["exact"] == report["mixed"]["exact"] == 1


def test_the_same_seed_gives_the_same_figures() -> None:
    flow = trained()
    first, second = (
        measure(flow, images(5), generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert first == second


def test_what_is_not_finite_is_counted() -> None:
    flow = trained()
    with torch.no_grad():
        flow.blocks[0][0].actnorm.scale[0].fill_(-120)  # softplus is 0: its inverse divides by it
    report = measure(flow, images(4))
    assert report["images"]["non_finite"] == 4
    assert report["images"]["exact"] == 0
    json.dumps(report, allow_nan=False)


def test_an_inexact_flow_is_seen() -> None:
    flow = trained()
    report = measure(flow, images(30))
    frozen = flow.freeze()
    frozen.blocks[0][0].affine.inverse_scale.mul_(1.01)
    worse = measure(copy.deepcopy(frozen), images(30))
    assert worse["images"]["max"] > 10 * report["images"]["max"]
    assert worse["images"]["exact"] < 1


def test_extreme_images() -> None:
    sets = extreme_images(images(300), generator=torch.Generator().manual_seed(0))
    assert set(sets) == EXTREMES
    assert all(batch.dtype == torch.uint8 for batch in sets.values())
    assert not sets["black"].any()
    assert (sets["white"] == 255).all()
    assert torch.equal(sets["inverted"], 255 - images(300)[:256])
    sums = sets["single_pixel"].flatten(1).double().sum(1)
    assert torch.equal(sums[::2], torch.full((16,), 255.0, dtype=torch.float64))
    assert torch.equal(sums[1::2], torch.full((16,), 55 * 255.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("batch", "token"),
    [
        (images(2).float(), "float32"),
        (images(2)[:, :, :5], r"\(2, 1, 5, 8\)"),
        (images(2)[:0], r"\(0, 1, 7, 8\)"),
    ],
)
def test_images_that_do_not_fit(batch: Tensor, token: str) -> None:
    with pytest.raises(ValueError, match=token):
        measure(trained(), batch)
