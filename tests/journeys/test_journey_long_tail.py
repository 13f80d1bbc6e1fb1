"""A folder as it is found: `nfaug fit`, `nfaug bank`, then a training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nfa_tools import images_of
from PIL import Image


@pytest.fixture
def mixed_folder(tmp_path: Path) -> Path:
    """labels.csv, 8 birds, 8 cats, 1 newt; two 16-bit files, a GIF and a damaged file."""
    root = tmp_path / "data"
    root.mkdir()
    rows = ["file,label"]
    for number in range(17):
        label = min(number // 8, 2)
        pixels = images_of(torch.tensor([label]), seed=number, size=(40, 36))[0]
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        ending = "gif" if number == 3 else "png"
        if number in (4, 12):
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        image.save(root / f"{number}.{ending}")
        rows.append(f"{number}.{ending},{('bird', 'cat', 'newt')[label]}")
    (root / "17.png").write_bytes((root / "0.png").read_bytes()[:200])
    (root / "labels.csv").write_text("\n".join([*rows, "17.png,bird"]))
    return root


def test_from_fit_to_training(run: Callable[..., Any], mixed_folder: Path, tmp_path: Path) -> None:
    reading = ["--data", mixed_folder, "--on-error", "skip", "--json"]
    flow, bank = tmp_path / "flow", tmp_path / "bank"
    words = ["fit", "--flow", "builtin:rgb32", "--rank", 3, "--out"]
    eight_bits = run("-m", "nfaug", *words, tmp_path / "eight", *reading)
    assert eight_bits["images"] == 15
    assert {Path(name).name for name in eight_bits["skipped_files"]} == {
        *("4.png", "12.png", "17.png")
    }
    fitted = run("-m", "nfaug", *words, flow, *reading, "--scale-16-bit")
    assert (fitted["classes"], fitted["images"], fitted["axes"]) == (3, 17, 3)
    words = ["bank", "--flow", flow, "--out", bank, "--variants", 2, "--gate", "off"]
    run("-m", "nfaug", *words, *reading, "--scale-16-bit")
    trained = run("long_tail.py", mixed_folder, bank)
    assert trained["classes"] == ["bird", "cat", "newt"]
    assert trained["replaced"] == [True] * 16 + [False], "the newt has no partner"
