"""A stopped run resumes bit for bit: after signals, kills, full disks and lost images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tools.kills import killed_runs
from tools.nfa import TensorImages
from torch import Tensor

from nfaug import open_dataset
from nfaug.classes.fixed_point import FixedPointConfig
from nfaug.cli import main
from nfaug.data.augmentation import FlowAugmentation
from nfaug.flows.mef_config import MefConfig
from nfaug.training import (
    Interrupted,
    RunStopped,
    TrainConfig,
    TrainResult,
    loop,
    train,
)
from nfaug.training.config import DataConfig, TrainPriorConfig
from nfaug.training.context import RunContext
from nfaug.training.run import Run
from nfaug.training.snapshots import Snapshot, Snapshots
from nfaug.training.trainer import train_run

STEPS = 8  # of a whole run: 4 per epoch


@pytest.fixture
def config(tiny_config: TrainConfig) -> TrainConfig:
    """Every source of randomness is on, and a state is saved after every step."""
    return dataclasses.replace(
        tiny_config,
        batch_size=10,
        tensorboard=False,
        pictures_every=0,
        checkpoint_minutes=1e-9,
        dataset=DataConfig(test_fraction=0.1),
        augmentation=FlowAugmentation(
            hflip=True, pad_crop=1, rotation=12, brightness=0.1, contrast=0.1, saturation=0.05
        ),
    )


@pytest.fixture(scope="module")
def digits() -> TensorImages:
    """20 digits of each of the classes 0 and 1."""
    dataset = open_dataset("digits", per_class=20)
    rows = (dataset.targets < 2).nonzero().flatten()
    images = torch.stack([dataset[index][0] for index in rows.tolist()])
    return TensorImages(images, dataset.targets[rows], ["0", "1"])


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[], Any]], None]]:
    """Call a function during step number n."""

    def plan(number: int, act: Callable[[], Any]) -> None:
        calls = 0
        forward = loop.FlowLoss.forward

        def counted(*args: Any) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == number:
                act()
            return forward(*args)

        monkeypatch.setattr(loop.FlowLoss, "forward", counted)

    yield plan
    monkeypatch.undo()


def everything(result: TrainResult) -> dict[str, Any]:
    """Everything that must be equal, tensors as bytes."""
    checkpoint = result.checkpoint
    assert checkpoint.gaussians is not None
    assert checkpoint.pca is not None
    parts = {
        "flow": checkpoint.flow.state_dict(),
        "gaussians": checkpoint.gaussians.state_dict(),
        "pca": checkpoint.pca.state_dict(),
    }
    tensors = {
        f"{part}.{name}": value.numpy().tobytes()
        for part, values in parts.items()
        for name, value in values.items()
    }
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]
    return tensors | {"rows": rows, "loss": result.loss, "prior": checkpoint.config.gaussians}


@pytest.mark.parametrize(
    ("stop", "schedule"), [(1, "twice"), (2, "once"), (4, "twice"), (5, "once"), (STEPS, "twice")]
)
def test_an_interrupted_run_resumes_bit_for_bit(
    digits: TensorImages,
    config: TrainConfig,
    tmp_path: Path,
    at_step: Any,
    stop: int,
    schedule: Any,
) -> None:
    prior = dataclasses.replace(config.prior, schedule=schedule)
    config = dataclasses.replace(config, prior=prior)
    calm = train(digits, config=config, progress=False)
    assert len(calm.loss) == STEPS
    at_step(stop, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match=f"step {stop}") as error:
        train(digits, config=config, out=tmp_path, progress=False)
    assert error.value.exit_code == 130
    assert Snapshots(tmp_path).steps()[-1] == stop
    assert len({file.stat().st_mode for file in tmp_path.rglob("*.*") if file.is_file()}) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = train(digits, config=config, out=tmp_path, resume=True, progress=False)
    assert everything(resumed) == everything(calm)
    # Resuming a finished run computes only its end again.
    again = train(digits, config=config, out=tmp_path, resume=True, progress=False)
    assert everything(again) == everything(calm)


def test_a_killed_command_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Killed between and during saves."""
    summary = killed_runs(_words(tmp_path, epochs=4), tmp_path, kills=3, seed=0)
    _assert_same(tmp_path)
    assert summary["kills"] == 3


