"""Every class of autoencoders: latents and their scale, and NFA on them without a trained flow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from nfa_tools import NAMES, images_of
from PIL import Image

import nfaug
from nfaug.cli import main
from nfaug.data.images import TensorImages
from nfaug.flows.autoencoder import CLASSES, open_autoencoder, reduction
from nfaug.flows.latent_codec import measure_codec
from nfaug.training import TrainConfig, train
from nfaug.training.config import FlowSettings, PCAConfig, recipe_path
from nfaug.training.evaluation.cost import AUTOENCODERS, recipe_config

SIZE = (64, 64)
LATENTS = {
    "AutoencoderKL": (4, 8, 8),
    "AutoencoderTiny": (4, 8, 8),
    "AutoencoderDC": (8, 16, 16),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (4,) * 4,
        "norm_num_groups": 2,
        "latent_channels": 4,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (4,) * 4,
        "decoder_block_out_channels": (4,) * 4,
        "num_encoder_blocks": (1,) * 4,
        "num_decoder_blocks": (1,) * 4,
    },
    "AutoencoderDC": {  # no layers at the first resolution, as in the published f32c32
        "latent_channels": 8,
        "attention_head_dim": 4,
        **{
            f"{half}_{name}": value
            for half in ("encoder", "decoder")
            for name, value in (
                ("block_types", ("ResBlock", "ResBlock", "EfficientViTBlock")),
                ("block_out_channels", (8, 8, 8)),
                ("layers_per_block", (0, 1, 1)),
                ("qkv_multiscales", ((), (), (5,))),
            )
        },
    },
}


def make(kind: str, path: Path, **changes: Any) -> Path:
    """A tiny autoencoder with random weights, written as diffusers writes it."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(diffusers, kind)(**{**SETTINGS[kind], **changes})
    made.save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture(scope="session")
def autoencoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("autoencoders")
    return {kind: make(kind, folder / kind.lower()) for kind in CLASSES}


@pytest.fixture(scope="session")
def photos() -> TensorImages:
    labels = torch.arange(24) % 3
    return TensorImages(images_of(labels, size=SIZE), labels, NAMES)


