"""Results of the released implementation, from its weights, at four small sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef import MatrixExpCoupling
from nfaug.flows.mef_config import MefConfig

NAMES = ("rgb16", "gray16", "lowrank16", "attention16")
FOLDER = Path(__file__).parents[1] / "fixtures" / "golden"


@dataclass
class Golden:
    """One golden file."""

    config: FlowConfig
    weights: dict[str, Tensor]
    figures: dict[str, Tensor]

    def flow(self, variant: str) -> Flow:
        flow = Flow.from_tensors(self.config, self.weights)
        return flow.freeze() if variant == "frozen" else flow


def read(name: str) -> Golden:
    with safe_open(FOLDER / f"mef_{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        shape = json.loads(file.metadata()["config"])
    config = FlowConfig(
        channels=shape["channels"],
        image_size=(shape["size"], shape["size"]),
        backbone=MefConfig(
            steps=tuple(shape["flows"]),
            blocks=tuple(shape["blocks"]),
            width=tuple(shape["hidden"]),
            attention_heads=shape.get("attention_heads", 0),
        ),
    )
    prefix = "state_dict."
    weights = {
        key.removeprefix(prefix): value
        for key, value in tensors.items()
        if key.startswith(prefix) and "level_out_shape_arr" not in key
    }
    figures = {key: value for key, value in tensors.items() if not key.startswith(prefix)}
    return Golden(config, weights, figures)


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return read(request.param)


@pytest.mark.parametrize("variant", ["trained", "frozen"])
def test_latents_and_logdet(golden: Golden, variant: str) -> None:
    with torch.no_grad():
        z, logdet = golden.flow(variant).encode(golden.figures["image"], golden.figures["noise"])
    expected = golden.figures["z"]
    assert (z - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch.allclose(logdet, golden.figures["logdet"], rtol=1e-5)


@pytest.mark.parametrize("variant", ["trained", "frozen"])
def test_reconstruction(golden: Golden, variant: str) -> None:
    with torch.no_grad():
        images = golden.flow(variant).decode(golden.figures["z"])
    assert_same_levels(images, golden.figures["reconstruction"], golden.figures["noise"])


@pytest.mark.parametrize("variant", ["trained", "frozen"])
def test_decoding_mixed_latents(golden: Golden, variant: str) -> None:
    with torch.no_grad():
        flow = golden.flow(variant)
        z = golden.figures["latent_mix"]
        edge = ((flow.inverse(z)[0] + 1) * 128) % 1  # distance above the level
        assert_same_levels(flow.decode(z), golden.figures["decoded_mix"], edge)


def assert_same_levels(images: Tensor, expected: Tensor, edge: Tensor) -> None:
    """Compare 8-bit levels; within 1e-3 of an edge, rounding may change one level."""
    difference = (images.long() - (expected * 255).round().long()).abs()
    near = (edge < 1e-3) | (edge > 1 - 1e-3)
    assert int(difference[~near].max()) == 0
    assert int(difference.max()) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_files_cover_low_rank_attention_and_both_depths(name: str) -> None:
    flow = read(name).flow("trained")
    couplings = [m for m in flow.modules() if isinstance(m, MatrixExpCoupling)]
    assert any(coupling.rank for coupling in couplings) == (name == "lowrank16")
    assert flow.config.levels == (2 if name in ("rgb16", "attention16") else 3)
    heads = {coupling.net.attention_block_after is not None for coupling in couplings}
    assert heads == {name == "attention16"}
