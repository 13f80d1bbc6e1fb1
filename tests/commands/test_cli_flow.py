"""Commands on a flow: eval --invertibility, fit --augment, and the mixing options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nfa_tools import NAMES, images_of
from PIL import Image
from test_cli_sharing import run

import nfaug
from nfaug.augment.settings import MixSettings
from nfaug.cli import main
from nfaug.commands import bank, preview, timm
from nfaug.commands.common import mixing

REQUIRED = {
    bank: ["--flow=f", "--data=d", "--out=o"],
    preview: ["--flow=f", "--data=d", "--out=o"],
    timm: ["train.py", "--nfa=f"],
}


def test_eval_invertibility(
    tiny_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--flow", str(tiny_path), "--data", str(tiny_folder), "--split", "train"]
    code, report, _ = run(capsys, *words, "--invertibility")
    assert code == 0
    sets = {"images", "noise", "black", "white", "single_pixel", "inverted"}
    assert sets <= set(report)
    assert report["images"]["exact"] == 1
    assert report["images"]["non_finite"] == 0
    assert torch.tensor(report["mixed"]["max"]).isfinite()


def test_fit_under_a_scripts_transforms(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, name in enumerate(NAMES):
        (tmp_path / "data" / name).mkdir(parents=True)
        labels = torch.full((10,), label)
        for number, image in enumerate(images_of(labels, channels=1, size=(24, 24))):
            Image.fromarray(image[0].numpy()).save(tmp_path / "data" / name / f"{number}.png")
    words = ["fit", "--flow", str(tiny_path), "--data", str(tmp_path / "data"), "--rank", "3"]
    spec = ["--augment", "scale=(0.1,0.3) hflip=0.5"]
    out = tmp_path / "fitted"
    code, told, _ = run(
        capsys, *words, *spec, "--views", "5", "--img-size", "20", "--out", str(out)
    )
    assert code == 0
    assert (told["classes"], told["images"]) == (3, 150)
    shares = told["new_views"]
    assert shares["views"] == 30
    assert shares["gated_by_this_fit"] < 0.3 < shares["gated_by_a_plain_fit"]
    noted = nfaug.load(out).config.gaussians
    assert (noted["augment"], noted["views"], noted["img_size"]) == (spec[1], 5, 20)

    with pytest.raises(SystemExit, match="2"):
        main([*words, *spec, "--img-size", "0", "--out", str(tmp_path / "other")])
    assert "--img-size" in capsys.readouterr().err
    for wrong, message in (
        (["--views", "3"], "--augment"),
        (["--augment", "re_prob=0.2"], "'re_prob=0.2'"),
    ):
        code, _, error = run(capsys, *words, *wrong, "--out", str(tmp_path / "other"))
        assert code == 2
        assert message in error


@pytest.mark.parametrize(("command", "prefix"), [(bank, ""), (preview, ""), (timm, "nfa-")])
def test_mixing_options_are_the_fields_of_the_settings(command: Any, prefix: str) -> None:
    parser, required = command.parser(), REQUIRED[command]
    attribute = prefix.replace("-", "_")
    assert mixing(parser.parse_args(required), attribute) == MixSettings()
    words = ["--gate=off", "--strength=0.5", "--axes=3", "--mix=pair", "--keep=consistent"]
    given = parser.parse_args([*required, *(w.replace("--", f"--{prefix}") for w in words)])
    expected = MixSettings(gate=False, strength=0.5, axes=3, mix="pair", keep="consistent")
    assert mixing(given, attribute) == expected
    text = " ".join(parser.format_help().split())
    for name in set(MixSettings.names()) - {"p"}:
        option = f"--{prefix}{name.replace('_', '-')} "
        assert option in text, name
    assert "distribution of the mixing weights" in text, "the help is the field's docstring"


def test_preview_shows_what_the_gate_rejects(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["preview", "--flow", str(tiny_path), "--data", str(tiny_folder), "--variants", "2"]
    pictures = []
    for number, gate in enumerate(("1.25", "off", "0")):
        out = tmp_path / f"{number}.png"
        assert run(capsys, *words, "--out", str(out), "--gate", gate)[0] == 0
        pictures.append(out.read_bytes())
    default = tmp_path / "default.png"
    assert run(capsys, *words, "--out", str(default))[0] == 0
    assert default.read_bytes() == pictures[0], "the gate of training"
    assert len(set(pictures[1:])) == 2
