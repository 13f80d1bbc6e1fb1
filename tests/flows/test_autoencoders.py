"""Every class of autoencoders: how it is opened, its latents, and NFA on them without a flow."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from autoencoder_tools import Evil
from library_tools import needs
from nfa_tools import TensorImages
from safetensors.torch import load_file, save_file

import nfaug
from nfaug.flows.autoencoder import AutoencoderConfig, open_autoencoder, weights_sha256
from nfaug.flows.latent_codec import measure_codec

LATENTS = {"AutoencoderKL": (4, 8, 8), "AutoencoderTiny": (4, 8, 8), "AutoencoderDC": (8, 16, 16)}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("kind", LATENTS)
def test_latents_are_those_of_the_class(
    kind: str, autoencoders: dict[str, Path], photos: TensorImages
) -> None:
    """The shape, the standardisation, and the images that the class itself decodes."""
    diffusers = needs("diffusers")
    model = open_autoencoder(autoencoders[kind])
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    codec = measure_codec(autoencoders[kind], photos.images, noise=0.1)
    record = codec.record
    assert (record.kind, record.name) == ("directory", kind.lower()), "no path of this machine"
    assert (record.channels, record.image_size, record.noise) == (3, (64, 64), 0.1)
    assert codec.latent_shape == LATENTS[kind]
    v = codec.prepare(photos.images)
    assert v.mean((0, 2, 3)).abs().max() < 1e-4
    assert (v.std((0, 2, 3)) - 1).abs().max() < 1e-4
    theirs = getattr(diffusers, kind).from_pretrained(autoencoders[kind]).eval()
    with torch.no_grad():
        output = theirs.encode(photos.images[:2] / 127.5 - 1)
        raw = {
            "AutoencoderKL": lambda: output.latent_dist.mean,
            "AutoencoderTiny": lambda: output.latents,
            "AutoencoderDC": lambda: output.latent,
        }[kind]()
        decoded = (theirs.decode(raw).sample / 2 + 0.5).clamp(0, 1)
    mean, std = torch.tensor(record.mean), torch.tensor(record.std)
    scaled = (raw - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(v[:2], scaled, atol=1e-4)
    assert torch.allclose(codec.to_images(v[:2], quantize=False), decoded, atol=1e-4)
    assert (codec.to_images(v[:2]) / 255 - decoded).abs().max() < 1 / 255


@pytest.mark.parametrize("kind", LATENTS)
def test_no_flow_on_latents(
    kind: str, autoencoders: dict[str, Path], photos: TensorImages, tmp_path: Path
) -> None:
    """builtin:pixels on latents: fitted, saved, loaded again, and augmenting."""
    fitted = nfaug.fit(
        "builtin:pixels", photos, autoencoder=autoencoders[kind], rank=3, progress=False
    )
    assert fitted.config.flow.backbone.name == "identity"
    assert fitted.config.flow.shape == LATENTS[kind]
    z, logdet = fitted.flow.encode(photos.images)
    assert torch.equal(z, fitted.flow.codec.prepare(photos.images))
    assert not logdet.any()
    saved = fitted.save(tmp_path / "flow")
    nfa = nfaug.NFAugment.from_pretrained(saved, autoencoder=autoencoders[kind], p=1.0, gate=None)
    images = photos.images / 255
    new, _ = nfa(images, photos.targets)
    assert nfa.stats()["applied"] == len(photos)
    assert ((new - images).abs().amax((1, 2, 3)) > 0).all()
    nfa.config = dataclasses.replace(nfa.config, strength=0.0)
    assert torch.equal(nfa(images, photos.targets)[0], images)


def test_a_trained_flow_on_pixels_is_refused(autoencoder: Path, photos: TensorImages) -> None:
    with pytest.raises(ValueError, match="autoencoder="):
        nfaug.fit("builtin:rgb32", photos, autoencoder=autoencoder)


def test_images_that_do_not_fit(autoencoder: Path) -> None:
    for shape, token in (((2, 1, 64, 64), "channels=3"), ((2, 3, 60, 64), r"\(60, 64\)")):
        with pytest.raises(ValueError, match=token):
            measure_codec(autoencoder, torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="std"):
        measure_codec(autoencoder, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


# Opening an autoencoder


@pytest.fixture
def copied(autoencoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(autoencoder, tmp_path / "vae"))


def test_weights_decide_and_not_their_files(autoencoder: Path, copied: Path) -> None:
    model = open_autoencoder(autoencoder)
    save_file(load_file(copied / WEIGHTS), copied / WEIGHTS, metadata={"format": "pt"})
    assert weights_sha256(open_autoencoder(copied)) == weights_sha256(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    assert weights_sha256(model) != weights_sha256(open_autoencoder(autoencoder))


def test_weights_with_the_names_of_old_attention_layers(autoencoder: Path, copied: Path) -> None:
    """As in stabilityai/sd-vae-ft-mse; in half precision, as many publish them."""
    weights, old = load_file(copied / WEIGHTS), {}
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name, value in weights.items():
        for new, before in names.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        old[name] = value.half()
    assert len(set(old) - set(weights)) == 16
    save_file(old, copied / WEIGHTS)
    state, expected = (open_autoencoder(p).state_dict() for p in (copied, autoencoder))
    assert all(torch.equal(state[name], expected[name].half().float()) for name in expected)


@pytest.mark.parametrize(
    ("kind", "changes", "token"),
    [
        ("AutoencoderKL", {"_class_name": "UNet2DModel"}, "UNet2DModel"),
        ("AutoencoderKL", {"_class_name": ["x"]}, "x"),
        ("AutoencoderKL", {"quantization_config": {}}, "unquantised"),
        ("AutoencoderKL", {"latent_channels": 5}, "fit"),
        ("AutoencoderKL", {"norm_num_groups": 0}, "fit"),
        ("AutoencoderKL", {"block_out_channels": [10**9] * 4}, "fit"),
        ("AutoencoderKL", {"block_out_channels": [4] * 100}, "fit"),
        ("AutoencoderDC", {"encoder_layers_per_block": "many"}, "fit"),
    ],
)
def test_untrusted_settings(
    kind: str, changes: Any, token: str, autoencoders: dict[str, Path], tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(autoencoders[kind], tmp_path / "copy"))
    values = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(ValueError, match=token):
        open_autoencoder(copied)


def test_damaged_directories(copied: Path, tmp_path: Path) -> None:
    (copied / WEIGHTS).unlink()
    evil = pickle.dumps(Evil(tmp_path / "ran"))
    for make in (Path.exists, os.mkfifo):  # missing, and a pipe
        make(copied / WEIGHTS)
        with pytest.raises((ValueError, OSError), match="safetensors"):
            open_autoencoder(copied)
    (copied / WEIGHTS).unlink()
    (copied / WEIGHTS).write_bytes(evil)
    with pytest.raises(ValueError, match="safetensors"):
        open_autoencoder(copied)
    assert not (tmp_path / "ran").exists()
    (copied / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        open_autoencoder(copied)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        open_autoencoder(tmp_path)
    with pytest.raises(ValueError, match="no/such/folder"):
        open_autoencoder("no/such/folder")


@pytest.mark.parametrize(
    ("change", "token"),
    [
        ({"kind": "module"}, "kind"),
        ({"name": "../../etc"}, "etc"),
        ({"name": "a/b/c", "kind": "hub"}, "a/b/c"),
        ({"std": [1.0, 1.0, 1.0, 0.0]}, "std"),
        ({"mean": [1e400] * 4}, "inf"),
        ({"noise": 0}, "noise"),
        ({"image_size": [64]}, "image_size"),
    ],
)
def test_untrusted_records(change: dict[str, Any], token: str) -> None:
    values: dict[str, Any] = {
        **{"kind": "directory", "name": "vae", "sha256": "0" * 64, "channels": 3},
        **{"image_size": [64, 64], "mean": [0.0] * 4, "std": [1.0] * 4, "noise": 0.1},
    }
    assert AutoencoderConfig(**values).image_size == (64, 64)
    assert AutoencoderConfig(**{**values, "name": "a/b", "kind": "hub"}).name == "a/b"
    with pytest.raises(ValueError, match=token):
        AutoencoderConfig(**{**values, **change})
