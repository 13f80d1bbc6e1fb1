from __future__ import annotations

import dataclasses
import math
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tools.checkpoint import bounded, sign, with_header
from tools.nfa import NAMES, images_of

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig, load
from nfaug.checkpoint.manifest import CheckpointError
from nfaug.classes.gaussians import ClassGaussians
from nfaug.fitting.checkpoints import load_base
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig

FIXTURES = Path(__file__).parents[1] / "fixtures"
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
    once = load(tiny_path)
    assert not once.flow.training
    assert once.config.classes == NAMES
    # Saving what was loaded gives the same bytes.
    once.save(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (tiny_path / name).read_bytes()
    same(once, load(str(tmp_path / "again")))
    assert load(tiny_path).to("cpu").flow.device.type == "cpu"


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


def test_gaussians_are_read_where_they_are_used(path: Path) -> None:
    """Augmentation, fits and banks read no Gaussians, so that a damaged file does not stop them."""
    assert load(path).gaussians is not None
    assert load(path, gaussians=False).gaussians is None
    (path / "gaussians.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="gaussians"):
        load(path)
    assert nfaug.NFAugment.from_pretrained(path).num_classes == 3
    assert nfaug.NFAugment(path).num_classes == 3
    assert load_base(path).gaussians is None


def test_figures_that_are_not_finite_are_null(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """And any text may be the name of a class."""
    names = ("näme ✓", "<b>\n", '"\\')
    tiny_checkpoint.config.metrics.update(bits_per_dim=math.nan, deep={"x": (1.0, -math.inf)})
    config = dataclasses.replace(tiny_checkpoint.config, classes=names)
    _with(tiny_checkpoint, config=config).save(tmp_path / "flow")
    found = load(tmp_path / "flow").config
    assert found.classes == names
    assert (found.metrics["bits_per_dim"], found.metrics["deep"]) == (None, {"x": [1.0, None]})


def test_version_1_is_readable_for_ever() -> None:
    expected = load_file(FIXTURES / "checkpoint_v1_expected.safetensors")
    checkpoint = load(FIXTURES / "checkpoint_v1")
    assert checkpoint.config.classes == ("cat", "dög", "eel")
    assert checkpoint.config.metrics["on"] == "36 held-out images"
    assert checkpoint.config.gaussians["update"] == "no_class_sum", "what it named released"
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
        pca.locate(z, labels)[0], expected["coefficients"], rtol=1e-4, atol=1e-4
    )
    nfa = nfaug.NFAugment(checkpoint, p=1.0, generator=torch.Generator().manual_seed(0))
    new, _ = nfa(images, labels)
    assert not torch.equal(new, images)


# What was damaged, and what must be said about it.


def test_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="format_version"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no-such"):
        load(tmp_path / "no-such")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="file"):
        load(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="no-such"):
        load("./no-such")
    with pytest.raises(FileNotFoundError, match="builtin:rgb32"):
        load("rgb32")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_missing_or_odd_file(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=name):
        load(path)
    if name != "config.json":
        sign(path)  # and signed by somebody
        with pytest.raises(CheckpointError, match=name):
            load(path)
    for make in (Path.unlink, os.mkfifo, Path.unlink, Path.mkdir):
        make(path / name)
        with pytest.raises(CheckpointError, match=name):
            load(path)


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("place", [0.02, 0.5, 0.99])
def test_a_flipped_byte(path: Path, name: str, place: float) -> None:
    data = bytearray((path / name).read_bytes())
    data[int(place * len(data))] ^= 0x10
    (path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        load(path)


def test_a_class_name_may_be_corrected_with_an_editor(path: Path) -> None:
    """Also in files of older versions, which hold a hash of the configuration."""
    old = Path(shutil.copytree(FIXTURES / "checkpoint_v1", path.parent / "old"))
    for folder in (path, old):
        text = (folder / "config.json").read_text()
        assert ("config_sha256" in text) == (folder == old)
        (folder / "config.json").write_text(text.replace('"cat"', '"cow"'))
        assert load(folder).config.classes[0] == "cow"


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b'{"a": "\\ud800"}',
        b"\xff{}",
        b"[" * 100_000,
        b"[" * 40 + b"]" * 40,
        b"[]",
    ],
)
def test_a_configuration_that_is_not_strict_json(path: Path, content: bytes) -> None:
    (path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="JSON"):
        load(path)


def test_a_file_of_another_checkpoint(path: Path) -> None:
    for name in FILES[1:]:
        mine = (path / name).read_bytes()
        shutil.copyfile(FIXTURES / "checkpoint_v1" / name, path / name)
        for change in (lambda path: None, sign):
            change(path)
            with pytest.raises(CheckpointError, match=name):
                load(path)
        (path / name).write_bytes(mine)
        sign(path)
    shutil.copyfile(FIXTURES / "checkpoint_v1" / "config.json", path / "config.json")
    with pytest.raises(CheckpointError, match="safetensors"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [2, 1]}, r"blocks\.0\.1\.actnorm"),
        ({"width": [16, 8]}, r"\[8, .*\[16, "),
        ({"steps": [500, 1]}, "tensors"),
        ({"channels": 3}, "mismatch"),
        ({"steps": [10**9, 1]}, "large|at most"),
        ({"padded_size": [9, 9]}, "padded_size"),
        ({"attention": True}, "attention"),
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
    with pytest.raises(CheckpointError, match="foreign") as caught:
        load(path)
    for word in ("foreign", "blocks.0.0.conv1x1.weight", "blocks.1.0.actnorm.scale"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(format_version=2), "version"),
        (lambda v: v.update(format_version="1"), "version"),
        (lambda v: v.update(format_version=True), "version"),
        (lambda v: v.update(extra=1), "extra"),
        (lambda v: v.pop("metrics"), "metrics"),
        (lambda v: v.update(flow=[]), "flow"),
        (lambda v: v.update(metrics=3, training=None), "metrics"),
        (lambda v: v.update(class_names=[1, 2, 3]), "class_names"),
        (lambda v: v.update(class_names=["a", "b", "a"]), "'a'"),
        (lambda v: v.update(class_names=["a", "b"]), "64 dimensions"),
        (lambda v: v.update(files=[]), r"model\.safetensors"),
        (lambda v: v["files"].update({"../x": "0"}), r"\.\./x"),
        (lambda v: v["files"].update({"model.safetensors": 7}), "SHA-256"),
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
    with pytest.raises(CheckpointError, match=r"NaN|finite"):
        load(path)


