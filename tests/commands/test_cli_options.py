"""Every option of a command reaches the function that does the work."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import jsonargparse
import pytest

from nfaug.augment.config import MixConfig
from nfaug.cli import main
from nfaug.fitting import FitConfig


class Reached(BaseException):
    """The call arrived; what comes after it does not matter."""


DATA = ["--data", "some", "--data-dir", "there", "--split", "odd"]
DATA += ["--per-class", "3", "--on-error", "skip", "--seed", "5", "--download"]
OPENED = {
    "data_dir": "there", "split": "odd", "per_class": 3, "on_error": "skip",
    "seed": 5, "download": True,
}  # fmt: skip
MIXING = ["--alpha", "0.3", "--mix", "pair", "--partners", "memory", "--strength", "0.4"]
MIXING += ["--noise", "0.2", "--gate", "none"]
MIXED: dict[str, Any] = {
    "alpha": 0.3, "mix": "pair", "partners": "memory", "strength": 0.4, "noise": 0.2,
    "gate": None,
}  # fmt: skip
CASES: list[tuple[str, str, list[str], dict[str, Any]]] = [
    (
        "pull", "nfaug.hub.pull", ["a/b", "--out", "OUT", "--revision", "v1", "--overwrite"],
        {"revision": "v1", "out": "OUT", "overwrite": True},
    ),
    (
        "list", "huggingface_hub.HfApi.list_models",
        ["--author", "me", "--search", "cat", "--limit", "7"],
        {"author": "me", "search": "cat", "limit": 7},
    ),
    (
        "push", "nfaug.hub.push_to_hub",
        ["FLOW", "a/b", "--private", "--revision", "v1", "--no-memory",
         "--license", "mit", "--about-data", "cats", "--overwrite-card"],
        {"private": True, "revision": "v1", "memory": False,
         "license": "mit", "about_data": "cats", "overwrite_card": True},
    ),
    ("push", "nfaug.hub.push_to_hub", ["FLOW", "a/b"], {"private": None, "memory": True}),
    (
        "push", "nfaug.hub.push.plan_push",
        ["FLOW", "a/b", "--dry-run", "--no-memory", "--license", "mit", "--about-data", "cats"],
        {"memory": False, "license": "mit", "about_data": "cats"},
    ),
    ("fit", "nfaug.fitting.checkpoints.open_images",
     ["--checkpoint", "FLOW", *DATA, "--out", "OUT"],
     {**OPENED, "channels": None, "image_size": None}),
    ("fit", "nfaug.fitting.checkpoints.open_images",
     ["--checkpoint", "FLOW", "--data", "some", "--channels", "1", "--out", "OUT",
      "--image-size", "4,5"],
     {"channels": 1, "image_size": (4, 5), "download": False, "split": "train"}),
    ("fit", "nfaug.fitting.checkpoints.fit_images",
     ["--checkpoint", "FLOW", "--data", "DATA", "--out", "OUT", "--rank", "3", "--per-class", "5",
      "--no-memory", "--seed", "4", "--gaussians", "fpi"],
     {"config": FitConfig(rank=3, per_class=5, memory=False, seed=4, gaussians="fpi")}),
    (
        "bank", "nfaug.data.open.open_dataset",
        ["--checkpoint", "FLOW", *DATA, "--out", "OUT", "--image-size", "20"],
        {**OPENED, "image_size": (20, 20)},
    ),
    (
        "bank", "nfaug.bank.make_bank",
        ["--checkpoint", "FLOW", "--data", "DATA", "--out", "OUT", "--variants", "3",
         "--batch-size", "9", "--workers", "2", "--overwrite", "--seed", "4", *MIXING],
        {"variants": 3, "batch_size": 9, "workers": 2, "overwrite": True, "seed": 4,
         "config": MixConfig(**MIXED)},
    ),
    (
        "preview", "nfaug.pictures.preview.preview_grid",
        ["--checkpoint", "FLOW", "--data", "DATA", "--out", "OUT.png", "--variants", "3",
         "--max-classes", "2", "--seed", "4", *MIXING],
        {"variants": 3, "max_classes": 2, "seed": 4, "config": MixConfig(**MIXED)},
    ),
    (
        "sample", "nfaug.pictures.preview.sample_grid",
        ["--checkpoint", "FLOW", "--out", "OUT.png", "--temperature", "0.25"],
        {"temperature": 0.25},
    ),
    (
        "timm", "nfaug.integrations.timm.run_script",
        ["train.py", "--checkpoint", "FLOW", "--p", "0.3", *MIXING],
        {},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "target", "words", "expected"),
    CASES,
    ids=[f"{number}-{command}" for number, (command, *_) in enumerate(CASES)],
)
def test_options_arrive(
    command: str,
    target: str,
    words: list[str],
    expected: dict[str, Any],
    tiny_path: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: dict[str, Any] = {}

    def reached(*positional: Any, **options: Any) -> None:
        found.update(options)
        if command == "timm":
            found["config"] = positional[2].config
        raise Reached

    importlib.import_module("nfaug.fitting.checkpoints")  # before its parts are replaced
    module, _, name = target.rpartition(".")
    monkeypatch.setattr(pkgutil.resolve_name(module), name, reached)
    places = {"FLOW": tiny_path, "DATA": tiny_folder}
    places |= {name: tmp_path / name for name in ("OUT", "OUT.png")}
    with pytest.raises(Reached):
        main([command, *(str(places.get(word, word)) for word in words)])
    if command == "timm":
        expected = {**expected, "config": MixConfig(p=0.3, **MIXED)}
    wanted = {name: str(places.get(str(value), value)) for name, value in expected.items()}
    assert {name: str(found[name]) for name in expected} == wanted


def test_the_yaml_of_other_parsers_stays_as_it_is() -> None:
    """Settings of nfaug have no aliases; those of a script in the same process may have some."""
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--value", type=dict)
    assert parser.parse_args(["--value", "{a: &x 1, b: *x}"]).value == {"a": 1, "b": 1}
