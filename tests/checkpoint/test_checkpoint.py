from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_tools import sign
from nfa_tools import NAMES, images_of
from safetensors.torch import load_file, save_file

import nfaug
from nfaug.checkpoint.checkpoint import (
    Checkpoint,
    CheckpointConfig,
    CheckpointError,
    load,
    verify,
)
from nfaug.flows.flow import Flow, FlowConfig
from nfaug.gaussians.gaussians import ClassGaussians
from nfaug.training import TrainResult

DATA = Path(__file__).parents[1] / "data"
FILES = ["config.json", "gaussians.safetensors", "model.safetensors", "pca.safetensors"]


@pytest.fixture
def path(tiny_path: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be damaged."""
    return Path(shutil.copytree(tiny_path, tmp_path / "flow"))


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    sign(file.parent)


def same(one: Checkpoint, two: Checkpoint) -> None:
    assert one.config == two.config
    for first, second in ((one.flow, two.flow), (one.gaussians, two.gaussians), (one.pca, two.pca)):
        assert first is not None
        assert second is not None
        states = first.state_dict(), second.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_round_trip(tiny_path: Path, tmp_path: Path) -> None:
    assert sorted(file.name for file in tiny_path.iterdir()) == FILES
    once = Checkpoint.load(tiny_path)
    assert not once.flow.training
    assert once.config.class_names == NAMES
    # Saving what was loaded gives the same bytes.
    once.save(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tiny_path / name).read_bytes()
    same(once, load(str(tmp_path / "again")))
    assert load(tiny_path).to("cpu").flow.device.type == "cpu"


def test_what_was_trained_is_what_is_loaded(tiny_result: TrainResult, tiny_path: Path) -> None:
    same(tiny_result.checkpoint, _as_written(Checkpoint.load(tiny_path), tiny_result.checkpoint))


def _as_written(loaded: Checkpoint, made: Checkpoint) -> Checkpoint:
    """The configuration with JSON's lists as the tuples that they were."""
    assert json.loads(json.dumps(dataclasses.asdict(made.config))) == json.loads(
        json.dumps(dataclasses.asdict(loaded.config))
    )
    return dataclasses.replace(loaded, config=made.config)


def test_files_are_readable_by_others(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        tiny_checkpoint.save(tmp_path / "flow")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / "flow" / name).stat().st_mode) for name in FILES}
    assert modes == {0o644}


