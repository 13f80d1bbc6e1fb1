"""A stopped run resumes bit for bit: after signals, kills, full disks and lost images."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kill_tools import killed_runs
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from nfaug.cli import main
from nfaug.data.images import TensorImages
from nfaug.hub import plan_push
from nfaug.training import (
    Interrupted,
    RunStopped,
    TrainConfig,
    TrainResult,
    open_dataset,
    train,
    trainer,
)
from nfaug.training.augmentation import FlowAugmentation
from nfaug.training.config import DataConfig, FlowSettings, PriorConfig
from nfaug.training.run import loop
from nfaug.training.run.context import RunContext
from nfaug.training.run.interruption import SignalGuard
from nfaug.training.run.snapshots import FolderStates

STEPS = 8  # of a whole run: 4 per epoch


@pytest.fixture
def config(tiny_config: TrainConfig) -> TrainConfig:
    """Every source of randomness is on, and a state is saved after every step."""
    return dataclasses.replace(
        tiny_config,
        batch_size=10,
        trackers=(),
        pictures_every=0,
        checkpoint_minutes=1e-9,
        dataset=DataConfig(val_fraction=0.1),
        augmentation=FlowAugmentation(hflip=True, pad_crop=1),
    )


@pytest.fixture(scope="module")
def digits() -> TensorImages:
    """40 digits of each of the classes 0 and 1."""
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
    clocks = ("seconds", "images_per_second")
    rows = [{k: v for k, v in row.items() if k not in clocks} for row in result.history]
    return tensors | {"rows": rows, "loss": result.loss, "prior": checkpoint.config.gaussians}


@pytest.mark.parametrize("stop", [1, 4, 6, STEPS])
def test_an_interrupted_run_resumes_bit_for_bit(
    digits: TensorImages,
    config: TrainConfig,
    tmp_path: Path,
    at_step: Any,
    stop: int,
) -> None:
    calm = train(digits, config, progress=False)
    assert len(calm.loss) == STEPS
    at_step(stop, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match=f"step {stop}") as error:
        train(digits, config, folder=tmp_path, progress=False)
    assert error.value.exit_code == 130
    assert FolderStates(tmp_path).steps()[-1] == stop
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = train(digits, config, folder=tmp_path, resume=True, progress=False)
    assert everything(resumed) == everything(calm)
    # Resuming a finished run computes only its end again.
    again = train(digits, config, folder=tmp_path, resume=True, progress=False)
    assert everything(again) == everything(calm)
    initial, expected = again.initial, calm.initial
    assert initial is not None
    assert expected is not None
    for one, other in zip(initial.flow.parameters(), expected.flow.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_killed_command_resumes_bit_for_bit(tmp_path: Path) -> None:
    summary = killed_runs(_words(tmp_path, epochs=6), tmp_path, kills=3, seed=0)
    _assert_same(tmp_path)
    assert summary["kills"] == 3


@pytest.mark.soak
def test_twenty_kills(tmp_path: Path) -> None:
    summary = killed_runs(_words(tmp_path, epochs=60), tmp_path, kills=20, seed=1)
    _assert_same(tmp_path)
    assert summary["kills"] == 20
    assert len(set(summary["steps"])) > 10, summary  # type: ignore[call-overload]
    print(summary)


def _words(folder: Path, epochs: int) -> list[str]:
    """Options of a run on digits that saves after every step, so that kills hit saves."""
    settings = folder / "settings.yaml"
    settings.write_text(
        f"""
        pictures: false
        trackers: []
        epochs: {epochs}
        batch_size: 25
        checkpoint_minutes: 1.0e-9
        flow: {{steps: [1, 1], blocks: [1, 1], width: [8, 8]}}
        prior: {{fixed_point: {{kld_weight: 20}}, refit_epoch: 2}}
        pca: {{rank: 4, max_per_class: 6}}
        dataset: {{per_class: 10}}
        augmentation: {{rotation: 5}}
        """
    )
    return ["--data", "digits", "-c", str(settings)]


def _assert_same(folder: Path) -> None:
    """Compare every weight, axis, moment and generator."""
    calm, killed = folder / "calm", folder / "killed"
    for name in ("model", "gaussians", "pca"):
        file = f"{name}.safetensors"
        assert (calm / file).read_bytes() == (killed / file).read_bytes(), name
    (last,) = {FolderStates(path).steps()[-1] for path in (calm, killed)}
    one, other = (load_file(p / f"state/step-{last:09}/state.safetensors") for p in (calm, killed))
    assert one.keys() == other.keys()
    assert {"noise", "choice", "losses", "ema.step", "optimizer.0.exp_inf"} < one.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different
    left = [path.name for path in (killed / "state").iterdir() if path.name.startswith(".")]
    assert not left, "leftovers of a kill are removed"


# States on disk.


def test_kept_states(digits: TensorImages, config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, keep_checkpoints=3)
    result = train(digits, config, folder=tmp_path, progress=False)
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == ["initial", *(f"step-{n:09}" for n in (6, 7, 8))]
    state = tmp_path / "state" / "step-000000008"
    assert sorted(path.name for path in state.iterdir()) == ["state.json", "state.safetensors"]
    facts = json.loads((state / "state.json").read_text())
    assert facts["optimizer"]["steps"] == STEPS
    assert facts["finished"] is True
    # A push takes only the files that config.json lists.
    result.checkpoint.save(tmp_path, overwrite=True)
    assert FolderStates(tmp_path).steps() == [6, 7, 8]
    pushed = set(plan_push(tmp_path).files)
    assert pushed == {
        *("README.md", "config.json"),
        *(f"{name}.safetensors" for name in ("model", "gaussians", "pca")),
    }


def test_states_that_cannot_be_used(
    digits: TensorImages, config: TrainConfig, tmp_path: Path
) -> None:
    train(digits, config, folder=tmp_path, progress=False)

    def resumed(images: TensorImages, **changes: Any) -> TrainResult:
        settings = dataclasses.replace(config, **changes)
        return train(images, settings, folder=tmp_path, resume=True, progress=False)

    with pytest.raises(ValueError, match="--data"):
        resumed(digits.subset(torch.arange(20, 40) % 40))
    with pytest.raises(ValueError, match="shape"):
        resumed(digits, flow=FlowSettings(steps=(1, 2), blocks=(1, 1), width=(8, 8)))
    # More images would never end an epoch; larger batches would end the run at once.
    for changes in ({"batch_size": 20}, {"seed": 1}, {"dataset": DataConfig(val_fraction=0)}):
        with pytest.raises(ValueError, match="batch_size 10"):
            resumed(digits, **changes)
    tensors = tmp_path / "state" / "step-000000008" / "state.safetensors"
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="SHA-256"):
        resumed(digits)
    shutil.rmtree(tensors.parent)
    assert resumed(digits).history[-1]["step"] == STEPS
    (tensors.parent / "state.json").write_text('{"format": 3}')
    with pytest.raises(ValueError, match="format"):
        resumed(digits)


def _edited(facts: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**facts, **changes})


def test_an_edited_or_damaged_state(
    digits: TensorImages, config: TrainConfig, tmp_path: Path
) -> None:
    """Every change of state.json is one documented error."""
    train(digits, config, folder=tmp_path, progress=False)
    file = tmp_path / "state" / "step-000000008" / "state.json"
    text = file.read_text()
    facts = json.loads(text)
    for damaged, token in (
        (_edited(facts, epoch=1), "SHA-256"),
        (_edited(facts, rollbacks=1), "SHA-256"),
        (_edited(facts, plan=[1]), "SHA-256"),
        ("", "damaged"),
        ("[]", "object"),
        ("[" * 100_000, "damaged"),
        (text[:-40], "damaged"),
        (_edited({"format": 2}), "state_sha256"),
    ):
        file.write_text(damaged)
        with pytest.raises(ValueError, match=token) as caught:
            train(digits, config, folder=tmp_path, resume=True, progress=False)
        assert "step 7" in str(caught.value)


def test_a_state_of_an_earlier_version(
    tiny_folder: Path, config: TrainConfig, tmp_path: Path
) -> None:
    """It resumes with a warning; one that does not fit the run is a documented error."""
    data = open_dataset(tiny_folder)
    calm = train(data, config, folder=tmp_path, progress=False)
    (file,) = (tmp_path / "state").glob("step-*8/state.json")
    facts = json.loads(file.read_text()) | {"format": 1}
    del facts["contents"], facts["state_sha256"]
    file.write_text(json.dumps(facts))
    with pytest.warns(UserWarning, match="earlier"):
        resumed = train(data, config, folder=tmp_path, resume=True, progress=False)
    assert everything(resumed) == everything(calm)
    facts["sha256"] = json.loads(file.read_text())["sha256"]
    for changes in ({"history": 3}, {"optimizer": {"steps": 8}}, {"prior": None}):
        file.write_text(_edited(facts, **changes))
        with pytest.warns(UserWarning, match="earlier"), pytest.raises(ValueError, match="damaged"):
            train(data, config, folder=tmp_path, resume=True, progress=False)


def test_other_images_of_the_same_names_and_sizes(
    config: TrainConfig, tmp_path: Path, images_folder: Path
) -> None:
    """The classes of a folder of bitmaps are swapped."""
    out = tmp_path / "run"
    train(open_dataset(images_folder), config, folder=out, progress=False)
    one, other = (sorted((images_folder / name).iterdir()) for name in "ab")
    for first, second in zip(one, other, strict=True):
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    with pytest.raises(ValueError, match="--data"):
        train(open_dataset(images_folder), config, folder=out, resume=True, progress=False)


@pytest.fixture
def images_folder(tmp_path: Path) -> Path:
    """Two classes of ten bitmaps, all of one size in bytes."""
    generator = torch.Generator().manual_seed(0)
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            pixels = torch.randint(256, (8, 8), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "images" / name / f"{number}.bmp")
    return tmp_path / "images"


def test_more_epochs_than_before(digits: TensorImages, config: TrainConfig, tmp_path: Path) -> None:
    train(digits, config, folder=tmp_path, progress=False)
    longer = dataclasses.replace(config, epochs=3)
    result = train(digits, longer, folder=tmp_path, resume=True, progress=False)
    assert [row["step"] for row in result.history] == [4, 8, 12]
    assert len(result.loss) == 12


def test_a_solve_that_the_last_epoch_left_out_is_made_up_for(
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
        train(digits, longer, folder=tmp_path, resume=True, progress=False)
    assert solves == [1, 3], "at the start, and after the first epoch that is not the last"
    later = dataclasses.replace(config, prior=PriorConfig(refit_epoch=5), epochs=6)
    train(digits, later, folder=tmp_path, resume=True, progress=False)
    assert solves == [1, 3, 6]


def test_an_older_state_is_solved_again_when_it_is_due(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(config, prior=PriorConfig(refit_epoch=3))
    train(digits, config, folder=tmp_path, progress=False)
    newest, solve, solves = FolderStates.newest, RunContext.solve, list[int]()

    def older(self: FolderStates) -> Any:
        snapshot = newest(self)
        assert snapshot is not None
        del snapshot.facts["refitted"]
        return snapshot

    def counted(self: RunContext, *args: Any) -> Any:
        solves.append(1)
        return solve(self, *args)

    monkeypatch.setattr(FolderStates, "newest", older)
    monkeypatch.setattr(RunContext, "solve", counted)
    longer = dataclasses.replace(config, epochs=4)
    train(digits, longer, folder=tmp_path, resume=True, progress=False)
    assert solves == [1]


def test_what_a_resumed_run_must_keep(
    digits: TensorImages, config: TrainConfig, tmp_path: Path
) -> None:
    train(digits, config, folder=tmp_path, progress=False)
    begun: list[str] = []
    for kind in ("single", "data"):
        other = dataclasses.replace(config, prior=PriorConfig(kind=kind), epochs=3)
        with pytest.raises(ValueError, match=f"'{kind}'"):
            train(
                digits, other, folder=tmp_path, resume=True, progress=False,
                begin=lambda: begun.append("settings are saved"),
            )  # fmt: skip
    assert not begun


def test_a_state_of_another_kind_of_device(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(digits, config, folder=tmp_path, progress=False)
    newest = FolderStates.newest

    def of_a_gpu(self: FolderStates) -> Any:
        snapshot = newest(self)
        assert snapshot is not None
        snapshot.tensors["noise"] = torch.arange(16, dtype=torch.uint8)  # as CUDA's generators
        return snapshot

    monkeypatch.setattr(FolderStates, "newest", of_a_gpu)
    longer = dataclasses.replace(config, epochs=3)
    with pytest.warns(UserWarning, match="device"):
        result = train(digits, longer, folder=tmp_path, resume=True, progress=False)
    assert len(result.loss) == 12


def test_a_new_run_has_no_pictures_of_the_old_one(
    digits: TensorImages, config: TrainConfig, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("latents", "mine"):
        (pictures / f"{name}.png").write_bytes(b"old")
    train(digits, config, folder=tmp_path, progress=False)
    assert (pictures / "latents.png").read_bytes() == b"old", "there was no run"
    train(digits, config, folder=tmp_path, progress=False)
    assert [file.name for file in pictures.iterdir()] == ["mine.png"]


# Failures outside the run.


def test_a_disk_that_fills_up(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, at_step: Any
) -> None:
    """A file-size limit stands in for a full disk."""
    calm = train(digits, config, progress=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = (4096, before[1])
    at_step(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, full))
    try:
        with pytest.raises(RunStopped, match="step 4"):
            train(digits, config, folder=tmp_path, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in (tmp_path / "state").iterdir() if path.name.startswith(".")]
    resumed = train(digits, config, folder=tmp_path, resume=True, progress=False)
    assert everything(resumed) == everything(calm)


@pytest.mark.parametrize(("what", "workers"), [("folder", 0), ("image", 0), ("image", 1)])
def test_images_lost_while_training(
    tiny_folder: Path,
    config: TrainConfig,
    tmp_path: Path,
    at_step: Any,
    what: str,
    workers: int,
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    settings = DataConfig(memory_gib=0, workers=workers, val_fraction=0)
    config = dataclasses.replace(config, dataset=settings, checkpoint_minutes=10)

    def lose() -> None:
        if what == "folder":
            shutil.rmtree(folder)
            return
        for image in folder.glob("*/*.png"):
            image.write_bytes(image.read_bytes()[:50])

    at_step(5, lose)
    out = tmp_path / "run"
    with pytest.raises(RunStopped, match=r"\.png") as caught:
        train(open_dataset(folder), config, folder=out, progress=False)
    assert "Traceback" not in str(caught.value)
    assert caught.value.exit_code == 4
    (saved,) = FolderStates(out).steps()[-1:]
    assert saved >= 5, "no step is lost"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_folder, folder)
    resumed = train(open_dataset(folder), config, folder=out, resume=True, progress=False)
    calm = train(open_dataset(tiny_folder), config, progress=False)
    assert everything(resumed) == everything(calm)


@pytest.mark.parametrize("gone", [True, False])
def test_images_lost_at_an_evaluation(
    tiny_folder: Path,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gone: bool,
) -> None:
    """After the second solve: the resumed run repeats solve and evaluation, bit for bit."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    settings = DataConfig(memory_gib=0, workers=0, val_fraction=0)
    config = dataclasses.replace(config, dataset=settings, checkpoint_minutes=10)
    out = tmp_path / "run"
    solve = RunContext.solve
    calls = 0

    def losing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        solved = solve(*args)
        if calls == 2:
            for image in folder.glob("*/*.png"):
                content = image.read_bytes()
                image.unlink()
                if not gone:
                    image.write_bytes(content[:50])
        return solved

    monkeypatch.setattr(RunContext, "solve", losing)
    with pytest.raises(RunStopped, match=r"\.png.* step 4"):
        train(open_dataset(folder), config, val=open_dataset(folder), folder=out, progress=False)
    monkeypatch.undo()
    shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
    data = open_dataset(folder)
    resumed = train(data, config, val=data, folder=out, resume=True, progress=False)
    calm = train(data, config, val=data, progress=False)
    assert everything(resumed) == everything(calm)


