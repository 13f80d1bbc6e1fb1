"""Runs that nfaug 0.1.0 wrote still load and resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import nfaug
from nfaug.cli import main
from nfaug.training import open_dataset

DATA = Path(__file__).parent / "data"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the run was made in, as working directory."""
    for name in ("images", "run"):
        shutil.copytree(DATA / f"{name}_v1", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_a_checkpoint(folder: Path) -> None:
    checkpoint = nfaug.load("run")
    images = open_dataset("images", channels=1)
    batch = images[0][0][None]
    assert checkpoint.config.class_names == ("cat", "dog", "eel")
    assert bool((checkpoint.flow.decode(checkpoint.flow.encode(batch)[0]) == batch).all())


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_run_resumes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "anderson" in Path("run/train.yaml").read_text(), "a setting that has been removed"
    words = ["train", "--resume", "run", "--epochs", "3", "--pictures", "false", "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 9, "six steps of the old run and three new ones"
    rows = Path("run/log.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in (rows[0], rows[-1])] == ["epoch", "3"]
