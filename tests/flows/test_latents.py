"""A flow on the latents of a frozen autoencoder, from training to augmentation."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_tools import sign
from hub_tools import snapshot_names
from loopback_hub import LoopbackHub
from nfa_tools import NAMES, images_of
from PIL import Image
from torch import Tensor

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointError
from nfaug.classes.fixed_point.solver import FixedPointConfig
from nfaug.cli import main
from nfaug.data.images import TensorImages
from nfaug.flows.autoencoder import (
    AutoencoderConfig,
    open_autoencoder,
    weights_sha256,
)
from nfaug.flows.latent_codec import LatentCodec, measure_codec
from nfaug.training import TrainConfig, TrainResult, train
from nfaug.training.augmentation import FlowAugmentation
from nfaug.training.config import (
    FlowSettings,
    OptimConfig,
    PCAConfig,
    PriorConfig,
)

SIZE = (64, 64)
LATENT = (4, 8, 8)


def make_autoencoder(path: Path, seed: int = 0) -> Path:
    """Tiny and randomly initialised: 64 x 64 images become latents of 4 x 8 x 8."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(4,) * 4,
            norm_num_groups=2,
            latent_channels=LATENT[0],
        )
    made.save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_autoencoder(tmp_path_factory.mktemp("vae") / "tiny-vae")


@pytest.fixture(scope="session")
def photos() -> TensorImages:
    """36 RGB images of 64 x 64 pixels in three classes, finely grained."""
    labels = torch.arange(36) % 3
    return TensorImages(images_of(labels, size=SIZE), labels, NAMES)


@pytest.fixture(scope="session")
def config(autoencoder: Path) -> TrainConfig:
    return TrainConfig(
        epochs=2,
        batch_size=12,
        autoencoder=str(autoencoder),
        flow=FlowSettings(steps=(1, 1), blocks=(1, 1), width=(8, 8)),
        prior=PriorConfig(fixed_point=FixedPointConfig(kld_weight=20.0)),
        optim=OptimConfig(warmup_steps=2),
        pca=PCAConfig(rank=4),
        augmentation=FlowAugmentation(hflip=True),
    )


@pytest.fixture(scope="session")
def result(photos: TensorImages, config: TrainConfig) -> TrainResult:
    return train(photos, config, val=photos, progress=False)


@pytest.fixture(scope="session")
def saved(result: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.checkpoint.save(tmp_path_factory.mktemp("latents") / "flow")


# The codec


def test_the_scale_is_that_of_the_images(autoencoder: Path, photos: TensorImages) -> None:
    codec = measure_codec(autoencoder, photos.images, noise=0.1)
    record = codec.record
    assert (record.kind, record.name) == ("directory", "tiny-vae"), "no path of this machine"
    assert (record.channels, record.image_size, record.noise) == (3, SIZE, 0.1)
    assert len(record.mean) == len(record.std) == 4
    latents = codec.prepare(photos.images)
    assert latents.shape == (36, *LATENT)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-4
    # The definition, from the autoencoder itself.
    model = open_autoencoder(autoencoder)
    with torch.no_grad():
        mode = model.encode(photos.images[:2] / 127.5 - 1).latent_dist.mode()
        mean, std = torch.tensor(record.mean), torch.tensor(record.std)
        scaled = (mode - mean[:, None, None]) / std[:, None, None]
        decoded = (model.decode(mode).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(latents[:2], scaled, atol=1e-5)
    assert torch.allclose(codec.to_images(latents[:2], quantize=False), decoded, atol=1e-5)
    levels = codec.to_images(latents[:2])
    assert levels.dtype == torch.uint8
    assert (levels / 255 - decoded).abs().max() < 1 / 255


def test_noise_and_padding(autoencoder: Path, photos: TensorImages) -> None:
    codec = measure_codec(autoencoder, photos.images, noise=0.1)
    codec = codec.for_flow(
        nfaug.FlowConfig(4, (8, 8), padded_size=(16, 8), steps=(1,), blocks=(0,), width=(4,))
    )
    latents = codec.prepare(photos.images[:3])
    plain = codec.dequantize(latents)
    assert plain.shape == (3, 4, 16, 8)
    assert torch.equal(plain[:, :, 4:12], latents)
    noise = torch.rand(plain.shape)
    moved = codec.dequantize(latents, noise) - plain
    assert torch.allclose(moved, 0.1 * (noise - 0.5), atol=1e-6)
    assert torch.equal(codec.to_images(plain), codec.to_images(codec.dequantize(latents, 0.5)))
    assert codec.prepare(photos.images[:0]).shape == (0, *LATENT)
    assert codec.to_images(plain[:0]).shape == (0, 3, *SIZE)
    # Latents made earlier are taken as they are; of several views the first.
    assert torch.equal(codec.prepare(latents), latents)
    assert torch.equal(codec.prepare(torch.stack([latents, -latents], 1)), latents)


def test_bits_of_latents(autoencoder: Path, photos: TensorImages) -> None:
    """A standard normal to precision w takes h(N)/log 2 + log2(1/w) bits per coordinate."""
    codec = measure_codec(autoencoder, photos.images, noise=1 / 64)
    entropy = 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e)) * 256
    bits = codec.bits_per_dim(entropy)
    assert float(bits) == pytest.approx(2.0471 + 6, abs=1e-3)


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
    assert config.class_names == NAMES
    assert config.autoencoder is not None
    assert len(result.loss) == 6
    assert "latent_bits_per_dim" in config.metrics
    assert "mean_level_error" not in config.metrics, "latents are at hand and no pixels"
    assert "bits_per_dim" not in config.metrics, "it is not comparable with pixels"
    assert "train_latent_bits_per_dim" in result.history[0]
    values = json.loads((saved / "config.json").read_text())
    assert values["autoencoder"]["name"] == "tiny-vae"
    assert str(saved.parent.parent) not in json.dumps(values)


