"""A flow on the latents of a frozen autoencoder, from training to augmentation."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tools.autoencoder import make_autoencoder
from tools.device import pretended_gpu
from tools.hub import FakeHub
from tools.nfa import NAMES, TensorImages, images_of
from torch import Tensor, nn

import nfaug
from nfaug.augment.detail import add_change
from nfaug.augment.pixels import resize
from nfaug.checkpoint.autoencoder import open_codec
from nfaug.checkpoint.manifest import CheckpointError
from nfaug.classes.fixed_point import FixedPointConfig
from nfaug.cli import main
from nfaug.data.augmentation import FlowAugmentation
from nfaug.fitting.config import PCAConfig
from nfaug.flows.latent_codec import LatentCodec
from nfaug.flows.mef_config import MefConfig
from nfaug.hub.push import plan_push
from nfaug.training import TrainConfig, TrainResult, train
from nfaug.training.config import OptimConfig, TrainPriorConfig

SIZE = (64, 64)
LATENT = (4, 8, 8)
NAME = "tiny"


class Contrasty(nn.Module):
    """An autoencoder that keeps every pixel at four times the contrast."""

    latent_channels, factor, input_range = 192, 8, (-1.0, 1.0)

    def encode(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(x, 8)

    def decode(self, z: Tensor) -> Tensor:
        return 4 * nn.functional.pixel_shuffle(z, 8)


@pytest.fixture(scope="session")
def config(autoencoder: Path) -> TrainConfig:
    return TrainConfig(
        epochs=2,
        batch_size=12,
        autoencoder=str(autoencoder),
        flow=MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8)),
        prior=TrainPriorConfig(fixed_point=FixedPointConfig(kld_weight=20.0)),
        optim=OptimConfig(warmup_steps=2),
        pca=PCAConfig(rank=4),
        augmentation=FlowAugmentation(hflip=True),
        device="cpu",
    )


@pytest.fixture(scope="session")
def result(photos: TensorImages, config: TrainConfig) -> TrainResult:
    return train(photos, config=config, test_data=photos, progress=False)


@pytest.fixture(scope="session")
def saved(result: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.checkpoint.save(tmp_path_factory.mktemp("latents") / "flow")


# The codec


def test_noise_padding_and_bits(autoencoder: Path, photos: TensorImages) -> None:
    codec = open_codec(autoencoder, photos.images, noise=1 / 64)
    # A standard normal to precision w takes h(N)/log 2 + log2(1/w) bits per coordinate.
    entropy = 256 * 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e))
    assert float(codec.bits_per_dim(entropy)) == pytest.approx(2.0471 + 6, abs=1e-3)
    codec = codec.for_flow(
        nfaug.FlowConfig(
            4, (8, 8), nfaug.MefConfig(padded_size=(16, 8), steps=(1,), blocks=(0,), width=(4,))
        )
    )
    latents = codec.prepare(photos.images[:3])
    plain = codec.dequantize(latents)
    assert plain.shape == (3, 4, 16, 8)
    assert torch.equal(plain[:, :, 4:12], latents)
    noise = torch.rand(plain.shape)
    moved = codec.dequantize(latents, noise) - plain
    assert torch.allclose(moved, (noise - 0.5) / 64, atol=1e-6)
    assert torch.equal(codec.to_images(plain), codec.to_images(codec.dequantize(latents, 0.5)))
    assert codec.prepare(photos.images[:0]).shape == (0, *LATENT)
    assert codec.to_images(plain[:0]).shape == (0, 3, *SIZE)
    # Latents made earlier are taken as they are; of several views the first.
    assert torch.equal(codec.prepare(latents), latents)
    assert torch.equal(codec.prepare(torch.stack([latents, -latents], 1)), latents)


def test_an_autoencoder_stays_where_it_is(autoencoder: Path, photos: TensorImages) -> None:
    """It moved with the images: to a GPU and back in each call, and under workers that forked."""
    images = photos.images[:4]
    codec = open_codec(autoencoder, images)
    latents = codec.prepare(images)
    expected = codec.to_images(latents)
    with pretended_gpu() as gpu:
        for _ in range(2):
            there = codec.prepare(images.to(gpu))
            back = codec.to_images(there)
            assert there.device == back.device == gpu
            assert torch.allclose(there.cpu(), latents, atol=1e-4)
            assert (back.cpu().int() - expected.int()).abs().max() <= 1
            assert torch.equal(codec.prepare(images), latents)
    assert torch.equal(pickle.loads(pickle.dumps(codec)).prepare(images), latents)


def test_the_codec_is_not_in_the_state_dict(result: TrainResult) -> None:
    flow = result.checkpoint.flow
    assert isinstance(flow.codec, LatentCodec)
    assert all(name.startswith("blocks.") for name in flow.state_dict())
    assert copy.deepcopy(flow).codec is flow.codec
    assert flow.freeze().codec is flow.codec


# Training


def test_training(result: TrainResult, photos: TensorImages, saved: Path) -> None:
    config = result.checkpoint.config
    assert config.flow.shape == LATENT
    assert config.classes == NAMES
    assert config.autoencoder is not None
    assert len(result.loss) == 4
    assert "latent_bits_per_dim" in config.metrics
    assert "mean_level_error" not in config.metrics, "latents are at hand and no pixels"
    assert "bits_per_dim" not in config.metrics, "it is not comparable with pixels"
    assert "train_latent_bits_per_dim" in result.history[0]
    values = json.loads((saved / "config.json").read_text())
    assert values["autoencoder"]["name"] == NAME
    assert str(saved.parent.parent) not in json.dumps(values)


def test_mirrored_latents_are_drawn() -> None:
    views = torch.arange(2.0).expand(200, 2)[..., None, None, None].expand(-1, -1, 4, 2, 2)
    augment = FlowAugmentation(hflip=True)
    drawn = augment.apply(views, augment.draw(200, torch.Generator().manual_seed(0)))
    assert drawn.shape == (200, 4, 2, 2)
    assert 0.4 < float(drawn.mean()) < 0.6
    assert torch.equal(drawn.amin((1, 2, 3)), drawn.amax((1, 2, 3)))


@pytest.mark.parametrize(
    ("changes", "token"),
    [
        ({"augmentation": FlowAugmentation(pad_crop=1)}, r"augmentation\.pad_crop"),
        ({"augmentation": FlowAugmentation(rotation=5)}, r"augmentation\.rotation"),
        ({"augmentation": FlowAugmentation(saturation=0.1)}, r"augmentation\.saturation"),
        ({"autoencoder": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_training_refuses(
    changes: dict[str, Any], token: str, photos: TensorImages, config: TrainConfig
) -> None:
    with pytest.raises((ValueError, OSError), match=token):
        train(photos, config=dataclasses.replace(config, **changes), progress=False)


def test_a_resumed_run_keeps_its_scale(
    saved: Path, autoencoder: Path, photos: TensorImages, config: TrainConfig, tmp_path: Path
) -> None:
    """A resumed run keeps the scale of --checkpoint, with or without a named autoencoder."""
    config = dataclasses.replace(
        config,
        tensorboard=False,
        optim=OptimConfig(warmup_steps=2, decay="constant"),
        prior=dataclasses.replace(config.prior, refit_epoch=0),
    )
    init = nfaug.load(saved, autoencoder=autoencoder)
    others = TensorImages(255 - photos.images // 2, photos.targets, NAMES)
    calm = train(others, config=config, checkpoint=init, progress=False)
    short = dataclasses.replace(config, epochs=1)
    for name, source in (("named", config.autoencoder), ("unnamed", None)):
        folder = tmp_path / name
        train(others, config=short, checkpoint=init, out=folder, progress=False)
        (folder / "state" / NAME).symlink_to(autoencoder)
        settings = dataclasses.replace(config, autoencoder=source)
        resumed = train(others, config=settings, out=folder, resume=True, progress=False)
        assert resumed.checkpoint.config.autoencoder == init.config.autoencoder
        assert resumed.loss == calm.loss


# Augmentation


def augment(saved: Path, images: Tensor, labels: Tensor, **settings: Any) -> Tensor:
    nfa = nfaug.NFAugment.from_pretrained(
        saved, autoencoder=settings.pop("autoencoder"), p=1.0, gate=None, **settings
    )
    new, _ = nfa(images, labels)
    assert nfa.stats()["applied"] == len(images), nfa.stats()
    return new


@pytest.mark.parametrize(("size", "kind"), [(SIZE, "float"), ((96, 80), "uint8")])
def test_strength_0_changes_nothing(
    size: tuple[int, int], kind: str, saved: Path, autoencoder: Path
) -> None:
    labels = torch.arange(6) % 3
    images = images_of(labels, size=size, seed=3)
    images = images if kind == "uint8" else images / 255
    new = augment(saved, images, labels, strength=0.0, autoencoder=autoencoder)
    assert torch.equal(new, images)


def test_detail_is_kept(saved: Path, autoencoder: Path, photos: TensorImages) -> None:
    """Only the difference of two decoded images is added, so lost detail is preserved."""
    images, labels = photos.images[:6] / 255, photos.targets[:6]
    generator = torch.Generator().manual_seed(0)
    new = augment(
        saved, images, labels, autoencoder=autoencoder, strength=0.05, generator=generator
    )
    assert not torch.equal(new, images)
    flow = nfaug.load(saved, autoencoder=autoencoder).flow
    with torch.no_grad():
        decoded = flow.decode(flow.encode(images * 255)[0], quantize=False)

    def detail(x: Tensor) -> Tensor:
        return (x - torch.nn.functional.avg_pool2d(x, 3, 1, 1))[..., 1:-1, 1:-1].flatten()

    def alike(x: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([detail(images), detail(x)]))[0, 1])

    assert alike(decoded) < 0.5, "a random autoencoder loses all detail"
    assert alike(new) > 0.9


@pytest.mark.parametrize("mix", ["axis", "regions"])
def test_at_another_size_detail_leaves_with_the_structure_of_the_image(
    mix: str, photos: TensorImages
) -> None:
    """The share is that of the image at the flow's size, not that of the decoded latent."""
    fitted = nfaug.fit("builtin:pixels", photos, autoencoder=Contrasty(), rank=7, progress=False)
    labels = photos.targets[:6]
    low = 0.25 + 0.4 * photos.images[:6] / 255
    fine = 0.1 * torch.rand(6, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    images = resize(low, (128, 128)) + fine
    low = resize(images, SIZE)

    def made_of(given: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        nfa = nfaug.NFAugment(
            fitted, p=1.0, gate=None, mix=mix, strength=0.8, partners="batch", generator=generator
        )
        return nfa(given, labels)[0]

    change = made_of(low) - low
    expected = add_change(images, change.clone(), low)
    plain = (images + resize(change, (128, 128))).clamp(0, 1)
    assert (expected - plain).abs().max() > 0.005, "detail leaves"
    got = made_of(images)
    wrong = (got - expected).abs() > 1e-3
    assert wrong.float().mean() < 0.01, "changes at the flow's size are clamped"


def test_regions_take_their_detail_along(
    saved: Path, autoencoder: Path, photos: TensorImages
) -> None:
    """Where the partner takes the place of the image, so does what is decoded."""
    images, labels = photos.images[:6] / 255, torch.arange(6) % 2
    nfa = nfaug.NFAugment.from_pretrained(
        saved, autoencoder=autoencoder, p=1.0, gate=None, mix="regions", partners="batch"
    )
    draws = nfa.draw(labels)
    weights = torch.ones_like(draws.weights)
    weights[:2] = 0
    new = nfa.replay(images, labels, dataclasses.replace(draws, weights=weights))[0][draws.index]
    flow = nfaug.load(saved, autoencoder=autoencoder).flow
    with torch.no_grad():
        decoded = flow.decode(flow.encode(images * 255)[0], quantize=False)
    assert nfa.stats()["applied"] == 6
    assert torch.equal(new[:2], images[draws.index[:2]])
    assert torch.allclose(new[2:], decoded[draws.index[draws.partner[2:]]], atol=1e-3)


def test_the_command_line(
    autoencoder: Path, photos: TensorImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe at a small size, then the other commands with the flow that it trained."""

    def run(*words: str | Path) -> dict[str, Any]:
        code = main([*map(str, words), "--json"])
        ran = capsys.readouterr()
        assert code == 0, ran.err
        return json.loads(ran.out)

    for index, (image, label) in enumerate(photos):
        folder = tmp_path / "photos" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    flow, data = tmp_path / "flow", ("--data", tmp_path / "photos")
    made = run(
        *("train", "--recipe", "photos", *data, "--out", flow, "--autoencoder", autoencoder),
        *("--dataset.image_size", "[64,64]", "--epochs", "1", "--batch-size", "18"),
        *("--flow.steps", "[1,1]", "--flow.blocks", "[0,0]", "--flow.width", "[4,4]"),
        *("--pca.rank", "4", "--pictures-every", "0", "--lr", "0.001"),
    )
    assert made["steps"] == 2
    assert (flow / "samples.png").is_file()
    found = ("--checkpoint", flow, "--autoencoder", autoencoder)
    eval_figures = run("eval", *found, *data, "--split", "train")
    assert {"latent_bits_per_dim", "nf_acc", "mean_level_error"} <= set(eval_figures)
    assert not {"bits_per_dim", "exact"} & set(eval_figures)
    run("fit", *found, *data, "--rank", "3", "--out", tmp_path / "fitted")
    told = run("info", tmp_path / "fitted")
    assert told["autoencoder"]["name"] == NAME


# Checkpoints


def test_round_trip(
    saved: Path, autoencoder: Path, result: TrainResult, photos: TensorImages
) -> None:
    loaded = nfaug.load(saved, autoencoder=autoencoder)
    assert loaded.config.autoencoder == result.checkpoint.config.autoencoder
    assert loaded.config.flow == result.checkpoint.config.flow
    images = photos.images[:4]
    with torch.no_grad():
        assert torch.equal(
            loaded.flow.encode(images)[0], result.checkpoint.flow.eval().encode(images)[0]
        )


def test_where_a_directory_is_looked_for(saved: Path, autoencoder: Path, tmp_path: Path) -> None:
    assert f"autoencoder {NAME}" in plan_push(saved).card  # a push needs no autoencoder
    with pytest.raises(FileNotFoundError, match="autoencoder="):
        nfaug.load(saved)
    flow = Path(shutil.copytree(saved, tmp_path / "a" / "flow"))
    for folder in (flow.parent, flow):
        (folder / NAME).symlink_to(autoencoder)
        assert nfaug.load(flow).config.autoencoder is not None
        (folder / NAME).unlink()


def test_another_autoencoder_is_refused(saved: Path, tmp_path: Path) -> None:
    other = make_autoencoder(tmp_path / "tiny-vae", seed=1)
    with pytest.raises(CheckpointError, match="SHA-256"):
        nfaug.load(saved, autoencoder=other)


def test_a_flow_on_pixels_takes_no_autoencoder(tiny_path: Path, autoencoder: Path) -> None:
    with pytest.raises(ValueError, match="autoencoder"):
        nfaug.load(tiny_path, autoencoder=autoencoder)


def test_a_record_of_other_latents(saved: Path, autoencoder: Path, tmp_path: Path) -> None:
    flow = Path(shutil.copytree(saved, tmp_path / "flow"))
    values = json.loads((flow / "config.json").read_text())
    for change, token in (
        ({"image_size": [128, 128]}, r"\(4, 16, 16\)"),
        ({"kind": "code"}, "kind"),
    ):
        values["autoencoder"].update(change)
        (flow / "config.json").write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=token):
            nfaug.load(flow, autoencoder=autoencoder)


def test_from_the_hub(
    autoencoder: Path, photos: TensorImages, tmp_path: Path, hub: FakeHub
) -> None:
    files = {path.name: path.read_bytes() for path in autoencoder.iterdir()}
    hub.add("someone/tiny-vae", {**files, "diffusion_pytorch_model.bin": b"pickle"})
    fitted = nfaug.fit(
        "builtin:pixels", photos, autoencoder="someone/tiny-vae", rank=3, progress=False
    )
    record = fitted.config.autoencoder
    assert record is not None
    assert (record.kind, record.name) == ("hub", "someone/tiny-vae")
    names = ["config.json", "diffusion_pytorch_model.safetensors"]
    assert hub.fetched() == names, "no pickle"
    loaded = nfaug.load(fitted.save(tmp_path / "flow"))
    assert loaded.flow.codec.record == record
