"""nfaug bank and nfaug preview."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tools.nfa import write_images
from torch import Tensor

from nfaug import NFAugment
from nfaug.bank import Bank
from nfaug.cli import main
from nfaug.io import atomic


def test_an_interrupted_bank_is_continued_by_the_same_command(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["bank", "--checkpoint", str(tiny_path), "--data", str(tiny_folder), "--batch-size=4"]
    variants, calls = NFAugment.variants, itertools.count()

    def interrupted(*given: Any) -> Iterator[Tensor]:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return variants(*given)

    out = tmp_path / "bank"
    with monkeypatch.context() as patch:
        patch.setattr(NFAugment, "variants", interrupted)
        assert main([*words, "--out", str(out)]) == 130
    assert json.loads((out / "manifest.json").read_text())["done"] == 12
    assert main([*words, "--out", str(out)]) == 0
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    assert (Bank(out).variants == Bank(tmp_path / "whole").variants).all()


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.png"
    out.write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    for words in (["preview", "--data", str(tiny_folder)], ["sample"]):
        given = [*words, "--checkpoint", str(tiny_path), "--out", str(out), "--overwrite"]
        assert main(given) == 2
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_a_bank_shrinks_no_image_without_a_word(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a folder of many images, only some sizes were looked at."""
    folder = write_images(tmp_path / "images", 8, train=100)
    odd = sorted(folder.rglob("*.png"))[1]
    Image.new("L", (48, 40)).save(odd)
    words = ["bank", "--checkpoint", str(tiny_path), "--data", str(folder), "--variants=1"]
    assert main([*words, "--out", str(tmp_path / "bank")]) == 2
    assert f"{odd.name} has 40 x 48 pixels" in capsys.readouterr().err


def test_preview_at_the_training_size(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["preview", "--checkpoint", str(tiny_path), "--data", str(tiny_folder), "--variants=1"]
    out = tmp_path / "x.png"
    assert main([*words, "--out", str(out), "--image-size=90", "--gate=none"]) == 0
    with Image.open(out) as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape[0] == 18 + 3 * 92
    row = pixels[-92:-2, -3 * 92 :, 0]
    image, decoded, variant = (row[:, start : start + 90] for start in (0, 92, 184))
    assert (image != variant).any()
    assert (image != decoded).any(), "the flow sees 8 x 8 pixels"
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--out", str(out), "--overwrite", "--image-size=0"])
    assert "--image-size" in capsys.readouterr().err


def test_a_home_directory_in_out_is_found(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shells do not expand the ~ of --out=~/flow."""
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["--checkpoint", str(tiny_path), "--data", str(tiny_folder)]
    held = Path(shutil.copytree(tiny_path, tmp_path / "flow"))
    before = (held / "config.json").read_bytes()
    fit = ["fit", *given, "--rank=2"]
    assert main([*fit, "--out=~/flow"]) == 2, "without --overwrite it stays"
    assert (held / "config.json").read_bytes() == before
    assert main([*fit, "--out=~/flow", "--overwrite"]) == 0
    assert (held / "samples.png").is_file()
    bank = ["bank", "--variants=1", "--out=~/bank"]
    assert main([*bank, *given]) == 0
    assert main(["preview", *given, "--out=~/grid.png"]) == 0
    assert len(Bank("~/bank")) == Bank(tmp_path / "bank").manifest.images
    assert {path.name for path in tmp_path.iterdir()} == {"flow", "bank", "grid.png"}
