"""Configurations: their record in a checkpoint, what they refuse, and new backbones."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.flows.backbone import Backbone, Identity
from nfaug.flows.codec import to_flow
from nfaug.flows.config import BACKBONES, FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.layers import SQUEEZES, Layer
from nfaug.flows.mef_config import SQUEEZE_NAMES, MefConfig

ROOT = Path(__file__).parents[2]
MEF = MefConfig(steps=(2, 1), blocks=(1, 1), width=(6, 6))
TINY = FlowConfig(2, (7, 8), MEF)
HAAR = replace(MEF, squeeze="haar", max_scale=20.0)


def test_squeezes_by_name() -> None:
    assert {*SQUEEZE_NAMES} == {*SQUEEZES}


@pytest.mark.parametrize("low_rank_above", [24, 4])
def test_parameter_count_and_the_released_names(low_rank_above: int) -> None:
    config = replace(TINY, backbone=replace(MEF, low_rank_above=low_rank_above))
    state = Flow(config).state_dict()
    assert sum(value.numel() for value in state.values()) == config.parameter_count
    net = "blocks.1.0.couplinglayer.net."
    convolutions = ["layers.0.", *(f"layers.1.conv{i}." for i in (1, 2, 3))]
    assert {name for name in state if name.startswith("blocks.1.0.")} == {
        *(f"blocks.1.0.{name}" for name in ("actnorm.scale", "actnorm.shift", "conv1x1.weight")),
        *(f"blocks.1.0.couplinglayer.{name}" for name in ("scale", "shift", "rescale", "reshift")),
        *(
            f"{net}{convolution}{name}"
            for convolution in convolutions
            for name in ("conv.weight", "norm.scale", "norm.shift")
        ),
        *(f"{net}out_layer.{name}" for name in ("weight", "bias")),
    }
    attentive = replace(config, backbone=replace(config.backbone, attention_heads=2))
    more = Flow(attentive).state_dict()
    assert sum(value.numel() for value in more.values()) == attentive.parameter_count
    assert {name for name in set(more) - set(state) if name.startswith("blocks.1.0.")} == {
        f"{net}attention_block_after.{layer}.{name}"
        for layer in ("norm", "qkv", "proj_out")
        for name in ("weight", "bias")
    }


def test_the_papers_size() -> None:
    config = FlowConfig()
    assert config.parameter_count == pytest.approx(42.8e6, rel=1e-3)
    assert config.shape == (3, 32, 32)
    with torch.device("meta"):
        assert "42.82 M parameters" in repr(Flow(config))


def test_sizes() -> None:
    assert (TINY.levels, TINY.size, TINY.dim) == (2, (8, 8), 2 * 8 * 8)
    assert replace(TINY, backbone=replace(MEF, padded_size=(12, 8))).size == (12, 8)
    assert FlowConfig(1, (5, 7), Identity()).shape == (1, 5, 7)


@pytest.mark.parametrize(
    "config", [TINY, FlowConfig(2, (7, 8), HAAR), FlowConfig(1, (5, 5), Identity())]
)
def test_the_record_of_a_configuration(config: FlowConfig) -> None:
    values = json.loads(json.dumps(config.to_dict()))
    assert FlowConfig.from_dict(values) == config


@pytest.mark.parametrize("name", ["fashion-mnist", "gray28", "rgb32", "pixels"])
def test_records_of_the_bundled_flows(name: str) -> None:
    values = json.loads((ROOT / "src/nfaug/builtin" / name / "config.json").read_text())["flow"]
    config = FlowConfig.from_dict(values)
    if name == "pixels":  # the first version wrote the settings of "mef" for "identity" too
        assert config == FlowConfig(3, (32, 32), Identity())
    else:
        assert json.dumps(config.to_dict()) == json.dumps(values)


def test_a_record_of_the_first_version_lacks_new_settings() -> None:
    values = json.loads((ROOT / "tests/fixtures/checkpoint_v1/config.json").read_text())["flow"]
    assert not {"squeeze", "max_scale"} & set(values)
    mef = MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8), low_rank_above=8)
    assert FlowConfig.from_dict(values) == FlowConfig(3, (6, 7), mef)


@pytest.mark.parametrize(
    ("change", "token"),
    [
        ({"depth": 3}, "depth"),
        ({"backbone": "glow"}, "glow"),
        ({"backbone": ["mef"]}, "list"),
        ({"steps": (2,)}, "blocks"),
        ({"steps": (), "blocks": (), "width": ()}, "steps"),
        ({"steps": 4}, "steps"),
        ({"image_size": (32,)}, "image_size"),
        ({"channels": 0}, "channels"),
        ({"channels": True}, "channels"),
        ({"width": (6.0, 6)}, "width"),
        ({"blocks": (-1, 1)}, "blocks"),
        ({"padded_size": (10, 8)}, "padded_size"),
        ({"padded_size": (4, 8)}, "padded_size"),
        ({"padded_size": 8}, "padded_size"),
        ({"bound": 0}, "bound"),
        ({"bound": float("nan")}, "nan"),
        ({"bound": "2"}, "'2'"),
        ({"max_scale": 1.0}, "max_scale"),
        ({"squeeze": "wavelet"}, "wavelet"),
        ({"attention_heads": -1}, "attention_heads"),
        ({"attention_heads": True}, "attention_heads"),
        ({"low_rank_above": "16"}, "low_rank_above must be a whole number"),
        ({"image_size": 32}, r"image_size must be \(height, width\)"),
        ({"steps": (10**6, 1)}, "large"),  # would take hours to build
    ],
)
def test_wrong_configurations(change: dict[str, Any], token: str) -> None:
    with pytest.raises((ValueError, TypeError), match=token):
        FlowConfig.from_dict({**TINY.to_dict(), **change})


def test_heads_must_divide_the_channels() -> None:
    backbone = replace(MEF, attention_heads=3)
    with pytest.raises(ValueError, match="attention_heads must divide 4"):
        Flow(replace(TINY, backbone=backbone))
    Flow(FlowConfig(3, (7, 8), backbone))


class Doubling(Layer):
    """z = 2v, with a weight for the factor."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.factor * x, (self.factor.log() * x[0].numel()).expand(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z / self.factor, (-self.factor.log() * z[0].numel()).expand(len(z))


