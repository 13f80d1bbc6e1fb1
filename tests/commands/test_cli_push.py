"""What the commands publish: a flow without private images, and no path of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tools.hub import FakeHub

import nfaug
from nfaug.cli import main
from nfaug.hub.push import plan_push

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_push_without_memory(hub: FakeHub, tiny_path: Path) -> None:
    """What is published is the flow, and the Gaussians of its training."""
    options = ["--no-memory", "--private", "--revision", "dev"]
    assert main(["push", str(tiny_path), "owner/flow", *options]) == 0
    assert hub.repos["owner/flow"].private
    own, shared = nfaug.load(tiny_path), nfaug.load("owner/flow", revision="dev")
    assert own.pca is not None
    assert own.gaussians is not None
    assert shared.pca is None
    assert shared.gaussians is not None
    assert torch.equal(shared.gaussians.means, own.gaussians.means)


def test_what_is_published_names_no_local_folder(tiny_folder: Path, tmp_path: Path) -> None:
    run, fitted, made = tmp_path / "run", tmp_path / "fitted", tmp_path / "made"
    words = [
        *("train", "--data", str(tiny_folder), "--out", str(run), "--tensorboard=false"),
        *("--epochs", "1", "--batch-size", "12", "--pca.rank", "4", "--pictures-every", "0"),
        *("--flow.steps", "[1, 1]", "--flow.blocks", "[1, 1]", "--flow.width", "[8, 8]"),
        *("--prior.fixed-point.kld-weight", "20"),
    ]
    assert main(words) == 0
    data = ["--data", str(tiny_folder), "--rank", "4"]
    assert main(["fit", "--checkpoint", str(run), *data, "--out", str(fitted)]) == 0
    nfaug.fit(run, tiny_folder, rank=4, progress=False).save(made)
    for folder in (run, fitted, made):
        # A card escapes the characters that Markdown knows.
        for text in ((folder / "config.json").read_text(), plan_push(folder).card):
            plain = text.replace("\\", "")
            assert tiny_folder.name in plain, "the data's own name is said"
            assert str(tiny_folder.parent) not in plain
            assert str(tmp_path) not in plain
