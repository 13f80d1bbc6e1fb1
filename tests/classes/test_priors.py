"""The registry of priors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tools.nfa import TensorImages
from torch import Tensor

import nfaug
from nfaug.classes.fixed_point import FixedPointConfig
from nfaug.classes.priors import PRIORS, Prior, PriorConfig, choose_prior
from nfaug.training import TrainConfig, train
from nfaug.training.config import TrainPriorConfig


def draw(classes: int = 5, dim: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(classes, dim, generator=generator, dtype=torch.float64)
    return means, torch.rand(classes, dim, generator=generator, dtype=torch.float64) + 0.5


def test_data_gaussians() -> None:
    means, variances = draw()
    found = PRIORS["data"].solve(means.float(), variances.float(), None, None)
    torch.testing.assert_close(found[0], means, rtol=1e-6, atol=0)
    assert found[1].dtype == torch.float64
    with pytest.raises(ValueError, match="positive"):
        PRIORS["data"].solve(means, -variances, None, None)


# The registry.


@pytest.mark.parametrize("kind", PRIORS)
def test_every_prior_returns_gaussians_and_a_json_record(kind: str) -> None:
    chosen = PriorConfig(kind, FixedPointConfig(kld_weight=1.0))
    means, variances = draw()
    copies = means.clone(), variances.clone()
    generator = torch.Generator().manual_seed(0)
    found = chosen.entry.solve(means, variances, chosen.settings, generator)
    assert found[0].shape == found[1].shape == means.shape
    assert found[0].isfinite().all()
    assert (found[1] > 0).all()
    json.dumps(found[2], allow_nan=False)
    assert torch.equal(means, copies[0])
    assert torch.equal(variances, copies[1])
    if not chosen.entry.needs_latents:  # only the shape is read
        nothing = torch.full_like(means, torch.nan)
        again = chosen.entry.solve(nothing, nothing, chosen.settings, generator.manual_seed(0))
        assert torch.equal(again[0], found[0])


@pytest.mark.parametrize("kind", PRIORS)
def test_the_settings_of_every_prior_are_a_field(kind: str) -> None:
    chosen = PriorConfig(kind)
    assert (chosen.settings is None) == (not chosen.entry.option)


@pytest.mark.parametrize("kind", [kind for kind, prior in PRIORS.items() if prior.min_classes > 1])
def test_priors_that_separate_classes_reject_a_single_one(kind: str) -> None:
    chosen = PriorConfig(kind)
    with pytest.raises(ValueError, match="got 1"):
        chosen.entry.solve(torch.zeros(1, 3), torch.ones(1, 3), chosen.settings, None)


def test_a_solve_that_does_not_converge_warns_and_says_so_in_its_record() -> None:
    chosen = choose_prior(FixedPointConfig(kld_weight=5.0, max_iterations=1, tolerance=1e-9))
    with pytest.warns(RuntimeWarning, match="residual"):
        _, _, record = chosen.entry.solve(*draw(), chosen.settings, None)
    assert record["converged"] is False
    assert (record["kld_weight"], record["iterations"]) == (5.0, 1)


def test_a_registered_prior_trains_a_flow(
    tiny_images: TensorImages,
    tiny_config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new entry of the registry needs no change in training or in checkpoints."""

    wide = Prior(lambda means, variances, settings, generator: (means, 4 * variances, {"x": 4}))
    monkeypatch.setitem(PRIORS, "wide", wide)
    config = dataclasses.replace(
        tiny_config, epochs=1, prior=TrainPriorConfig(kind="wide", schedule="twice")
    )
    checkpoint = train(tiny_images, config=config, progress=False).checkpoint
    loaded = nfaug.load(checkpoint.save(tmp_path / "flow"))
    assert loaded.config.gaussians == {"kind": "wide", "schedule": "twice", "x": 4}
    assert loaded.gaussians is not None
    assert loaded.gaussians.num_classes == len(tiny_images.classes)


def test_choosing_a_prior_by_name_or_settings() -> None:
    assert choose_prior("data") == PriorConfig("data")
    config = FixedPointConfig(max_iterations=3)
    assert choose_prior(config) == PriorConfig("fpi", fixed_point=config)
    for unknown in ("single", "x", 1.0, None):  # the first uses no latents
        with pytest.raises(ValueError, match="'fpi'"):
            choose_prior(unknown)
    with pytest.raises(ValueError, match="'x'"):
        PriorConfig("x")