def test_a_pickle_is_never_opened(path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, path / "model.safetensors")
    sign(path)
    with pytest.raises(CheckpointError, match="readable"):
        load(path)


# What is not written.


def test_a_directory_that_is_not_empty(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        tiny_checkpoint.save(tmp_path)
    with pytest.raises(FileExistsError, match="thesis"):
        tiny_checkpoint.save(tmp_path / "thesis.tex", overwrite=True)
    (tmp_path / "empty").mkdir()
    tiny_checkpoint.save(tmp_path / "empty")
    (tmp_path / "samples.png").write_bytes(b"a picture of no checkpoint")
    tiny_checkpoint.save(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    assert (tmp_path / "samples.png").exists()


def test_a_model_of_another_program_is_not_replaced(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(FileExistsError, match="another program"):
        tiny_checkpoint.save(tmp_path, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() == b"theirs"


def _with(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    return dataclasses.replace(checkpoint, **changes)


def _config(checkpoint: Checkpoint, **changes: Any) -> CheckpointConfig:
    return dataclasses.replace(checkpoint.config, **changes)


def _poisoned(checkpoint: Checkpoint) -> Checkpoint:
    with torch.no_grad():
        next(checkpoint.flow.parameters()).view(-1)[0] = math.nan
    return checkpoint


def _broken_axes(checkpoint: Checkpoint) -> Checkpoint:
    assert checkpoint.pca is not None
    checkpoint.pca.gate_energy.fill_(math.inf)
    return checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: _with(c, flow=c.flow.freeze()), "frozen"),
        (_poisoned, r"blocks\.0\.0"),
        (_broken_axes, "gate_energy"),
        (lambda c: _with(c, config=CheckpointConfig(FlowConfig())), "FlowConfig"),
        (lambda c: _with(c, config=_config(c, classes=("a", "b"))), "ClassGaussians"),
        (
            lambda c: _with(c, config=_config(c, classes=("a", "b")), gaussians=None),
            "ClasswisePCA",
        ),
        (lambda c: _with(c, config=_config(c, classes=("a", "b", "a"))), "class_names"),
        (lambda c: _with(c, config=_config(c, training={"x": torch.device("cpu")})), "device"),
    ],
)
def test_what_could_not_be_read_is_not_written(
    tiny_checkpoint: Checkpoint,
    path: Path,
    change: Callable[[Checkpoint], Checkpoint],
    message: str,
) -> None:
    good = load(path)
    with pytest.raises((TypeError, ValueError), match=message):
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


def test_samples(tiny_checkpoint: Checkpoint) -> None:
    def drawn(*arguments: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return tiny_checkpoint.sample(*arguments, generator=generator)

    assert (drawn(5).shape, drawn(5).dtype) == ((5, 1, 8, 8), torch.uint8)
    assert drawn(1, NAMES[1]).shape == (1, 1, 8, 8)
    assert torch.equal(drawn(4, NAMES[1]), drawn(4, 1))
    assert not torch.equal(drawn(4, 0), drawn(4, 1))
    for wrong in ((1, "nobody"), (1, 3), (1, -1), (0,), (0, 0), (1.5,), (NAMES[1], 4)):
        with pytest.raises(ValueError, match=r"class|number"):
            drawn(*wrong)
    with pytest.raises(ValueError, match="Gaussians"):
        _with(tiny_checkpoint, gaussians=None).sample(1)


def test_a_flow_that_was_never_trained(tmp_path: Path) -> None:
    """It has no classes, and so one gaussian."""
    config = FlowConfig(
        channels=1, image_size=(7, 5), backbone=MefConfig(steps=(1,), blocks=(0,), width=(4,))
    )
    single = ClassGaussians(torch.zeros(1, config.dim), torch.ones(1, config.dim))
    Checkpoint(Flow(config), CheckpointConfig(config), single).save(tmp_path / "flow")
    loaded = load(tmp_path / "flow")
    assert loaded.gaussians is not None
    assert loaded.gaussians.num_classes == 1
    images = images_of(torch.arange(3), channels=1, size=(7, 5))
    with torch.no_grad():
        assert torch.equal(loaded.flow.decode(loaded.flow.encode(images)[0]), images)


NESTED = b"[" * 10**5


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "BOOL", "shape": [0], "data_offsets": [0, 0]}},
        b"((((" * 1000,
        b'{"a":' + NESTED,
        b'{"__metadata__":' + NESTED,
    ],
    ids=range(7),
)
def test_headers_that_describe_no_tensor(header: Any, path: Path) -> None:
    (path / "model.safetensors").write_bytes(with_header(header, b""))
    sign(path)
    with bounded("a header"), pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(path)
