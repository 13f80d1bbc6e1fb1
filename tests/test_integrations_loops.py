"""The examples of other people's loops, run on a tiny folder.

Lightning and transformers are no dependencies: here two stand-ins call the user's hooks in the
order, and with the arguments, that the libraries do. The examples run unchanged with the real ones.
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from nfa_tools import NAMES, checkpoint, images_of
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from nfaug.checkpoint import Checkpoint, CheckpointConfig

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 4), ("val", 1)):
        for label, name in enumerate(NAMES):
            (root / split / name).mkdir(parents=True)
            images = images_of(torch.full((count,), label), seed=label, size=(24, 24))
            for number, image in enumerate(images):
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                picture.save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def flow_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    parts = checkpoint()
    config = CheckpointConfig(parts.flow.config, class_names=NAMES)
    path = tmp_path_factory.mktemp("flow") / "tiny"
    return str(Checkpoint(parts.flow, config, pca=parts.pca).save(path))


def run(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object
) -> dict[str, int]:
    """Run an example; returns the counters of its last line."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return ast.literal_eval(capsys.readouterr().out.splitlines()[-1])


def test_torchvision(
    folder: Path,
    flow_dir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stats = run(
        "torchvision_loop.py", monkeypatch, capsys, folder, "--nfa", flow_dir, "--img-size", 32,
        "--epochs", 2, "--batch-size", 6, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert stats["seen"] == 24
    assert sum(stats.values()) == 24 + 12, "half of the images went through the flow"


class LightningModule(nn.Module):
    trainer: Any


class LightningTrainer:
    """The calls of one device in Lightning's order: transfer, hook, step, optimiser."""

    def __init__(self, max_epochs: int, **_: Any) -> None:
        self.max_epochs = max_epochs
        self.training = False

    def fit(self, module: Any, loader: DataLoader[Any]) -> None:
        module.trainer = self
        optimizer = module.configure_optimizers()
        assert len(optimizer.param_groups[0]["params"]) == len(list(module.model.parameters()))
        assert not any(key.startswith("nfa") for key in module.state_dict())
        for batch in loader:  # the sanity check, on validation data
            kept = module.on_after_batch_transfer(batch, 0)
            assert kept is batch
        self.training = True
        for _ in range(self.max_epochs):
            module.train()
            for index, batch in enumerate(loader):
                batch = module.on_after_batch_transfer(batch, 0)
                loss = module.training_step(batch, index)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def test_lightning(
    folder: Path,
    flow_dir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in = ModuleType("lightning")
    vars(stand_in).update(LightningModule=LightningModule, Trainer=LightningTrainer)
    monkeypatch.setitem(sys.modules, "lightning", stand_in)
    stats = run(
        "lightning_module.py", monkeypatch, capsys, folder / "train", "--nfa", flow_dir,
        "--img-size", 32, "--epochs", 2, "--batch-size", 6, "--workers", 0,
    )  # fmt: skip
    assert stats["seen"] == 24


class HFTrainer:
    """Collates, calls `compute_loss` in training and in evaluation, steps."""

    def __init__(
        self, model: nn.Module, args: Any, data_collator: Any, train_dataset: Any, **_: Any
    ) -> None:
        self.model, self.args = model, args
        self.loader = DataLoader(
            train_dataset, args.per_device_train_batch_size, collate_fn=data_collator
        )

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any
    ) -> Any:
        outputs = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def train(self) -> None:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        for _ in range(self.args.num_train_epochs):
            self.model.train()
            for inputs in self.loader:
                optimizer.zero_grad()
                self.compute_loss(self.model, inputs, num_items_in_batch=None).backward()
                optimizer.step()
            self.model.eval()
            for inputs in self.loader:
                _, outputs = self.compute_loss(self.model, inputs, return_outputs=True)
                assert outputs["logits"].shape == (len(inputs["labels"]), 3)


def test_hugging_face(
    folder: Path,
    flow_dir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in = ModuleType("transformers")
    vars(stand_in).update(
        Trainer=HFTrainer, TrainingArguments=lambda **settings: SimpleNamespace(**settings)
    )
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    stats = run(
        "hf_trainer.py", monkeypatch, capsys, folder / "train", "--nfa", flow_dir, "--img-size",
        32, "--epochs", 2, "--batch-size", 6,
    )  # fmt: skip
    assert stats["seen"] == 24, "twelve images an epoch in training, none in evaluation"