def test_parts_that_are_not_there(tiny_checkpoint: Checkpoint, path: Path) -> None:
    """An old memory does not survive beside a new flow, the user's own files do."""
    (path / "README.md").write_text("mine")
    config = CheckpointConfig(tiny_checkpoint.flow.config)
    Checkpoint(tiny_checkpoint.flow, config).save(path, overwrite=True)
    assert sorted(file.name for file in path.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = load(path)
    assert loaded.gaussians is None
    assert loaded.pca is None
    assert loaded.config == config


def test_one_gaussian_without_classes(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    dim = tiny_checkpoint.flow.config.dim
    single = ClassGaussians(torch.zeros(1, dim), torch.ones(1, dim))
    config = CheckpointConfig(tiny_checkpoint.flow.config)
    Checkpoint(tiny_checkpoint.flow, config, single).save(tmp_path / "flow")
    loaded = load(tmp_path / "flow")
    assert loaded.gaussians is not None
    assert loaded.gaussians.num_classes == 1


def test_any_text_may_be_a_class_name(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    names = ("näme ✓", "<b>\n", '"\\')
    config = dataclasses.replace(tiny_checkpoint.config, class_names=names)
    dataclasses.replace(tiny_checkpoint, config=config).save(tmp_path / "flow")
    assert load(tmp_path / "flow").config.class_names == names


def test_figures_that_are_not_finite_are_null(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    metrics = {"bits_per_dim": math.nan, "each": (1.0, math.inf), "deep": {"x": -math.inf}}
    config = dataclasses.replace(tiny_checkpoint.config, metrics=metrics)
    dataclasses.replace(tiny_checkpoint, config=config).save(tmp_path / "flow")

    def refuse(value: str) -> None:
        raise AssertionError(value)

    text = (tmp_path / "flow" / "config.json").read_text()
    json.loads(text, parse_constant=refuse)
    assert load(tmp_path / "flow").config.metrics == {
        "bits_per_dim": None,
        "each": [1.0, None],
        "deep": {"x": None},
    }


def test_a_value_that_json_does_not_have(tiny_checkpoint: Checkpoint, path: Path) -> None:
    config = dataclasses.replace(tiny_checkpoint.config, training={"device": torch.device("cpu")})
    with pytest.raises(TypeError, match="JSON has no device"):
        dataclasses.replace(tiny_checkpoint, config=config).save(path, overwrite=True)
    same(load(path), tiny_checkpoint)


def test_version_1_is_readable_for_ever() -> None:
    expected = load_file(DATA / "checkpoint_v1_expected.safetensors")
    checkpoint = load(DATA / "checkpoint_v1")
    assert checkpoint.config.class_names == ("cat", "dög", "eel")
    assert checkpoint.config.metrics["on"] == "36 held-out images"
    gaussians, pca, flow = checkpoint.gaussians, checkpoint.pca, checkpoint.flow
    assert gaussians is not None
    assert pca is not None
    assert pca.memory is not None
    assert len(pca.memory) == 36
    images, labels = expected["images"], expected["labels"]
    # Frozen, large shifts of the constant margin pass a convolution before they cancel.
    for each, tolerance in ((flow, 1e-5), (flow.freeze(), 2e-4)):
        with torch.no_grad():
            z, logdet = each.encode(images)
            assert (z - expected["z"]).abs().max() < tolerance * expected["z"].abs().max()
            torch.testing.assert_close(logdet, expected["logdet"], rtol=tolerance, atol=0)
            assert torch.equal(each.decode(z), images)
            off = each.decode(expected["mixed"]).int() - expected["decoded_mixed"].int()
        assert off.abs().max() <= 1, "a rounding edge is worth one level"
        assert (off != 0).float().mean() < 0.01
    z = expected["z"]
    torch.testing.assert_close(gaussians.log_prob(z), expected["log_prob"], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        pca.project(z, labels), expected["coefficients"], rtol=1e-4, atol=1e-4
    )
    nfa = nfaug.NFAugment(checkpoint, p=1.0, generator=torch.Generator().manual_seed(0))
    new, _ = nfa(images, labels)
    assert not torch.equal(new, images)


# What was damaged, and what must be said about it.


def test_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no nfaug checkpoint: it has no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="is not an nfaug configuration: no format_version"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint directory, and no repository name"):
        load(tmp_path / "no-such")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="no checkpoint directory"):
        load(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="no checkpoint directory"):
        load("./no-such")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=f"{name} is (not (a )?readable|damaged)"):
        load(path)
    if name != "config.json":
        sign(path)  # and signed by somebody
        with pytest.raises(CheckpointError, match=f"{name} is not a readable safetensors file"):
            load(path)


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("place", [0.02, 0.5, 0.99])
def test_a_flipped_byte(path: Path, name: str, place: float) -> None:
    data = bytearray((path / name).read_bytes())
    data[int(place * len(data))] ^= 0x10
    (path / name).write_bytes(data)
    damaged = f"{name} is (damaged or from another checkpoint|not a readable safetensors file)"
    with pytest.raises(CheckpointError, match=damaged):
        load(path)
    with pytest.raises(CheckpointError, match=damaged):
        verify(path)


def test_a_changed_configuration(path: Path) -> None:
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text.replace('"cat"', '"cow"'))
    with pytest.raises(CheckpointError, match=r"config\.json was changed after it was written"):
        load(path)
    (path / "config.json").write_text(text.replace('"seed": 0', '"seed": NaN'))
    with pytest.raises(
        CheckpointError, match=r"config\.json is not readable as JSON: JSON has no NaN"
    ):
        load(path)
    (path / "config.json").write_bytes(b"\xff{}")
    with pytest.raises(CheckpointError, match=r"config\.json is not readable as JSON"):
        load(path)
    (path / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json is not readable as JSON"):
        load(path)
    with (path / "config.json").open("wb") as file:
        file.truncate(2**27)
    with pytest.raises(CheckpointError, match="it is longer than"):
        load(path)


@pytest.mark.parametrize("version", [2, "1", None, 1.5, True, 1.0])
def test_an_unknown_version(path: Path, version: object) -> None:
    sign(path, lambda values: values.update(format_version=version))
    with pytest.raises(CheckpointError, match=r"this nfaug reads 1\. A newer nfaug may read it"):
        load(path)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_missing_file(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing; config\.json lists it"):
        verify(path)


def test_a_file_of_another_checkpoint(path: Path, tmp_path: Path) -> None:
    for name in FILES[1:]:
        mine = (path / name).read_bytes()
        (path / name).write_bytes((DATA / "checkpoint_v1" / name).read_bytes())
        with pytest.raises(CheckpointError, match=f"{name} is damaged or from another checkpoint"):
            load(path)
        sign(path)
        with pytest.raises(CheckpointError, match=name):
            load(path)
        (path / name).write_bytes(mine)
        sign(path)
    load(path)
    (path / "config.json").write_bytes((DATA / "checkpoint_v1" / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="damaged or from another checkpoint"):
        load(path)


def test_two_files_swapped(path: Path) -> None:
    one, two = path / "gaussians.safetensors", path / "pca.safetensors"
    data = one.read_bytes(), two.read_bytes()
    one.write_bytes(data[1])
    two.write_bytes(data[0])
    with pytest.raises(CheckpointError, match="damaged or from another checkpoint"):
        load(path)
    sign(path)
    with pytest.raises(
        CheckpointError, match=r"gaussians\.safetensors is damaged or .* holds .* need"
    ):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [2, 1]}, r"missing blocks\.0\.1\.actnorm"),
        ({"steps": [1], "blocks": [1], "width": [8]}, r"unexpected blocks\.1\.0\.actnorm"),
        ({"width": [16, 8]}, r"misshapen .*\(8, .*instead of \(16, "),
        ({"steps": [500, 1]}, "the two do not belong together"),
        ({"channels": 3}, "misshapen"),
        ({"steps": [10**9, 1]}, "this flow is too large"),
        ({"padded_size": [9, 9]}, "cannot be halved"),
        ({"channels": "three"}, "channels"),
        ({"attention": True}, r"unknown flow settings \['attention'\]"),
        ({"backbone": "real-nvp"}, "real-nvp"),
        ({"steps": None}, "steps"),
    ],
)
def test_a_configuration_that_does_not_match(
    path: Path, change: dict[str, object], message: str
) -> None:
    sign(path, lambda values: values["flow"].update(change))
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_one_error_lists_every_key(path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["foreign"] = torch.zeros(1)
        del tensors["blocks.0.0.conv1x1.weight"]
        tensors["blocks.1.0.actnorm.scale"] = torch.zeros(2)

    rewrite(path / "model.safetensors", change)
    with pytest.raises(CheckpointError, match="do not fit the flow") as caught:
        load(path)
    for word in ("foreign", "blocks.0.0.conv1x1.weight", "blocks.1.0.actnorm.scale (2,)"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(extra=1), r"missing \[\], unknown \['extra'\]"),
        (lambda v: v.pop("metrics"), r"missing \['metrics'\], unknown \[\]"),
        (lambda v: v.update(flow=[]), "flow must be objects"),
        (lambda v: v.update(metrics=3, training=None), "training, metrics must be objects"),
        (lambda v: v.update(class_names="cat"), "class_names must be a list of strings"),
        (lambda v: v.update(class_names=[1, 2, 3]), "class_names must be a list of strings"),
        (lambda v: v.update(class_names=["a", "b", "a"]), r"not distinct: \['a'\]"),
        (lambda v: v.update(class_names=["a", "b"]), r"gaussians.* 2 classes of a 64-dimensional"),
        (lambda v: v.update(files={}), r"files must name model\.safetensors"),
        (lambda v: v.update(files=[]), r"files must name model\.safetensors"),
        (
            lambda v: v["files"].update({"../x": "0"}),
            r"files names \['\.\./x'\], which no checkpoint",
        ),
        (lambda v: v["files"].update({"model.safetensors": 7}), "the SHA-256 of model.* is '7'"),
    ],
)
def test_a_configuration_of_another_form(
    path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    sign(path, change)
    with pytest.raises(CheckpointError, match=message):
        load(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("model.safetensors", "blocks.0.0.actnorm.shift"),
        ("gaussians.safetensors", "means"),
        ("pca.safetensors", "mean"),
    ],
)
def test_weights_that_are_not_finite(path: Path, name: str, key: str, bad: float) -> None:
    rewrite(path / name, lambda tensors: tensors[key].view(-1)[3:4].fill_(bad))
    with pytest.raises(CheckpointError, match=rf"{name}: .*(NaN or infinity|not finite)"):
        load(path)