def _words(folder: Path, epochs: int) -> list[str]:
    """Options of a run on digits that saves after every step, so that kills hit saves."""
    settings = folder / "settings.yaml"
    settings.write_text(
        f"""
        device: cpu
        pictures_every: 0
        tensorboard: false
        epochs: {epochs}
        batch_size: 25
        checkpoint_minutes: 1.0e-9
        flow: {{steps: [1, 1], blocks: [1, 1], width: [8, 8]}}
        prior: {{fixed_point: {{kld_weight: 20}}, refit_epoch: 2}}
        pca: {{rank: 4, per_class: 6}}
        per_class: 10
        augmentation: {{pad_crop: 1, rotation: 12, brightness: 0.1, contrast: 0.1}}
        """
    )
    return ["--data", "digits", "-c", str(settings)]


def _assert_same(folder: Path) -> None:
    """Compare every weight, axis, moment and generator."""
    calm, killed = folder / "calm", folder / "killed"
    for name in ("model", "gaussians", "pca"):
        file = f"{name}.safetensors"
        assert (calm / file).read_bytes() == (killed / file).read_bytes(), name
    (last,) = {Snapshots(path).steps()[-1] for path in (calm, killed)}
    one, other = (load_file(p / f"state/step-{last:09}/state.safetensors") for p in (calm, killed))
    assert one.keys() == other.keys()
    assert {"noise", "choice", "losses", "ema.step", "optimizer.0.exp_inf"} < one.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    left = [path.name for path in (killed / "state").iterdir() if path.name.startswith(".")]
    assert not left, "leftovers of a kill are removed"


# Snapshots on disk.


