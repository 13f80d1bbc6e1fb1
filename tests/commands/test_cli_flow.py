"""Commands on a flow, and the mixing options."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from test_cli_sharing import run
from tools.commands import run_main

from nfaug.augment.config import MixConfig
from nfaug.commands import bank, preview, timm
from nfaug.commands.common import mixing


@pytest.mark.parametrize("command", [bank, preview, timm])
def test_mixing_options_are_the_fields_of_the_settings(command: Any) -> None:
    parser = command.parser()
    required = (
        ["train.py", "--checkpoint=f"]
        if command is timm
        else ["--checkpoint=f", "--data=d", "--out=o"]
    )
    assert mixing(parser.parse_args(required)) == MixConfig()
    given = parser.parse_args([*required, "--gate=none", "--strength=0.5", "--mix=pair"])
    assert mixing(given) == MixConfig(gate=None, strength=0.5, mix="pair")
    assert mixing(parser.parse_args([*required, "--mix=regions"])) == MixConfig(mix="regions")
    text = " ".join(parser.format_help().split())
    names = {field.name for field in dataclasses.fields(MixConfig)}
    options = set(re.findall(r" --(\w+) ", text))
    assert names - options == (set() if command is timm else {"p"})
    assert "distribution of the mixing weights" in text, "the help is that of the field"


def test_preview_shows_what_the_gate_rejects(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "preview",
        "--checkpoint",
        str(tiny_path),
        "--data",
        str(tiny_folder),
        "--variants",
        "2",
    ]
    pictures = []
    for number, gate in enumerate(("1.25", "none", "0")):
        out = tmp_path / f"{number}.png"
        assert run(capsys, *words, "--out", str(out), "--gate", gate)[0] == 0
        pictures.append(out.read_bytes())
    default = tmp_path / "default.png"
    assert run(capsys, *words, "--out", str(default))[0] == 0
    assert default.read_bytes() == pictures[0], "the gate of training"
    assert len(set(pictures[1:])) == 2


def test_another_size_than_that_of_a_flow_names_the_option(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe sets a size, and the error named two shapes and no option."""
    settings = tmp_path / "settings.yaml"
    settings.write_text("dataset: {image_size: 32}\nepochs: 1\ntensorboard: false\n")
    words = ["train", "-c", str(settings), "--checkpoint", str(tiny_path), "--batch-size", "12"]
    words += ["--data", str(tiny_folder), "--pictures-every", "0", "--pca.rank", "4"]
    words += ["--prior.kind", "data", "--json", "--out", str(tmp_path / "flow")]
    refused = run_main(capsys, *words)
    assert refused.code == 2
    assert "pass --image-size 8,8" in refused.err
    assert run_main(capsys, *words, "--image-size", "8,8").json["image_size"] == [8, 8]
