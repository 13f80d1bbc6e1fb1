"""Settings of runs made before a field was removed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nfaug.classes.fixed_point.config import FixedPointConfig
from nfaug.commands.train import expand, parser
from nfaug.training import TrainConfig


def saved_run(folder: Path) -> Path:
    """A train.yaml as nfaug wrote it when the fixed point had Anderson acceleration."""
    settings = {"data": "pets", "split": "train", **TrainConfig().to_dict()}
    settings["prior"]["fixed_point"] |= {"anderson": 4, "kld_weight": 5.0}
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump({**settings, "trackers": [], "flow": {"steps": [2, 2]}}))
    return path


@pytest.mark.parametrize("option", ["--resume", "-c", "--config="])
def test_a_removed_setting_is_dropped(tmp_path: Path, option: str) -> None:
    path = saved_run(tmp_path)
    words = {
        "--resume": ["--resume", str(tmp_path)],
        "-c": ["-c", str(path), "--out", "x"],
        "--config=": [f"--config={path}", "--out", "x"],
    }[option]
    made = parser()
    arguments = made.parse_args(expand([*words, "--prior.fixed_point.damping", "0.25"]))
    prior = made.instantiate(arguments)["prior"]
    assert prior.fixed_point == FixedPointConfig(kld_weight=5.0, damping=0.25)
    assert (arguments.data, arguments.flow.steps) == ("pets", (2, 2))


def test_other_files_are_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text in ("data: anderson\n", "prior: [anderson\n"):
        path.write_text(text)
        assert expand(["-c", str(path)]) == ["-c", str(path)]
    assert expand(["-c", "missing.yaml", "--seed", "1"]) == ["-c", "missing.yaml", "--seed", "1"]
    assert expand(["-c"]) == ["-c"]
