"""Flows that come with the package, and the script that makes one of a run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import nfaug
from nfaug.checkpoint.resolve import builtin_names, resolve

ROOT = Path(__file__).resolve().parents[2]
FLOWS = [name for name in builtin_names() if nfaug.load(name).config.classes]


def test_pixels_is_the_bundled_flow_without_classes() -> None:
    assert {*builtin_names()} - {*FLOWS} == {"builtin:pixels"}


@pytest.mark.parametrize("name", FLOWS)
def test_a_bundled_flow_is_small_and_holds_no_image(name: str) -> None:
    folder = resolve(name)
    assert sorted(file.name for file in folder.iterdir()) == [
        *("README.md", "config.json", "gaussians.safetensors", "model.safetensors"),
        "pca.safetensors",
    ]
    assert max(file.stat().st_size for file in folder.iterdir()) <= 3_000_000
    found = nfaug.load(name)
    assert found.pca is not None
    assert not found.pca.has_memory
    assert float((found.pca.ranks / found.pca.counts).max()) <= 0.05, "too few axes to span images"
    assert found.gaussians is not None
    assert found.gaussians.num_classes == len(found.config.classes) == 10
    assert found.config.metrics["exact"] == 1.0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "The partner memory was left out." in card
    assert f'NFAugment.from_pretrained("{name}"' in card
    terms = card.partition("## License and data\n\n")[2].partition("\n\n## ")[0]
    assert terms.endswith("\\."), "a whole sentence"
    assert "\\.\\.\\." not in terms


@pytest.mark.parametrize("name", FLOWS)
def test_what_a_prompt_shows_fits_on_two_lines(name: str) -> None:
    shown = repr(nfaug.load(name))
    assert shown.startswith("Checkpoint(flow=Flow(mef ")
    assert len(shown) <= 2 * 88


def test_what_there_is() -> None:
    with pytest.raises(FileNotFoundError, match="builtin:fashion-mnist"):
        nfaug.load("builtin:mnist")


@pytest.mark.parametrize("name", FLOWS)
def test_they_are_loaded_by_name_and_augment(name: str) -> None:
    flow = nfaug.load(name).flow
    shape = (flow.config.channels, *flow.config.image_size)
    nfa = nfaug.NFAugment.from_pretrained(name, p=1.0, gate=None)
    images = torch.randint(256, (6, *shape), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    new, _ = nfa(images, [nfa.classes[0]] * 6)
    assert nfa.stats()["applied"] == 6
    assert not torch.equal(new, images)


def test_a_run_becomes_a_bundled_flow(
    tiny_path: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = importlib.util.spec_from_file_location("bundle", ROOT / "scripts" / "bundle.py")
    assert spec is not None
    assert spec.loader is not None
    bundle: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bundle)
    out = tmp_path / "builtin" / "tiny"
    words = ["--data", tiny_folder, "--test-data", tiny_folder, "--rank", 3, "--terms", "None."]
    monkeypatch.setattr(
        sys, "argv", ["b", str(tiny_path), "tiny", "--out", str(out), *map(str, words)]
    )
    bundle.main()
    assert "MB" in capsys.readouterr().out
    made, run = nfaug.load(out), nfaug.load(tiny_path)
    assert torch.equal(made.gaussians.means, run.gaussians.means), "of the run, not of the data"
    assert made.pca.rank == 3
    assert not made.pca.has_memory
    assert made.config.metrics["images"] == 36
    assert "Our images" not in (out / "README.md").read_text()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--data-name", "Our images"])
    bundle.main()
    named = nfaug.load(out).config.training
    assert named == {**run.config.training, "data": "Our images"}
    assert "Our images" in (out / "README.md").read_text()
    monkeypatch.setattr(bundle, "MOST_BYTES", 1000)
    with pytest.raises(SystemExit, match="--rank"):
        bundle.main()
