"""Progress lines, TensorBoard, pictures, warnings, rollbacks, and starting from another flow."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tools.autoencoder import make_autoencoder
from tools.nfa import TensorImages, images_of
from torch import Tensor

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.cli import main
from nfaug.flows.mef_config import MefConfig
from nfaug.io import progress
from nfaug.io.progress import progress_bar
from nfaug.training import TrainConfig, loop, optimizer, train
from nfaug.training.config import OptimConfig
from nfaug.training.snapshots import Snapshots

pytestmark = pytest.mark.filterwarnings("ignore:.*distutils Version:DeprecationWarning")

PICTURES = ["progress_samples"]


@pytest.fixture
def quiet(tiny_config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(tiny_config, tensorboard=False, pictures_every=0)


# Progress.


def test_lines_where_there_is_no_terminal(
    quiet: TrainConfig, tiny_images: TensorImages, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of a log, without carriage returns."""
    train(tiny_images, config=quiet)
    printed = capsys.readouterr().err
    assert "\r" not in printed
    lines = [line for line in printed.splitlines() if line.startswith("train: ")]
    for part in ("epoch 1 of 2", "step 3", "bits/dim", "36/72"):
        assert any(part in line for line in lines)
    assert "0/72" in lines[0]
    train(tiny_images, config=quiet, progress=False)
    assert capsys.readouterr().err == ""