def run_command(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code = main([*map(str, words), "--json"])
    ran = capsys.readouterr()
    assert code == 0, ran.err
    return json.loads(ran.out)


@pytest.mark.parametrize("kind", CLASSES)
def test_latents_are_those_of_the_class(
    kind: str, autoencoders: dict[str, Path], photos: TensorImages
) -> None:
    """The shape, the standardisation, and the images that the class itself decodes."""
    model = open_autoencoder(autoencoders[kind])
    assert type(model).__name__ == kind
    assert not any(p.requires_grad for p in model.parameters())
    codec = measure_codec(autoencoders[kind], photos.images)
    assert codec.latent_shape == LATENTS[kind]
    v = codec.prepare(photos.images)
    assert v.mean((0, 2, 3)).abs().max() < 1e-4
    assert (v.std((0, 2, 3)) - 1).abs().max() < 1e-4
    with torch.no_grad():
        output = model.encode(photos.images[:2] / 127.5 - 1)
        raw = {
            "AutoencoderKL": lambda: output.latent_dist.mean,
            "AutoencoderTiny": lambda: output.latents,
            "AutoencoderDC": lambda: output.latent,
        }[kind]()
        decoded = (model.decode(raw).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(codec.to_images(v[:2], quantize=False), decoded, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "convention"),
    [
        ("AutoencoderKL", {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
        ("AutoencoderTiny", {"scaling_factor": 0.5, "latent_magnitude": 5, "latent_shift": 0.2}),
        ("AutoencoderDC", {"scaling_factor": 0.41407}),
    ],
)
def test_published_scales_change_nothing(
    kind: str, convention: dict[str, float], photos: TensorImages, tmp_path: Path
) -> None:
    """(z - shift) * scale, standardised by its own moments, is z standardised by its own."""
    plain = measure_codec(make(kind, tmp_path / "plain"), photos.images)
    scaled = measure_codec(make(kind, tmp_path / "scaled", **convention), photos.images)
    assert torch.equal(plain.prepare(photos.images), scaled.prepare(photos.images))
    z = plain.prepare(photos.images) * torch.tensor(plain.record.std)[:, None, None]
    shifted = (z - convention.get("shift_factor", 0.0)) * convention["scaling_factor"]
    moments = shifted.std((0, 2, 3), keepdim=True), shifted.mean((0, 2, 3), keepdim=True)
    assert torch.allclose(
        (shifted - moments[1]) / moments[0], plain.prepare(photos.images), atol=1e-4
    )


def test_the_tiny_decoder_squashes_latents(autoencoders: dict[str, Path]) -> None:
    """Beyond 3 a latent hardly changes the image: docs/autoencoders.md says so."""
    model = open_autoencoder(autoencoders["AutoencoderTiny"])
    z = torch.full((1, 4, 8, 8), 12.0)
    with torch.no_grad():
        near, far = model.decode(z).sample, model.decode(4 * z).sample
        inside = model.decode(z / 12).sample
    assert (near - far).abs().max() < 0.01 * (near - inside).abs().max()


@pytest.mark.parametrize("kind", CLASSES)
def test_no_flow_on_latents(
    kind: str, autoencoders: dict[str, Path], photos: TensorImages, tmp_path: Path
) -> None:
    """builtin:pixels on latents: fitted, saved, loaded again, and augmenting."""
    fitted = nfaug.fit(
        "builtin:pixels", photos, autoencoder=autoencoders[kind], rank=3, progress=False
    )
    assert fitted.config.flow.backbone == "identity"
    assert fitted.config.flow.shape == LATENTS[kind]
    z, logdet = fitted.flow.encode(photos.images)
    assert torch.equal(z, fitted.flow.codec.prepare(photos.images))
    assert not logdet.any()
    saved = fitted.save(tmp_path / "flow")
    nfa = nfaug.NFAugment.from_pretrained(saved, autoencoder=autoencoders[kind], p=1.0, gate=False)
    images = photos.images / 255
    new, _ = nfa(images, photos.targets)
    assert nfa.stats()["applied"] == len(photos)
    assert ((new - images).abs().amax((1, 2, 3)) > 0).all()
    nfa.strength = 0.0
    assert torch.equal(nfa(images, photos.targets)[0], images)


@pytest.mark.parametrize("kind", ["AutoencoderTiny", "AutoencoderDC"])
def test_a_flow_is_trained_on_latents(
    kind: str, autoencoders: dict[str, Path], photos: TensorImages
) -> None:
    config = TrainConfig(
        epochs=1,
        batch_size=12,
        autoencoder=str(autoencoders[kind]),
        flow=FlowSettings(steps=(1, 1), blocks=(0, 0), width=(4, 4)),
        pca=PCAConfig(rank=2),
    )
    made = train(photos, config, progress=False).checkpoint
    assert made.config.flow.shape == LATENTS[kind]
    new, _ = nfaug.NFAugment(made, p=1.0, gate=False)(photos.images / 255, photos.targets)
    assert torch.isfinite(new).all()


def test_fit_from_the_command_line(
    autoencoders: dict[str, Path],
    photos: TensorImages,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Photographs of several sizes, read at one by --img-size."""
    for index, (image, label) in enumerate(photos):
        folder = tmp_path / "photos" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.resize((70 + index, 80)).save(folder / f"{index}.png")
    data = ("--data", tmp_path / "photos", "--rank", 3)
    where = ("--autoencoder", autoencoders["AutoencoderTiny"])
    pixels = ("fit", "--flow", "builtin:pixels", *data, "--img-size", 64)
    made = run_command(capsys, *pixels, *where, "--out", tmp_path / "flow")
    assert (made["classes"], made["images"]) == (3, 24)
    told = run_command(capsys, "info", tmp_path / "flow", *where)
    assert told["autoencoder"]["image_size"] == [64, 64]
    assert told["flow"]["image_size"] == [8, 8]
    again = ("fit", "--flow", tmp_path / "flow", *data, *where, "--out", tmp_path / "again")
    assert run_command(capsys, *again)["images"] == 24, "a flow on latents finds its autoencoder"
    run_command(capsys, *pixels, "--out", tmp_path / "plain")
    assert nfaug.load(tmp_path / "plain").config.flow.shape == (3, 64, 64)
    assert main([*map(str, (*again, "--img-size", 64, "--overwrite"))]) == 2
    assert "--img-size" in capsys.readouterr().err


def test_a_trained_flow_on_pixels_is_refused(
    autoencoders: dict[str, Path], photos: TensorImages
) -> None:
    with pytest.raises(ValueError, match="autoencoder="):
        nfaug.fit("builtin:rgb32", photos, autoencoder=autoencoders["AutoencoderTiny"])


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("AutoencoderTiny", "num_encoder_blocks", [1, 1, 1, 10**6]),
        ("AutoencoderTiny", "upsampling_scaling_factor", 10**6),
        ("AutoencoderDC", "encoder_layers_per_block", [-1, 1, 1]),
        ("AutoencoderDC", "decoder_qkv_multiscales", [[], [], [10**6]]),
        ("AutoencoderDC", "decoder_qkv_multiscales", [[], [], [[5]]]),
        ("AutoencoderDC", "attention_head_dim", True),
    ],
)
def test_untrusted_sizes(
    kind: str, key: str, value: Any, autoencoders: dict[str, Path], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(autoencoders[kind], tmp_path / "copy"))
    values = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**values, key: value}))
    with pytest.raises(ValueError, match=key):
        open_autoencoder(copied)


def test_a_decoder_of_another_factor(photos: TensorImages, tmp_path: Path) -> None:
    made = make(
        "AutoencoderTiny",
        tmp_path / "uneven",
        decoder_block_out_channels=(4, 4),
        num_decoder_blocks=(1, 1),
    )
    with pytest.raises(ValueError, match="factor"):
        measure_codec(made, photos.images)


def published() -> dict[str, Any]:
    """The published autoencoders of the recipes, by name, without weights."""
    import diffusers

    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    wide = (128, 256, 512, 512, 1024, 1024)
    with torch.device("meta"):
        return {
            "stabilityai/sd-vae-ft-mse": diffusers.AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
            ),
            "madebyollin/taesd": diffusers.AutoencoderTiny(),
            "mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers": diffusers.AutoencoderDC(
                encoder_block_types=blocks,
                decoder_block_types=blocks,
                encoder_block_out_channels=wide,
                decoder_block_out_channels=wide,
                downsample_block_type="conv",
                upsample_block_type="interpolate",
            ),
        }


@pytest.mark.parametrize("recipe", ["imagenet-vae", "imagenet-taesd", "imagenet-dc"])
def test_what_the_autoencoders_of_the_recipes_cost(recipe: str) -> None:
    """GFLOP per image in `nfaug info --recipe` and in the comments, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    name = recipe_config(recipe).autoencoder
    assert name is not None
    model, entry = published()[name], AUTOENCODERS[name]
    assert reduction(model) == entry.factor
    side = 256 // entry.factor
    costs = []
    with torch.device("meta"):
        inputs = torch.empty(1, 3, 256, 256), torch.empty(1, entry.channels, side, side)
    for run, given in zip((model.encode, model.decode), inputs, strict=True):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(given)
        costs.append(round(counter.get_total_flops() / 1e9))
    assert costs == [entry.encode, entry.decode]
    head = " ".join(recipe_path(recipe).read_text().replace("#", " ").split())
    assert f"once, {costs[0]} GFLOP each" in head
    assert f"per image, {costs[0]} and {costs[1]} GFLOP" in head
