"""The top-level package: light to import, with its sub-packages as lazy attributes."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tools.libraries import missing_libraries

import nfaug
from nfaug.io.text import public_name

ADAPTERS = {
    "albumentations": "NFATransform",
    "timm": "NFALoader",
    "torchvision": "NFACollate",
}
CODE = """
import json, sys
import nfaug
heavy = (
    "timm", "accelerate", "albumentations", "matplotlib", "gradio", "torchvision", "nfaug.training"
)
loaded = [name for name in heavy if name in sys.modules]
found = [
    nfaug.bank.BankDataset, nfaug.training.train, nfaug.hub.pull, nfaug.classes.fixed_point.solve,
    nfaug.integrations,
]
for library, name in json.loads(sys.argv[1]).items():
    assert hasattr(getattr(nfaug.integrations, library), name), name
print(json.dumps([loaded, [part.__name__ for part in found]]))
"""


def test_sub_packages_are_lazy_attributes() -> None:
    installed = {name: ADAPTERS[name] for name in {*ADAPTERS} - {*missing_libraries()}}
    words = [sys.executable, "-c", CODE, json.dumps(installed)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    loaded, found = json.loads(ran.stdout)
    assert loaded == []
    assert found == ["BankDataset", "train", "pull", "solve", "nfaug.integrations"]


WITHOUT_EXTRAS = """
import sys
blocked, data, flow, out = sys.argv[1].split(","), *sys.argv[2:]
sys.modules.update(dict.fromkeys(blocked))  # an import of these fails

import torch
import nfaug
from nfaug.bank import BankDataset
from nfaug.cli import main
from nfaug.integrations.torchvision import NFACollate
from nfaug import open_dataset

images = open_dataset(data, channels=1)
nfa = nfaug.NFAugment(nfaug.fit(flow, data, rank=3, progress=False), p=1.0)
loader = torch.utils.data.DataLoader(images, 12, collate_fn=NFACollate(nfa))
for _ in loader:
    pass
assert nfa.stats()["applied"] > 0
fitted, use = out + "/fitted", ["--checkpoint", out + "/fitted", "--data", data]
for words in (
    ["fit", "--checkpoint", flow, "--data", data, "--rank", "3", "--out", fitted,
     "--gaussians", "data"],
    ["preview", *use, "--out", out + "/grid.png"],
    ["sample", "--checkpoint", fitted, "--out", out + "/samples.png"],
    ["bank", *use, "--out", out + "/bank"],
    ["eval", *use],
    ["info", fitted],
):
    assert main(words) == 0, words
assert len(BankDataset(images, out + "/bank")) == len(images)
assert main(["train", "--data", data, "--out", out + "/run", "--tensorboard=false"]) == 1
assert [name for name in blocked if sys.modules[name] is not None] == []
"""


def test_what_works_without_the_extras(tiny_folder: Path, tiny_path: Path, tmp_path: Path) -> None:
    """README: fitting, banks and everything that runs inside a training loop."""
    extras = set()
    for line in importlib.metadata.requires("nfaug") or []:
        name, _, marker = line.partition(";")
        extra = re.search(r"extra == .(\w+)", marker)
        if extra and extra[1] not in ("test", "examples", "docs", "all"):
            extras.add(re.split(r"[\[<>=~ ]", name)[0].lower().replace("-", "_"))
    modules = [
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if module[0] != "_" and {d.lower().replace("-", "_") for d in distributions} & extras
    ]
    assert {"timm", "ema_pytorch", "matplotlib", "sklearn"} <= {*modules}
    words = [",".join(modules), *map(str, (tiny_folder, tiny_path, tmp_path))]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *words], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert 'pip install -e ".[train]"' in ran.stderr


def test_names_of_the_package() -> None:
    packages = {"bank", "compare", "hub", "integrations", "pictures", "training"}
    assert {*dir(nfaug)} == {*nfaug.__all__, *packages}, "and nothing else"
    with pytest.raises(AttributeError, match="banks"):
        nfaug.banks  # noqa: B018


def test_public_names_hold_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clinic").mkdir()
    monkeypatch.chdir(tmp_path)
    for source, name in (
        (tmp_path / "clinic", "clinic"),
        ("torch/cifar10", "torch/cifar10"),
        ("owner/flow", "owner/flow"),
    ):
        assert public_name(source) == name