def test_damaged_snapshots(digits: TensorImages, config: TrainConfig, tmp_path: Path) -> None:
    """A damaged one is an error; once it is removed, the run goes on from the one before."""
    calm = train(digits, config=config, out=tmp_path, progress=False)
    folders = [tmp_path / "state" / f"step-{step:09}" for step in (7, 8)]
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == ["initial", *(folder.name for folder in folders)]
    tensors, facts = folders[1] / "state.safetensors", folders[1] / "state.json"
    whole = tensors.read_bytes(), facts.read_text()
    for file, damaged, token in (
        (tensors, whole[0][:-1] + bytes([whole[0][-1] ^ 1]), "SHA-256"),
        (facts, whole[1][:-40].encode(), "remove it"),
        (facts, b"[]", "remove it"),
        (facts, b"[" * 100_000, "remove it"),
        (facts, b'{"format": 2}', "format"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=token):
            train(digits, config=config, out=tmp_path, resume=True, progress=False)
        tensors.write_bytes(whole[0])
        facts.write_text(whole[1])
    for file in (tensors, facts):
        file.rename(tmp_path / "whole")
        os.mkfifo(file)
        with pytest.raises(ValueError, match="regular"):
            train(digits, config=config, out=tmp_path, resume=True, progress=False)
        (tmp_path / "whole").replace(file)
    shutil.rmtree(folders[1])
    resumed = train(digits, config=config, out=tmp_path, resume=True, progress=False)
    assert everything(resumed) == everything(calm)


@pytest.mark.parametrize(
    ("changes", "token"),
    [
        ({"flow": MefConfig(steps=(1, 2), blocks=(1, 1), width=(8, 8))}, r"flow\.steps"),
        ({"batch_size": 20}, "batch_size was 10"),
        ({"seed": 1}, "seed was 0"),
        ({"dataset": DataConfig(test_fraction=0)}, "images to train on was"),
        ({"prior": TrainPriorConfig(kind="data")}, r"prior\.kind"),
    ],
)
def test_what_a_resumed_run_must_keep(
    changes: dict[str, Any], token: str, digits: TensorImages, config: TrainConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, epochs=1)
    train(digits, config=config, out=tmp_path, progress=False)
    other = dataclasses.replace(config, **changes)
    with (
        pytest.raises(ValueError, match=token),
        Run.open(tmp_path, other, resume=True) as run,
    ):
        train_run(run, digits, other, words={"data": "digits"}, progress=False)
    assert not (tmp_path / "train.yaml").exists(), "settings are saved after the check"


def test_more_epochs_and_the_solve_that_the_last_epoch_left_out(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve, solves = RunContext.solve, list[int]()

    def counted(self: RunContext, *args: Any) -> Any:
        solves.append(self.config.epochs)
        return solve(self, *args)

    monkeypatch.setattr(RunContext, "solve", counted)
    assert config.prior.refit_epoch == 1
    for epochs in (1, 3, 4):
        longer = dataclasses.replace(config, epochs=epochs)
        result = train(digits, config=longer, out=tmp_path, resume=True, progress=False)
    assert [row["step"] for row in result.history] == [4, 8, 12, 16]
    assert len(result.loss) == 16
    assert solves == [1, 3], "at the start, and after the first epoch that is not the last"
    prior = dataclasses.replace(config.prior, refit_epoch=5)
    later = dataclasses.replace(config, prior=prior, epochs=6)
    train(digits, config=later, out=tmp_path, resume=True, progress=False)
    assert solves == [1, 3, 6]


# Runs of earlier versions.


def fitting(config: TrainConfig, fit: str, **settings: Any) -> TrainConfig:
    fixed_point = FixedPointConfig(fit=fit, kld_weight=1.0, **settings)
    prior = dataclasses.replace(config.prior, fixed_point=fixed_point, schedule="twice")
    return dataclasses.replace(config, prior=prior)


def age(out: Path) -> None:
    """Give a run the records of an earlier version, in which no_class_sum was named released."""
    for file in out.glob("state/step-*/state.json"):
        facts = json.loads(file.read_text())
        del facts["sha256"]
        del facts["prior"]["schedule"]
        if facts["prior"]["kind"] == "fpi":
            del facts["prior"]["rules_version"]
            assert facts["prior"]["update"] == "no_class_sum"
            facts["prior"]["update"] = "released"
        text = json.dumps(facts, sort_keys=True)
        file.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), **facts}))
    if (out / "train.yaml").exists():
        text = (out / "train.yaml").read_text()
        assert text.count("no_class_sum") == 1
        (out / "train.yaml").write_text(text.replace("no_class_sum", "released"))