def test_gaussians_that_are_none(path: Path) -> None:
    file = path / "gaussians.safetensors"
    rewrite(file, lambda tensors: tensors["variances"][1].zero_())
    with pytest.raises(CheckpointError, match="variances must be positive"):
        load(path)


def test_a_pickle_is_never_opened(path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, path / "model.safetensors")
    sign(path)
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        load(path)


# What is not written.


def test_a_directory_that_is_not_empty(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not empty; pass overwrite=True \(--overwrite\)"):
        tiny_checkpoint.save(tmp_path)
    with pytest.raises(FileExistsError, match="is a file; a checkpoint is a directory"):
        tiny_checkpoint.save(tmp_path / "thesis.tex", overwrite=True)
    (tmp_path / "empty").mkdir()
    tiny_checkpoint.save(tmp_path / "empty")
    tiny_checkpoint.save(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def _with(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    return dataclasses.replace(checkpoint, **changes)


def _poisoned(checkpoint: Checkpoint) -> Checkpoint:
    with torch.no_grad():
        next(checkpoint.flow.parameters()).view(-1)[0] = math.nan
    return checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: _with(c, flow=c.flow.freeze()), "a frozen flow cannot be saved"),
        (_poisoned, r"weights hold NaN or infinity in blocks\.0\.0"),
        (
            lambda c: _with(c, config=CheckpointConfig(FlowConfig())),
            "the configuration says FlowConfig",
        ),
        (
            lambda c: _with(c, config=dataclasses.replace(c.config, class_names=("a", "b"))),
            "ClassGaussians is of 3 classes in 64 dimensions; the checkpoint has 2 class names",
        ),
        (
            lambda c: _with(
                c, config=dataclasses.replace(c.config, class_names=("a", "b")), gaussians=None
            ),
            "ClasswisePCA is of 3 classes",
        ),
        (
            lambda c: _with(c, config=dataclasses.replace(c.config, class_names=("a", "b", "a"))),
            "class_names are not distinct",
        ),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tiny_checkpoint: Checkpoint,
    path: Path,
    change: Callable[[Checkpoint], Checkpoint],
    message: str,
) -> None:
    good = load(path)
    with pytest.raises(ValueError, match=message):
        change(tiny_checkpoint).save(path, overwrite=True)
    same(load(path), good)
    assert [file.name for file in path.parent.iterdir()] == ["flow"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("written", [0, 1, 2])
def test_an_interrupted_save_leaves_the_old_checkpoint(
    tiny_checkpoint: Checkpoint,
    path: Path,
    error: BaseException | type[BaseException],
    written: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = load(path)
    with torch.no_grad():
        next(tiny_checkpoint.flow.parameters()).add_(1)
    calls = 0

    def save_some(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > written:
            raise error
        save_file(*args, **kwargs)

    monkeypatch.setattr("nfaug.io.tensors.save_file", save_some)
    with pytest.raises((KeyboardInterrupt, OSError)):
        tiny_checkpoint.save(path, overwrite=True)
    same(load(path), good)
    assert [file.name for file in path.parent.iterdir()] == ["flow"]


def test_a_flow_that_was_never_trained(tmp_path: Path) -> None:
    config = FlowConfig(channels=1, image_size=(7, 5), steps=(1,), blocks=(0,), width=(4,))
    Checkpoint(Flow(config), CheckpointConfig(config)).save(tmp_path / "flow")
    loaded = load(tmp_path / "flow")
    images = images_of(torch.arange(3), channels=1, size=(7, 5))
    with torch.no_grad():
        assert torch.equal(loaded.flow.decode(loaded.flow.encode(images)[0]), images)
