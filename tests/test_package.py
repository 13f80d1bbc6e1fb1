"""The top-level package: light to import, with its sub-packages as lazy attributes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import nfaug
from nfaug.resolve import public_name

CODE = """
import json, sys
import nfaug
heavy = ("timm", "accelerate", "albumentations", "matplotlib", "gradio", "nfaug.training")
loaded = [name for name in heavy if name in sys.modules]
found = [
    nfaug.bank.BankDataset, nfaug.training.train, nfaug.hub.pull, nfaug.fixed_point.solve,
    nfaug.integrations,
]
print(json.dumps([loaded, [part.__name__ for part in found]]))
"""


def test_sub_packages_are_lazy_attributes() -> None:
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded, found = json.loads(ran.stdout)
    assert loaded == []
    assert found == ["BankDataset", "train", "pull", "solve", "nfaug.integrations"]


def test_names_of_the_package() -> None:
    assert {"bank", "fixed_point", "hub", "integrations", "training", "fit"} <= {*dir(nfaug)}
    with pytest.raises(AttributeError, match="banks"):
        nfaug.banks  # noqa: B018


def test_public_names_hold_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clinic").mkdir()
    monkeypatch.chdir(tmp_path)
    for source, name in (
        (tmp_path / "clinic", "clinic"),
        (f"wds/{tmp_path}/patients-{{0000..0003}}.tar", "wds/patients-{0000..0003}.tar"),
        ("wds/~/patients-{0..3}.tar", "wds/patients-{0..3}.tar"),
        (f"hfds/{tmp_path}/clinic", "clinic"),
        ("hfds//somewhere/else", "else"),
        ("hfds/clinic", "clinic"),
        ("hfds/ylecun/mnist", "hfds/ylecun/mnist"),
        ("torch/cifar10", "torch/cifar10"),
        ("owner/flow", "owner/flow"),
    ):
        assert public_name(source) == name
