"""A folder as it is found: `nfaug fit`, `nfaug bank`, then a training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tools.nfa import images_of


@pytest.fixture
def mixed_folder(tmp_path: Path) -> Path:
    """Class folders: 8 birds, 8 cats, 1 newt; two 16-bit files, a GIF and a damaged file."""
    root = tmp_path / "data"
    for number in range(17):
        label = min(number // 8, 2)
        pixels = images_of(torch.tensor([label]), seed=number, size=(40, 36))[0]
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        ending = "gif" if number == 3 else "png"
        if number in (4, 12):
            image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        folder = root / ("bird", "cat", "newt")[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.{ending}")
    (root / "bird" / "17.png").write_bytes((root / "bird" / "0.png").read_bytes()[:200])
    return root


def test_from_fit_to_training(run: Callable[..., Any], mixed_folder: Path, tmp_path: Path) -> None:
    reading = ["--data", mixed_folder, "--on-error", "skip", "--json"]
    flow, bank = tmp_path / "flow", tmp_path / "bank"
    words = ["fit", "--checkpoint", "builtin:rgb32", "--rank", 3, "--out"]
    fitted = run("-m", "nfaug", *words, flow, *reading)
    assert [Path(name).name for name in fitted["skipped_files"]] == ["17.png"]
    assert (fitted["classes"], fitted["images"], fitted["axes"]) == (3, 17, 3)
    words = ["bank", "--checkpoint", flow, "--out", bank, "--image-size", 32]
    words += ["--variants", 2, "--gate", "none"]
    run("-m", "nfaug", *words, *reading)
    trained = run("long_tail.py", mixed_folder, bank)
    assert trained["classes"] == ["bird", "cat", "newt"]
    assert trained["replaced"] == [True] * 16 + [False], "the newt has no partner"