@pytest.mark.parametrize("stop", [2, 6])
@pytest.mark.parametrize("fit", ["both", "covariances"])
def test_a_run_of_an_earlier_version_goes_on_under_its_rule(
    fit: str, stop: int, digits: TensorImages, config: TrainConfig, tmp_path: Path, at_step: Any
) -> None:
    """Before and after the last solve; the default is another rule now."""
    settings = {"isotropic_mean_step": False, "update": "no_class_sum"}
    old = fitting(config, fit, **settings)
    calm = everything(train(digits, config=old, progress=False))
    at_step(stop, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        train(digits, config=old, out=tmp_path, progress=False)
    age(tmp_path)
    now = fitting(config, fit, isotropic_mean_step=False)
    assert now.prior.fixed_point.update == "released"
    with pytest.warns(UserWarning, match="'released' is now named 'no_class_sum'"):
        resumed = everything(train(digits, config=now, out=tmp_path, resume=True, progress=False))
    if stop > 4:  # no solve was left: the record is that of the earlier version
        assert calm["prior"].pop("rules_version") == 2
        assert calm["prior"].pop("schedule") == "twice"
    assert resumed == calm


def test_a_run_of_an_earlier_version_goes_on_with_its_schedule(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, at_step: Any
) -> None:
    """Gaussians of the data were found again after the first epoch."""
    old = dataclasses.replace(config, prior=TrainPriorConfig(kind="data", schedule="twice"))
    calm = everything(train(digits, config=old, progress=False))
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        train(digits, config=old, out=tmp_path, progress=False)
    age(tmp_path)
    now = dataclasses.replace(config, prior=TrainPriorConfig(kind="data", schedule="once"))
    resumed = everything(train(digits, config=now, out=tmp_path, resume=True, progress=False))
    assert resumed == calm


def test_the_isotropic_step_of_an_earlier_version_is_refused(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, at_step: Any
) -> None:
    config = fitting(config, "both", update="no_class_sum")
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        train(digits, config=config, out=tmp_path, progress=False)
    train(digits, config=config, out=tmp_path / "finished", progress=False)
    for out in (tmp_path, tmp_path / "finished"):
        age(out)
    with pytest.raises(ValueError, match="isotropic"):
        train(digits, config=config, out=tmp_path, resume=True, progress=False)
    # A finished run solves nothing more.
    finished = train(digits, config=config, out=tmp_path / "finished", resume=True, progress=False)
    assert "rules_version" not in finished.checkpoint.config.gaussians


@pytest.mark.filterwarnings("always::UserWarning")
def test_the_command_says_that_a_run_is_of_an_earlier_version(
    tmp_path: Path, at_step: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its settings are saved under the name of today."""
    out = tmp_path / "run"
    words = ["train", *_words(tmp_path, epochs=2), "--out", str(out)]
    words += ["--prior.fixed-point.fit", "covariances", "--prior.fixed-point.kld-weight", "1"]
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main([*words, "--prior.fixed-point.update", "no_class_sum"]) == 143
    age(out)
    capsys.readouterr()
    assert main(["train", "--resume", str(out)]) == 0
    assert "goes on under that rule" in capsys.readouterr().err
    settings = yaml.safe_load((out / "train.yaml").read_text())
    assert settings["prior"]["fixed_point"]["update"] == "no_class_sum"
    assert main(["train", "--resume", str(out)]) == 0
    assert "goes on under" not in capsys.readouterr().err


# Failures outside the run.


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """Make the disk full: a limit on the size of files stands in for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, at_step: Any, full_disk: Any
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(5, full_disk)
    with pytest.raises(RunStopped, match="step 4"):
        train(digits, config=config, out=tmp_path, progress=False)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in (tmp_path / "state").iterdir() if path.name.startswith(".")]
    resumed = train(digits, config=config, out=tmp_path, resume=True, progress=False)
    assert everything(resumed) == everything(train(digits, config=config, progress=False))


def test_a_disk_that_is_full_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], full_disk: Any
) -> None:
    words = ["train", *_words(tmp_path, epochs=1), "--out", str(tmp_path / "run")]
    full_disk()
    assert main(words) == 4
    printed = capsys.readouterr().err.splitlines()
    said = [line for line in printed if not line.startswith("opening")]  # after a second
    assert said[0] == "computing on the CPU"
    assert len(said) == 2, "and the error"


@pytest.mark.parametrize(("moment", "workers"), [("step", 0), ("step", 1), ("solve", 0)])
def test_images_lost_while_training(
    tiny_folder: Path,
    config: TrainConfig,
    tmp_path: Path,
    at_step: Any,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    workers: int,
) -> None:
    folder, out = Path(shutil.copytree(tiny_folder, tmp_path / "data")), tmp_path / "run"
    settings = DataConfig(memory_gib=0, workers=workers, test_fraction=0)
    config = dataclasses.replace(config, dataset=settings)
    solve = RunContext.solve

    def lose() -> None:
        for image in folder.glob("*/*.png"):
            image.write_bytes(image.read_bytes()[:50])

    def losing(self: RunContext, *args: Any) -> Any:
        if out.joinpath("state").exists():  # the second solve
            lose()
        return solve(self, *args)

    if moment == "step":
        at_step(5, lose)
    else:
        monkeypatch.setattr(RunContext, "solve", losing)
    with pytest.raises(RunStopped, match=r"\.png") as caught:
        train(open_dataset(folder), config=config, out=out, progress=False)
    monkeypatch.undo()
    assert "Traceback" not in str(caught.value)
    assert caught.value.exit_code == 4
    shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
    resumed = train(open_dataset(folder), config=config, out=out, resume=True, progress=False)
    calm = train(open_dataset(tiny_folder), config=config, progress=False)
    assert everything(resumed) == everything(calm)


