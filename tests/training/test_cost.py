"""The cost of recipes, in their comments and as calculated."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from nfaug.commands.train import expand, parser
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig
from nfaug.io.numbers import as_size
from nfaug.training.config import TrainConfig, recipe_config, recipe_path, recipes


@pytest.mark.parametrize(
    "config",
    [
        FlowConfig(1, (8, 8), MefConfig(steps=(2, 1), blocks=(1, 2), width=(8, 4))),
        FlowConfig(3, (28, 28), MefConfig((32, 32), (1, 1, 1), (0, 1, 1), (4, 4, 4))),
        FlowConfig(3, (32, 32), MefConfig(steps=(1,) * 4, blocks=(1,) * 4, width=(8,) * 4)),
    ],
    ids=["gray", "padded", "low rank"],
)  # fmt: skip
def test_convolutions_are_counted(config: FlowConfig) -> None:
    """Compare with torch's counter of convolutions and matrix products."""
    flow = Flow(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        flow(torch.zeros(1, *config.shape))
    counted = counter.get_flop_counts()["Global"]
    convolutions = sum(n for name, n in counted.items() if "convolution" in str(name))
    # 1x1 convolutions count as matrix products; exp(W) is computed once per call.
    products = config.flop - convolutions
    assert (
        0
        <= products
        <= sum(
            2 * steps * (4 * config.channels * 2**level) ** 2 * config.size[0] * config.size[1]
            for level, steps in enumerate(config.backbone.steps)
        )
    )


def test_the_convolutions_of_attention_are_counted() -> None:
    """They are matrix products; attention itself is not counted."""
    config = FlowConfig(3, (16, 16), MefConfig(attention_heads=6))
    counts = []
    for shape in (config, replace(config, backbone=MefConfig())):
        flow = Flow(shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            flow(torch.zeros(1, *shape.shape))
        counted = counter.get_flop_counts()["Global"]
        counts.append(sum(n for name, n in counted.items() if "mm" in str(name)))
        counts[-1] -= shape.flop
    assert counts[0] == counts[1]


def test_the_papers_size() -> None:
    assert FlowConfig().flop / 1e9 == pytest.approx(12.2, abs=0.1)


@pytest.mark.parametrize("name", recipes())
def test_recipe_comments(name: str) -> None:
    """The comment at the top has the figures of the flow."""
    head = "".join(
        line[1:] + " "
        for line in recipe_path(name).read_text().splitlines()
        if line.startswith("#")
    )
    (stated,) = re.findall(r"Costs ([\d.]+) GFLOP per image and direction", head)
    digits = len(stated.partition(".")[2])
    config = recipe_config(name)
    if config.autoencoder is None:
        assert config.dataset.image_size is not None
        size = as_size(config.dataset.image_size)
        flow = FlowConfig(config.dataset.channels or 3, size, config.flow)
        assert stated == f"{flow.flop / 1e9:.{digits}f}"
    text = recipe_path(name).read_text()
    (command,) = re.findall("^#   nfaug train (.*)$", text, re.MULTILINE)
    assert f"--recipe {name} " in command
    arguments = parser().parse_args(expand(command.split()))
    assert arguments.epochs == yaml.safe_load(text)["epochs"]
    assert re.search(r"[Rr]each", head), "what it should reach"


@pytest.mark.parametrize(
    ("images", "epochs"), [(1, 400), (2_500, 400), (10_000, 100), (60_000, 17), (10**6, 10)]
)
def test_epochs_by_data_size(images: int, epochs: int) -> None:
    small = recipe_config("small")
    assert small.for_images(images).epochs == epochs
    assert TrainConfig(epochs=3, device="cpu").for_images(images).epochs == 3, (
        "the user's value stays"
    )