def test_mirrored_latents_are_drawn() -> None:
    views = torch.arange(2.0).expand(200, 2)[..., None, None, None].expand(-1, -1, 4, 2, 2)
    drawn = FlowAugmentation(hflip=True)(views, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (200, 4, 2, 2)
    assert 0.4 < float(drawn.mean()) < 0.6
    assert torch.equal(drawn.amin((1, 2, 3)), drawn.amax((1, 2, 3)))


@pytest.mark.parametrize(
    ("changes", "token"),
    [
        ({"augmentation": FlowAugmentation(pad_crop=1)}, r"augmentation\.pad_crop"),
        ({"autoencoder": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_training_refuses(
    changes: dict[str, Any], token: str, photos: TensorImages, config: TrainConfig
) -> None:
    with pytest.raises((ValueError, OSError), match=token):
        train(photos, dataclasses.replace(config, **changes), progress=False)


def test_images_that_do_not_fit(autoencoder: Path) -> None:
    with pytest.raises(ValueError, match=r"channels=3"):
        measure_codec(autoencoder, torch.zeros(2, 1, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(60, 64\)"):
        measure_codec(autoencoder, torch.zeros(2, 3, 60, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match="constant"):
        measure_codec(autoencoder, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_a_resumed_run_keeps_its_scale(
    saved: Path, autoencoder: Path, photos: TensorImages, config: TrainConfig, tmp_path: Path
) -> None:
    """A resumed run keeps the scale of --init, whether or not the settings name the autoencoder."""
    config = dataclasses.replace(
        config,
        trackers=(),
        optim=OptimConfig(warmup_steps=2, decay="constant"),
        prior=dataclasses.replace(config.prior, refit_epoch=0),
    )
    init = nfaug.load(saved, autoencoder=autoencoder)
    others = TensorImages(255 - photos.images // 2, photos.targets, NAMES)
    calm = train(others, config, init=init, progress=False)
    short = dataclasses.replace(config, epochs=1)
    for name, source in (("named", config.autoencoder), ("unnamed", None)):
        folder = tmp_path / name
        train(others, short, init=init, folder=folder, progress=False)
        (folder / "state" / "tiny-vae").symlink_to(autoencoder)
        settings = dataclasses.replace(config, autoencoder=source)
        resumed = train(others, settings, folder=folder, resume=True, progress=False)
        assert resumed.checkpoint.config.autoencoder == init.config.autoencoder
        assert resumed.loss == calm.loss


# Augmentation


def augment(saved: Path, images: Tensor, labels: Tensor, **settings: Any) -> Tensor:
    nfa = nfaug.NFAugment.from_pretrained(
        saved, autoencoder=settings.pop("autoencoder"), p=1.0, gate=False, **settings
    )
    new, _ = nfa(images, labels)
    assert nfa.stats()["applied"] == len(images), nfa.stats()
    return new


@pytest.mark.parametrize("size", [SIZE, (96, 80), (32, 32)])
@pytest.mark.parametrize("kind", ["uint8", "float"])
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
    new = augment(saved, images, labels, autoencoder=autoencoder, strength=0.1, generator=generator)
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


def test_fit_and_preview(
    saved: Path, autoencoder: Path, photos: TensorImages, tmp_path: Path
) -> None:
    from nfaug.augment.preview import preview_grid

    base = nfaug.load(saved, autoencoder=autoencoder)
    fitted = nfaug.fit(base, photos, rank=3, progress=False)
    assert fitted.config.autoencoder == base.config.autoencoder
    again = nfaug.load(fitted.save(tmp_path / "fitted"), autoencoder=autoencoder)
    picture = preview_grid(again, photos, variants=2, classes=2)
    assert picture.width > 4 * SIZE[1]
    bare = nfaug.fit(base.flow, photos, rank=3, progress=False)
    assert bare.config.autoencoder == base.config.autoencoder


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
        *("train", "--recipe", "imagenet-vae", *data, "--out", flow, "--autoencoder", autoencoder),
        *("--dataset.image_size", "[64,64]", "--epochs", "1", "--batch-size", "18"),
        *("--flow.steps", "[1,1]", "--flow.blocks", "[0,0]", "--flow.width", "[4,4]"),
        *("--pca.rank", "4", "--pictures", "false", "--lr", "0.001"),
    )
    assert made["steps"] == 2
    assert (flow / "samples.png").is_file()
    found = ("--flow", flow, "--autoencoder", autoencoder)
    eval_figures = run("eval", *found, *data, "--split", "train")
    assert {"latent_bits_per_dim", "nf_acc", "mean_level_error"} <= set(eval_figures)
    assert not {"bits_per_dim", "exact"} & set(eval_figures)
    run("fit", *found, *data, "--rank", "3", "--out", tmp_path / "fitted")
    found = ("--flow", tmp_path / "fitted", "--autoencoder", autoencoder)
    run("preview", *found, *data, "--out", tmp_path / "grid.png", "--variants", "1")
    run("sample", *found, "--out", tmp_path / "samples.png", "--per-class", "1")
    told = run("info", tmp_path / "fitted", "--autoencoder", autoencoder)
    assert told["autoencoder"]["name"] == "tiny-vae"
    assert main(["eval", *map(str, (*found, *data)), "--split", "train", "--invertibility"]) == 2
    assert "autoencoder" in capsys.readouterr().err


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
    flow = nfaug.Flow.from_pretrained(saved, autoencoder=autoencoder)
    assert flow.codec.record == loaded.config.autoencoder


def test_where_a_directory_is_looked_for(
    saved: Path, autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="autoencoder="):
        nfaug.load(saved)
    (tmp_path / "tiny-vae").symlink_to(autoencoder)
    assert nfaug.load(saved).config.autoencoder is not None
    (tmp_path / "tiny-vae").unlink()
    flow = Path(shutil.copytree(saved, tmp_path / "a" / "flow"))
    (tmp_path / "a" / "tiny-vae").symlink_to(autoencoder)
    assert nfaug.load(flow).config.autoencoder is not None


def test_another_autoencoder_is_refused(saved: Path, tmp_path: Path) -> None:
    other = make_autoencoder(tmp_path / "tiny-vae", seed=1)
    with pytest.raises(CheckpointError, match="SHA-256"):
        nfaug.load(saved, autoencoder=other)


def test_a_flow_on_pixels_takes_no_autoencoder(tiny_path: Path, autoencoder: Path) -> None:
    with pytest.raises(ValueError, match="autoencoder"):
        nfaug.load(tiny_path, autoencoder=autoencoder)


def test_a_flow_without_its_record_is_not_saved(result: TrainResult, tmp_path: Path) -> None:
    checkpoint = result.checkpoint
    wrong = dataclasses.replace(
        checkpoint, config=dataclasses.replace(checkpoint.config, autoencoder=None)
    )
    with pytest.raises(ValueError, match="autoencoder"):
        wrong.save(tmp_path / "flow")


@pytest.mark.parametrize(
    ("change", "token"),
    [
        ({"kind": "module"}, "kind"),
        ({"name": "../../etc"}, "etc"),
        ({"name": ".."}, "directory"),
        ({"name": "a/b", "kind": "hub"}, None),
        ({"name": "a/b/c", "kind": "hub"}, "a/b/c"),
        ({"sha256": "0"}, "sha256"),
        ({"std": [1.0, 1.0, 1.0, 0.0]}, "std"),
        ({"mean": [1e400] * 4}, "inf"),
        ({"mean": "1234"}, "mean"),
        ({"noise": 0}, "noise"),
        ({"noise": True}, "True"),
        ({"image_size": [10**9, 64]}, "image_size"),
        ({"channels": -1}, "channels"),
        ({"extra": 1}, "keys"),
    ],
)
def test_untrusted_records(change: dict[str, Any], token: str | None) -> None:
    values = {
        **{"kind": "directory", "name": "vae", "sha256": "0" * 64, "channels": 3},
        **{"image_size": [64, 64], "mean": [0.0] * 4, "std": [1.0] * 4, "noise": 0.1},
    }
    assert AutoencoderConfig.from_dict(values).image_size == (64, 64)
    if token is None:
        AutoencoderConfig.from_dict(values | change)
        return
    with pytest.raises(ValueError, match=token):
        AutoencoderConfig.from_dict(values | change)


def test_a_record_of_other_latents(saved: Path, autoencoder: Path, tmp_path: Path) -> None:
    flow = Path(shutil.copytree(saved, tmp_path / "flow"))
    sign(flow, lambda values: values["autoencoder"].update(image_size=[128, 128]))
    with pytest.raises(CheckpointError, match=r"\(4, 16, 16\)"):
        nfaug.load(flow, autoencoder=autoencoder)
    sign(flow, lambda values: values["autoencoder"].update(kind="code"))
    with pytest.raises(CheckpointError, match="kind"):
        nfaug.load(flow, autoencoder=autoencoder)


# Opening an autoencoder


def test_weights_decide_and_not_their_files(autoencoder: Path, tmp_path: Path) -> None:
    model = open_autoencoder(autoencoder)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    model.save_pretrained(tmp_path / "sharded", max_shard_size="4KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert weights_sha256(open_autoencoder(tmp_path / "sharded")) == weights_sha256(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    assert weights_sha256(model) != weights_sha256(open_autoencoder(autoencoder))


def test_open_autoencoder_refuses(autoencoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        open_autoencoder(tmp_path)
    copied = Path(shutil.copytree(autoencoder, tmp_path / "vae"))
    values = json.loads((copied / "config.json").read_text())
    weights = copied / "diffusion_pytorch_model.safetensors"

    def write(**changes: Any) -> None:
        (copied / "config.json").write_text(json.dumps({**values, **changes}))

    write(_class_name="UNet2DModel")
    with pytest.raises(ValueError, match="UNet2DModel"):
        open_autoencoder(copied)
    write(quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ValueError, match="unquantised"):
        open_autoencoder(copied)
    for key, value in (
        ("block_out_channels", [10**9] * 4),
        ("block_out_channels", [4] * 100),
        ("layers_per_block", 10**9),
        ("latent_channels", "4"),
    ):
        write(**{key: value})
        with pytest.raises(ValueError, match=key):
            open_autoencoder(copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        open_autoencoder(copied)
    write(latent_channels=5)
    with pytest.raises(ValueError, match="AutoencoderKL"):
        open_autoencoder(copied)
    write()
    weights.rename(weights.with_suffix(".bin"))  # pickles are not read
    with pytest.raises(OSError, match="safetensors"):
        open_autoencoder(copied)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the Hub's client
def test_from_the_hub(
    hub: LoopbackHub, autoencoder: Path, photos: TensorImages, config: TrainConfig, tmp_path: Path
) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo("someone/tiny-vae")
    api.upload_folder(repo_id="someone/tiny-vae", folder_path=autoencoder)
    api.upload_file(
        path_or_fileobj=b"pickle", path_in_repo="weights.bin", repo_id="someone/tiny-vae"
    )
    settings = dataclasses.replace(config, autoencoder="someone/tiny-vae", epochs=1)
    made = train(photos, settings, progress=False).checkpoint
    assert made.config.autoencoder is not None
    assert (made.config.autoencoder.kind, made.config.autoencoder.name) == (
        "hub",
        "someone/tiny-vae",
    )
    assert snapshot_names() == ["config.json", "diffusion_pytorch_model.safetensors"], "no pickle"
    loaded = Checkpoint.load(made.save(tmp_path / "flow"))
    assert loaded.flow.codec.record == made.config.autoencoder
    with pytest.raises(OSError, match="someone/none"):
        open_autoencoder("someone/none")