def test_images_lost_at_the_end(
    tiny_folder: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    settings = DataConfig(memory_gib=0, workers=0, val_fraction=0)
    config = dataclasses.replace(config, epochs=1, dataset=settings)
    finish = trainer._finish

    def losing(*args: Any) -> TrainResult:
        shutil.rmtree(folder)
        return finish(*args)

    monkeypatch.setattr(trainer, "_finish", losing)
    with pytest.raises(RunStopped, match=r"\.png.* step 4") as caught:
        train(open_dataset(folder), config, folder=tmp_path / "run", progress=False)
    assert caught.value.exit_code == 4


def test_a_signal_at_the_last_evaluation(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = loop.Loop._evaluate

    def signalled(self: loop.Loop) -> None:
        evaluate(self)
        if self.state.optimizer.steps == STEPS:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Loop, "_evaluate", signalled)
    with pytest.raises(Interrupted, match=f"step {STEPS}") as caught:
        train(digits, config, folder=tmp_path, progress=False)
    assert caught.value.exit_code == 143
    monkeypatch.undo()
    resumed = train(digits, config, folder=tmp_path, resume=True, progress=False)
    assert [row["step"] for row in resumed.history] == [4, 8]


# The command.


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_exit_codes_of_signals(
    tmp_path: Path,
    at_step: Any,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    words = ["train", *_words(tmp_path, epochs=1), "--out", str(tmp_path / "run")]
    at_step(3, lambda: os.kill(os.getpid(), number))
    assert main(words) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert "step 3" in error
    resume = error.partition("resume with nfaug ")[2].split()
    assert resume == ["train", "--resume", str(tmp_path / "run")]
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(resume) == 0
    assert "steps                    4" in capsys.readouterr().out
    assert main([*resume, "--out", str(tmp_path / "other")]) == 2
    assert "--out" in capsys.readouterr().err
    for option in ("--overwrite", "--init=elsewhere"):
        assert main([*resume, option]) == 2
        assert option.partition("=")[0] in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert "train.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(("workers", "step"), [(0, 3), (1, 2), (1, 3)])
def test_a_signal_to_all_processes_and_twice(
    tiny_folder: Path, config: TrainConfig, tmp_path: Path, at_step: Any, workers: int, step: int
) -> None:
    """As `timeout`, a job manager and torchrun send it: also to workers that read images."""
    settings = DataConfig(memory_gib=0, workers=workers, val_fraction=0)
    config = dataclasses.replace(config, dataset=settings, checkpoint_minutes=10)

    def stop() -> None:
        children = torch.multiprocessing.active_children()
        assert len(children) == workers
        for process in (os.getpid(), *(child.pid for child in children), os.getpid()):
            os.kill(process, signal.SIGTERM)
        for child in children:
            child.join()

    at_step(step, stop)
    with pytest.raises(Interrupted, match=f"step {step}") as error:
        train(open_dataset(tiny_folder), config, folder=tmp_path, progress=False)
    assert error.value.exit_code == 143
    assert FolderStates(tmp_path).steps()[-1] == step


def test_a_signal_that_ends_the_workers_of_an_evaluation(
    tiny_folder: Path, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DataConfig(memory_gib=0, workers=1, val_fraction=0)
    config = dataclasses.replace(config, dataset=settings, checkpoint_minutes=10)
    lost = "DataLoader worker (pid 1) exited unexpectedly"

    def signalled(self: loop.Loop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError(lost)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_evaluate", signalled)
        with pytest.raises(Interrupted, match="resume"):
            train(open_dataset(tiny_folder), config, folder=tmp_path, progress=False)
    assert FolderStates(tmp_path).steps()[-1] == 4
    resumed = train(open_dataset(tiny_folder), config, folder=tmp_path, resume=True, progress=False)
    calm = train(open_dataset(tiny_folder), config, progress=False)
    assert everything(resumed) == everything(calm)


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
        result = train(tiny_images, config, folder=tmp_path, resume=resume, progress=False)
        return int(result.checkpoint.config.training["steps"])

    assert [steps(7, resume=False), steps(7), steps(9)] == [7, 7, 9]


def test_the_time_before_a_stop_counts(
    tiny_images: TensorImages,
    tiny_config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped after 3,590 s of 3,600, a run ends once 30 s more are over."""
    config = dataclasses.replace(tiny_config, epochs=10, max_minutes=60.0)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later)
    monkeypatch.setattr(loop, "time", clock)
    forward, calls, later = loop.FlowLoss.forward, 0, 0.0

    def watched(self: loop.FlowLoss, *given: Any) -> Any:
        nonlocal calls, later
        calls += 1
        if calls == 3:
            later = 3590.0
            os.kill(os.getpid(), signal.SIGTERM)
        if calls == 5:
            later += 30
        return forward(self, *given)

    monkeypatch.setattr(loop.FlowLoss, "forward", watched)
    with pytest.raises(Interrupted):
        train(tiny_images, config, folder=tmp_path, progress=False)
    later = 0.0  # another process, whose clock starts anew
    calls = 3
    result = train(tiny_images, config, folder=tmp_path, resume=True, progress=False)
    assert result.checkpoint.config.training["steps"] == 5


def test_a_signal_while_handlers_are_restored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD)}
    guard = SignalGuard()
    with guard:
        guard._record(signal.SIGTERM, None)
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    assert {number: signal.getsignal(number) for number in before} == before
    assert guard.previous == {}


def test_an_ignored_hangup_stays_ignored(
    digits: TensorImages, config: TrainConfig, tmp_path: Path, at_step: Any
) -> None:
    """As under nohup: the run continues after its terminal closes."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step(3, lambda: os.kill(os.getpid(), signal.SIGHUP))
        result = train(digits, config, folder=tmp_path, progress=False)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(result.loss) == STEPS


@pytest.mark.filterwarnings("always::RuntimeWarning")
def test_exit_code_of_divergence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *_words(tmp_path, epochs=9), "--out", str(tmp_path / "run"), "--lr", "1e9"]
    assert main([*words, "--optim.warmup-steps", "0", "--optim.max-rollbacks", "1"]) == 3
    error = capsys.readouterr().err
    assert "warning: " in error
    assert "step 0" in error
    assert "TrainingDiverged" in error