@dataclass(frozen=True)
class DoublingSettings(Backbone):
    name = "doubling"

    times: tuple[int, ...] = (1,)

    @property
    def levels(self) -> int:
        return len(self.times)

    def build(self, shape: tuple[int, int, int]) -> nn.ModuleList:
        return nn.ModuleList(nn.ModuleList(Doubling() for _ in range(n)) for n in self.times)


def test_a_new_backbone_is_a_class_and_an_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(BACKBONES, "doubling", DoublingSettings)
    flow = Flow(FlowConfig(1, (4, 4), DoublingSettings(times=(2,))))
    batch = torch.randint(256, (3, 1, 4, 4), dtype=torch.uint8)
    with torch.no_grad():
        z, logdet = flow.encode(batch)
    assert torch.equal(z, 4 * to_flow(batch))
    assert torch.allclose(logdet, torch.full((3,), 32 * math.log(2)))
    saved = Checkpoint(flow, CheckpointConfig(flow.config)).save(tmp_path / "flow")
    values = json.loads((saved / "config.json").read_text())["flow"]
    assert values == {"channels": 1, "image_size": [4, 4], "times": [2], "backbone": "doubling"}
    loaded = nfaug.load(saved)
    assert loaded.config.flow == flow.config
    with torch.no_grad():
        assert torch.equal(loaded.flow.decode(z), batch)
    with pytest.raises(TypeError, match="rank"):
        FlowConfig.from_dict({**values, "rank": 2})
