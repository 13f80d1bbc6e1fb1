"""What many tests share: tiny data, a tiny flow that was trained on them, and a Hub in memory."""

from __future__ import annotations

# First of all: its import sets the variables that huggingface_hub reads when it is imported.
from tools.hub import hub, made, mine, pushed  # isort: split

import signal
from pathlib import Path
from typing import Any

import pytest
import tools.forked  # noqa: F401 - before a server of `multiprocessing` starts
import torch
from PIL import Image
from tools.libraries import missing_libraries
from tools.nfa import CLASSES, NAMES, SIZE, Counted, TensorImages, checkpoint, images_of
from torch import Tensor

from nfaug.checkpoint.checkpoint import Checkpoint, load
from nfaug.classes.fixed_point import FixedPointConfig
from nfaug.fitting.config import PCAConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig
from nfaug.training import TrainConfig, TrainResult, train
from nfaug.training.config import OptimConfig, TrainPriorConfig

__all__ = ["hub", "made", "mine", "pushed"]

PER_CLASS = 12

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the libraries whose tests were skipped."""
    missing = missing_libraries()
    if missing:
        terminalreporter.section("not installed")
        terminalreporter.write_line(
            f"Tests that need {', '.join(missing)} were skipped. `make venv` installs all of them."
        )


@pytest.fixture(scope="session")
def tiny_images() -> TensorImages:
    """36 grayscale images of 8 x 8 pixels in three classes."""
    labels = torch.arange(CLASSES * PER_CLASS) % CLASSES
    return TensorImages(images_of(labels, channels=1), labels, NAMES)


@pytest.fixture(scope="session")
def tiny_config() -> TrainConfig:
    """A training run of a quarter of a second."""
    return TrainConfig(
        epochs=2,
        batch_size=12,
        flow=MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8)),
        prior=TrainPriorConfig(fixed_point=FixedPointConfig(kld_weight=20.0)),
        optim=OptimConfig(warmup_steps=2),
        pca=PCAConfig(rank=4),
        device="cpu",
    )


@pytest.fixture(scope="session")
def tiny_result(tiny_images: TensorImages, tiny_config: TrainConfig) -> TrainResult:
    """What training returns. Read only."""
    return train(tiny_images, config=tiny_config, progress=False)


@pytest.fixture(scope="session")
def tiny_path(tiny_result: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of that run on disk. Read only."""
    return tiny_result.checkpoint.save(tmp_path_factory.mktemp("tiny") / "flow")


@pytest.fixture
def tiny_checkpoint(tiny_path: Path) -> Checkpoint:
    """The same, loaded: yours to change."""
    return load(tiny_path)


@pytest.fixture(scope="session")
def tiny_folder(tiny_images: TensorImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as PNG files, a folder for each class. Read only."""
    root = tmp_path_factory.mktemp("images")
    for index, (image, label) in enumerate(tiny_images):
        (root / NAMES[label]).mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(root / NAMES[label] / f"{index:02}.png")
    assert tiny_images.image_size == SIZE
    return root


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Counts the images of every encode and decode of a flow."""
    checkpoint(), checkpoint(memory=False)  # fitted once for all tests, with encoded images
    found = Counted([], [])
    encode, latents, decode = Flow.encode, Flow.latents, Flow.decode

    def count_encode(flow: Flow, images: Tensor, noise: Any = None) -> Any:
        found.encoded.append(len(images))
        return encode(flow, images, noise)

    def count_latents(flow: Flow, images: Tensor, noise: Any = None) -> Tensor:
        found.encoded.append(len(images))
        return latents(flow, images, noise)

    def count_decode(flow: Flow, z: Tensor, **options: Any) -> Tensor:
        found.decoded.append(len(z))
        return decode(flow, z, **options)

    monkeypatch.setattr(Flow, "encode", count_encode)
    monkeypatch.setattr(Flow, "latents", count_latents)
    monkeypatch.setattr(Flow, "decode", count_decode)
    return found