class Drawn(progress._Bar):
    """A bar that is drawn at once, however short its phase is."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.refresh()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_Bar", Drawn)


def phases(printed: str) -> list[str]:
    """The titles of the bars in the order of their first lines."""
    found: dict[str, None] = {}
    for line in printed.splitlines():
        title = re.match(r"([A-Za-z ]+)(:| \[)", line)
        if title:
            found[title[1]] = None
    return list(found)


START = ["hashing images", "images to start from", "initialisation", "gaussians"]
SOLVED = ["solving for the Gaussians", "making the optimiser", "saving the state"]


@pytest.mark.usefixtures("drawn")
def test_each_phase_announces_itself(
    quiet: TrainConfig,
    tiny_images: TensorImages,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At 128 pixels `nfaug train` was silent for minutes before its first step."""
    config = dataclasses.replace(quiet, pictures_every=1)
    run = functools.partial(train, tiny_images, config=config, test_data=tiny_images, out=tmp_path)
    run()
    before = ["reading images", *START]
    after = ["train", "eval", "samples", "fit"]
    found = phases(capsys.readouterr().err)
    assert [name for name in found if name not in SOLVED] == [*before, *after]
    assert set(SOLVED) < set(found)
    run(progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("drawn")
def test_the_phases_of_an_autoencoder(
    quiet: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = torch.arange(24) % 2
    images = TensorImages(images_of(labels, channels=3, size=(64, 64)), labels, ["ape", "bee"])
    config = dataclasses.replace(quiet, autoencoder=str(make_autoencoder(tmp_path / "vae")))
    for shown in (True, False):
        train(images, config=config, progress=shown)
        found = phases(capsys.readouterr().err)
        assert ({"reading images", "scale of latents", "latents"} < set(found)) == shown
    assert found == []


@pytest.mark.usefixtures("drawn")
def test_the_phases_of_the_commands(
    tiny_folder: Path, tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data", tiny_folder)
    flow = ("--checkpoint", tiny_path)
    expected: dict[str, tuple[list[Any], list[str]]] = {
        "train": (
            [*data, *flow, "--epochs", "1", "--batch-size", "12", "--tensorboard=false"],
            [
                "loading",
                "opening",
                "gaussians: ",
                "train: ",
                "fit: ",
                f"saving {tmp_path}",
                "picture: ",
            ],
        ),
        "fit": (
            [*data, *flow],
            ["loading", "opening", "finished classes", "fit: ", "saving", "picture"],
        ),
        "eval": (
            [*data, *flow, "--split", "train"],
            ["loading", "opening", "reading images", "eval"],
        ),
        "bank": (
            [*data, *flow, "--variants", "2"],
            ["loading", "opening", "hashing images", "bank of"],
        ),
        "preview": ([*data, *flow], ["loading", "opening", "picture"]),
        "sample": ([*flow], ["loading", "samples"]),
        "push": ([tiny_path, "me/flow", "--dry-run"], ["checking"]),
    }
    for command, (words, titles) in expected.items():
        suffix = ".png" if command in ("preview", "sample") else ""
        out = [] if command in ("eval", "push") else ["--out", tmp_path / (command + suffix)]
        assert main([command, *map(str, [*words, *out])]) == 0
        printed = capsys.readouterr().err
        places = [printed.find(f"\n{title}") for title in titles[1:]]
        assert printed.startswith(titles[0]), command
        assert -1 not in places, (command, printed)
        assert places == sorted(places), (command, printed)


def test_a_bar_of_which_nothing_is_counted_yet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first image may take a minute. A log gets one line of it, a terminal is kept alive."""
    monkeypatch.setattr(progress, "_FIRST", 0.02)
    with progress_bar(9, "slow", "image", shown=True), progress_bar(None, "open", shown=True):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["open", "open", "slow:", "slow:"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(9, "slow", "image", shown=True):
        time.sleep(0.3)
    assert capsys.readouterr().err.count("slow:") > 2
    monkeypatch.setattr("os.get_terminal_size", lambda *_: (0, 0))  # as `script` and containers
    with progress_bar(9, "narrow", "image", shown=True):
        time.sleep(0.3)
    assert "| 0/9 [" in capsys.readouterr().err
    with progress_bar(9, "quick", "image", shown=True):
        pass
    with progress_bar(9, "hidden", "image", shown=False):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_the_times_of_the_bar_agree() -> None:
    bar = progress_bar(100, "x", "image", shown=True)
    bar.mininterval = bar.delay = 0
    for images, seconds in ((10, 20), (40, 10)):  # the first were slow
        bar.start_t -= seconds
        bar.last_print_t -= seconds
        bar.update(images)
    assert "50/100 [00:30<00:30,  1.67image/s]" in str(bar)
    bar.close()


# Trackers and pictures.


def test_tensorboard(tiny_config: TrainConfig, tiny_images: TensorImages, tmp_path: Path) -> None:
    """Event files hold the figures of the log and the pictures, at their steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = dataclasses.replace(tiny_config, epochs=3, pictures_every=1)
    result = train(tiny_images, config=config, test_data=tiny_images, out=tmp_path, progress=False)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    assert len(list(folder.glob("events*"))) == 1
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    rows = result.history
    for name in ("bits_per_dim", "nf_acc", "lr"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [row["step"] for row in rows]
        assert [value for _, value in found] == pytest.approx([row[name] for row in rows])
    tags = events.Tags()["images"]
    assert tags == PICTURES
    assert [event.step for event in events.Images("progress_samples")] == [3, 6, 9]
    for name in tags:
        picture = events.Images(name)[-1]
        assert picture.encoded_image_string.startswith(b"\x89PNG")
        with Image.open(tmp_path / "pictures" / f"{name}.png") as image:
            assert image.size == (picture.width, picture.height)
            low, high = image.convert("L").getextrema()
            assert low < high, name
    # A resumed run adds a file; pictures draw nothing from the run's generators.
    longer = dataclasses.replace(config, epochs=4)
    resumed = train(
        tiny_images, config=longer, test_data=tiny_images, out=tmp_path, resume=True, progress=False
    )
    assert resumed.history[:3] == rows
    assert len(list(folder.glob("events*"))) == 2
    # One by one: a folder is read by name, in which a 10 may come before an 8 of the same second.
    steps = []
    for file in folder.glob("events*"):
        events = EventAccumulator(str(file))
        events.Reload()
        steps += [event.step for event in events.Scalars("lr")]
    assert sorted(steps) == [3, 6, 9, 12]


def test_pictures_change_nothing(
    quiet: TrainConfig, tiny_images: TensorImages, tmp_path: Path
) -> None:
    drawn = dataclasses.replace(quiet, pictures_every=1)
    one = train(tiny_images, config=drawn, out=tmp_path, progress=False)
    assert one.loss == train(tiny_images, config=quiet, progress=False).loss
    names = sorted(path.stem for path in (tmp_path / "pictures").iterdir())
    assert names == sorted(PICTURES)


# Steps that are not finite.


@pytest.fixture
def broken_steps(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers, from 1, of the calls whose loss is NaN."""
    broken: set[int] = set()
    calls = 0
    forward = loop.FlowLoss.forward

    def sometimes(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return forward(*args) * (math.nan if calls in broken else 1.0)

    monkeypatch.setattr(loop.FlowLoss, "forward", sometimes)
    monkeypatch.setattr(optimizer, "MAX_BAD_STEPS", 2)
    return broken


@pytest.mark.parametrize("in_folder", [False, True])
def test_rollback(
    tiny_images: TensorImages,
    quiet: TrainConfig,
    tmp_path: Path,
    broken_steps: set[int],
    in_folder: bool,
) -> None:
    """Steps 5 and 6 fail: the run returns to step 4 and halves the learning rate."""
    optim = OptimConfig(warmup_steps=1, decay="constant")
    config = dataclasses.replace(quiet, epochs=3, optim=optim, checkpoint_minutes=1e-9)
    broken_steps |= {5, 6}
    with pytest.warns(RuntimeWarning, match="step 4"):
        result = train(
            tiny_images, config=config, out=tmp_path if in_folder else None, progress=False
        )
    training = result.checkpoint.config.training
    assert (training["steps"], training["rollbacks"], training["skipped_steps"]) == (9, 1, 0)
    assert len(result.loss) == 9
    assert [(row["step"], row["lr"]) for row in result.history] == [
        (3, config.lr),
        (6, config.lr / 2),
        (9, config.lr / 2),
    ]
    if in_folder:
        assert Snapshots(tmp_path).steps() == [8, 9]
        lines = (tmp_path / "log.csv").read_text().splitlines()
        assert [line.split(",")[1] for line in lines] == ["step", "3", "6", "9"]


@pytest.mark.parametrize("how", ["a loss that is not finite", "weights that are not"])
def test_an_interruption_saves_no_bad_state(
    how: str,
    tiny_images: TensorImages,
    quiet: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C in step 5, which goes wrong: the run goes on from step 4."""
    calls = 0
    forward = loop.FlowLoss.forward

    def interrupted(self: loop.FlowLoss, *args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        loss = forward(self, *args)
        if calls == 5:
            os.kill(os.getpid(), signal.SIGINT)
            if how.startswith("a loss"):
                return loss * math.nan
            next(self.flow.parameters()).data *= math.nan
        return loss

    monkeypatch.setattr(loop.FlowLoss, "forward", interrupted)
    config = dataclasses.replace(quiet, epochs=3, checkpoint_minutes=1e-9)
    with pytest.raises(loop.Interrupted, match="the state of step 4 is saved"):
        train(tiny_images, config=config, out=tmp_path, progress=False)
    newest = sorted((tmp_path / "state").glob("step-*"))[-1]
    assert json.loads((newest / "state.json").read_text())["optimizer"]["skipped_in_a_row"] == 0
    resumed = train(tiny_images, config=config, out=tmp_path, resume=True, progress=False)
    assert len(resumed.loss) == 9


def test_the_limit_of_rollbacks(
    tiny_images: TensorImages, quiet: TrainConfig, broken_steps: set[int]
) -> None:
    optim = OptimConfig(warmup_steps=1)
    broken_steps |= set(range(2, 99))
    with (
        pytest.warns(RuntimeWarning, match="step 0"),
        pytest.raises(loop.TrainingDiverged, match="3 rollbacks"),
    ):
        train(tiny_images, config=dataclasses.replace(quiet, optim=optim), progress=False)


# Starting from another flow.


def test_init(
    tiny_images: TensorImages, quiet: TrainConfig, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Weights and shape come from the other flow, the gaussians from these images."""
    labels = torch.arange(40) % 2
    others = TensorImages(images_of(labels, channels=1, seed=5), labels, ["ape", "bee"])
    before = {name: value.clone() for name, value in tiny_checkpoint.flow.state_dict().items()}
    result = train(others, config=quiet, checkpoint=tiny_checkpoint, out=tmp_path, progress=False)
    initial = Snapshots(tmp_path).initial()
    for name, value in initial.flow.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert torch.equal(tiny_checkpoint.flow.state_dict()[name], before[name])
    assert initial.gaussians is not None
    assert initial.gaussians.num_classes == 2
    assert result.checkpoint.config.classes == ("ape", "bee")
    trained = result.checkpoint.flow.state_dict()
    assert not all(torch.equal(trained[name], before[name]) for name in before)
    fresh = train(others, config=quiet, progress=False)
    assert sum(result.loss[:2]) < sum(fresh.loss[:2]), "the flow has seen such images"

    other_shape = dataclasses.replace(
        quiet, flow=MefConfig(steps=(2, 1), blocks=(1, 1), width=(8, 8))
    )
    with pytest.warns(UserWarning, match=r"flow\.\*"):
        shaped = train(others, config=other_shape, checkpoint=tiny_checkpoint, progress=False)
    assert shaped.loss == result.loss
    large = TensorImages(images_of(labels, channels=1, size=(16, 16)), labels, ["ape", "bee"])
    with pytest.raises(ValueError, match="1, 8, 8"):
        train(large, config=quiet, checkpoint=tiny_checkpoint, progress=False)


def test_the_command_with_init(
    tiny_folder: Path, tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run does not load --checkpoint again."""
    start = tmp_path / "start"
    nfaug.load(tiny_path).save(start)
    words = [
        *("train", "--data", str(tiny_folder), "--out", str(tmp_path / "run"), "--json"),
        *("--checkpoint", str(start), "--epochs", "1", "--batch-size", "12", "--pca.rank", "4"),
        *("--pictures-every", "0", "--tensorboard=false", "--prior.fixed-point.kld-weight", "20"),
    ]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["init"] == "start"
    flow = nfaug.load(tmp_path / "run").flow
    assert flow.config == nfaug.load(tiny_path).flow.config
    for file in start.iterdir():
        file.unlink()
    resume = ["train", "--resume", str(tmp_path / "run"), "--pictures-every", "0", "--json"]
    assert main([*resume, "--epochs", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6
    assert main([*words, "--overwrite"]) == 2
    assert "config.json" in capsys.readouterr().err