# Signals.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_after_a_signal(
    tmp_path: Path, at_step: Any, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    words = ["train", *_words(tmp_path, epochs=1), "--out", str(tmp_path / "run")]
    at_step(3, lambda: os.kill(os.getpid(), number))
    assert main(words) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step 3" in error
    resume = error.partition("resume with nfaug ")[2].split()
    assert resume == ["train", "--resume", str(tmp_path / "run")]
    for wrong, token in (
        (words, "--resume"),
        ([*resume, "--out", str(tmp_path / "other")], "--out"),
        ([*resume, "--overwrite"], "--overwrite"),
        ([*resume, "--checkpoint=elsewhere"], "--checkpoint"),
        (["train", "--resume", str(tmp_path)], "train.yaml"),
    ):
        assert main(wrong) == 2
        assert token in capsys.readouterr().err
    assert main([*resume, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 4
    shutil.rmtree(tmp_path / "run" / "state")
    assert main(resume) == 2, "it would start from nothing"
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_to_all_processes(
    tiny_folder: Path, config: TrainConfig, tmp_path: Path, at_step: Any, workers: int
) -> None:
    """As `timeout` and a job manager send it: workers that read images leave it to the run."""
    settings = DataConfig(memory_gib=0, workers=workers, test_fraction=0)
    config = dataclasses.replace(config, dataset=settings, checkpoint_minutes=10)

    def stop() -> None:
        children = torch.multiprocessing.active_children() if workers else []
        assert len(children) >= workers
        for process in (os.getpid(), *(child.pid for child in children)):
            assert process is not None
            os.kill(process, signal.SIGTERM)

    at_step(2, stop)
    with pytest.raises(Interrupted) as error:
        train(open_dataset(tiny_folder), config=config, out=tmp_path, progress=False)
    assert error.value.exit_code == 143
    assert Snapshots(tmp_path).steps()[-1] == 2


def test_a_signal_after_the_last_step(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its usual effect once the state is saved."""
    save = Snapshots.save

    def signalled(self: Snapshots, snapshot: Snapshot) -> None:
        if snapshot.facts["finished"]:
            os.kill(os.getpid(), signal.SIGINT)
        save(self, snapshot)

    monkeypatch.setattr(Snapshots, "save", signalled)
    with pytest.raises(KeyboardInterrupt):
        train(digits, config=config, out=tmp_path, progress=False)
    monkeypatch.undo()
    assert Snapshots(tmp_path).steps()[-1] == STEPS
    resumed = train(digits, config=config, out=tmp_path, resume=True, progress=False)
    assert [row["step"] for row in resumed.history] == [4, 8]


# The clock.


def test_a_run_whose_time_is_over_takes_no_more_steps(
    tiny_images: TensorImages,
    tiny_config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock on which each step takes a second."""
    clock, forward = 0.0, loop.FlowLoss.forward
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock))

    def watched(self: loop.FlowLoss, *given: Any) -> Any:
        nonlocal clock
        clock += 1
        return forward(self, *given)

    monkeypatch.setattr(loop.FlowLoss, "forward", watched)

    def steps(seconds: float, *, resume: bool = True) -> int:
        config = dataclasses.replace(tiny_config, epochs=20, max_minutes=seconds / 60)
        result = train(tiny_images, config=config, out=tmp_path, resume=resume, progress=False)
        return int(result.checkpoint.config.training["steps"])

    assert [steps(7, resume=False), steps(7), steps(9)] == [7, 7, 9]


@pytest.mark.filterwarnings("always::RuntimeWarning")
def test_exit_code_of_divergence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *_words(tmp_path, epochs=9), "--out", str(tmp_path / "run"), "--lr", "1e9"]
    assert main([*words, "--optim.warmup-steps", "0"]) == 3
    error = capsys.readouterr().err
    assert "warning: " in error
    assert "step 0" in error
    assert "TrainingDiverged" in error
