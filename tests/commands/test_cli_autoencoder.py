"""A file given as --autoencoder, and the commands that open what was made with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tools.autoencoder import make_autoencoder
from tools.commands import run_main
from tools.nfa import write_images

import nfaug
from nfaug.checkpoint import autoencoder
from nfaug.checkpoint.autoencoder import copy_autoencoder
from nfaug.hub.push import plan_push

NAME = "tiny.safetensors"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    weights = make_autoencoder(folder / "vae")
    return weights.joinpath("diffusion_pytorch_model.safetensors").rename(folder / NAME)


def test_the_file_of_a_fit_is_copied(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What fit made is opened by the other commands, and by a fit that starts from it."""
    images = write_images(tmp_path / "images", 24, train=4, val=2)
    data = ["--data", images / "train"]
    flow = tmp_path / "one" / "flow"
    words = ["fit", "--checkpoint", "builtin:pixels", "--autoencoder", file, *data, "--rank", "2"]
    words += ["--image-size", "32", "--out", flow]
    assert run_main(capsys, *words).code == 0
    assert (flow / NAME).read_bytes() == file.read_bytes()
    assert str(file.parent) not in (flow / "config.json").read_text()
    found = run_main(capsys, "info", flow, "--json").json["autoencoder"]
    assert (found["kind"], found["name"]) == ("file", NAME)
    picture = ["preview", "--checkpoint", flow, *data, "--out", tmp_path / "grid.png"]
    assert run_main(capsys, *picture).code == 0
    assert NAME not in plan_push(flow).files
    again = tmp_path / "two" / "flow"
    words = ["fit", "--checkpoint", flow, *data, "--rank", "2", "--out", again]
    assert run_main(capsys, *words).code == 0
    assert nfaug.load(again).config.autoencoder == nfaug.load(flow).config.autoencoder


def test_a_fit_with_another_file_leaves_no_old_copy(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refit with the same file keeps it; what else lies in the folder stays."""
    images = write_images(tmp_path / "images", 24, train=4, val=2)
    flow = tmp_path / "one" / "flow"
    other = Path(shutil.copy(file, tmp_path / "other.safetensors"))
    words = ["fit", "--checkpoint", "builtin:pixels", "--data", images / "train", "--rank", "2"]
    words += ["--image-size", "32", "--out", flow, "--overwrite", "--autoencoder"]
    for given in (file, file, other):
        assert run_main(capsys, *words, given).code == 0
        (flow / "notes.safetensors").touch()
        names = {path.name for path in flow.glob("*.safetensors")}
        kept = {"model.safetensors", "pca.safetensors"}
        assert names == {*kept, "notes.safetensors", given.name}
        assert nfaug.load(flow).config.autoencoder.name == given.name


def test_what_is_not_copied(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = tmp_path / "flow"
    flow.mkdir()
    record = nfaug.flows.autoencoder.AutoencoderConfig(
        kind="file", name=NAME, sha256="0" * 64, channels=3, image_size=(32, 32), mean=(0.0,),
        std=(1.0,), noise=0.5,
    )  # fmt: skip
    copy_autoencoder(None, flow, given=file)
    copy_autoencoder(record, flow, given=tmp_path)
    assert list(flow.iterdir()) == []
    monkeypatch.setattr(autoencoder, "_LARGEST", 10)
    copy_autoencoder(record, flow, given=file)
    assert list(flow.iterdir()) == [], "large files"
    monkeypatch.undo()
    beside = Path(shutil.copy(file, tmp_path / NAME))
    copy_autoencoder(record, flow, given=beside)
    copy_autoencoder(record, flow, given=flow / NAME)
    assert (flow / NAME).read_bytes() == file.read_bytes(), "the checkpoint can move"
    assert [path.name for path in flow.iterdir()] == [NAME]


def test_a_run_from_a_flow_on_latents_goes_on(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that a stopped run printed asked for the autoencoder that --checkpoint holds."""
    data = ["--data", write_images(tmp_path / "images", 24, train=8) / "train"]
    quiet = ["--tensorboard=false", "--pictures-every=0", "--pca.rank=2", "--batch-size=12"]
    flow = ["--flow.steps", "[1]", "--flow.blocks", "[1]", "--flow.width", "[8]"]
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["train", *data, "--epochs", "1", "--prior.kind", "data", *quiet]
    assert run_main(capsys, *words, *flow, "--autoencoder", file, "--out", first).code == 0
    assert run_main(capsys, *words, "--checkpoint", first, "--out", second).code == 0
    shutil.rmtree(first)
    again = run_main(capsys, "train", "--resume", second, *data, "--epochs", "2")
    assert again.code == 0, again.err
    assert nfaug.load(second).config.training["epochs"] == 2
