"""Autoencoders as diffusers writes them: how they are opened, and NFA on them without a flow."""

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
from safetensors.torch import load_file, save_file
from tools.autoencoder import Evil, make_autoencoder
from tools.libraries import needs
from tools.nfa import TensorImages
from torch import Tensor

import nfaug
from nfaug.checkpoint.autoencoder import open_autoencoder, open_codec
from nfaug.flows.autoencoder import AutoencoderConfig, weights_sha256

WEIGHTS = "diffusion_pytorch_model.safetensors"
LATENTS = (4, 8, 8)


def wrapped(path: Path) -> Any:
    """An AutoencoderKL as the page on photographs wraps one."""
    diffusers = needs("diffusers")

    class Wrapped(diffusers.AutoencoderKL):
        latent_channels, factor, input_range = 4, 8, (-1.0, 1.0)

        def encode(self, x: Tensor) -> Tensor:
            return super().encode(x).latent_dist.mode()

        def decode(self, z: Tensor) -> Tensor:
            return super().decode(z).sample

    return Wrapped.from_pretrained(path)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_latents_are_those_of_the_class(kind: str, photos: TensorImages, tmp_path: Path) -> None:
    """The shape, the standardisation, and the images that the class itself decodes."""
    theirs = getattr(needs("diffusers"), kind)
    folder = make_autoencoder(tmp_path / "mine", kind)
    source = wrapped(folder) if kind == "AutoencoderKL" else folder
    model = open_autoencoder(source)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    codec = open_codec(source, photos.images, noise=0.1)
    record = codec.record
    names = ("object", "Wrapped") if kind == "AutoencoderKL" else ("directory", "mine")
    assert (record.kind, record.name) == names, "no path of this machine"
    assert (record.channels, record.image_size, record.noise) == (3, (64, 64), 0.1)
    assert codec.latent_shape == LATENTS
    v = codec.prepare(photos.images)
    assert v.mean((0, 2, 3)).abs().max() < 1e-4
    assert (v.std((0, 2, 3)) - 1).abs().max() < 1e-4
    theirs = theirs.from_pretrained(folder).eval()
    assert record.sha256 == weights_sha256(theirs.state_dict())
    with torch.no_grad():
        output = theirs.encode(photos.images[:2] / 127.5 - 1)
        raw = output.latent_dist.mean if kind == "AutoencoderKL" else output.latents
        decoded = (theirs.decode(raw).sample / 2 + 0.5).clamp(0, 1)
    mean, std = torch.tensor(record.mean), torch.tensor(record.std)
    scaled = (raw - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(v[:2], scaled, atol=1e-4)
    assert torch.allclose(codec.to_images(v[:2], quantize=False), decoded, atol=1e-4)
    assert (codec.to_images(v[:2]) / 255 - decoded).abs().max() < 1 / 255


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_no_flow_on_latents(kind: str, photos: TensorImages, tmp_path: Path) -> None:
    """builtin:pixels on latents: fitted, saved, loaded again, and augmenting."""
    source: Any = make_autoencoder(tmp_path / "mine", kind)
    if kind == "AutoencoderKL":
        with pytest.raises(ValueError, match=r"AutoencoderKL.*photographs"):
            open_autoencoder(source)
        source = wrapped(source)
    fitted = nfaug.fit("builtin:pixels", photos, autoencoder=source, rank=3, progress=False)
    assert fitted.config.flow.backbone.name == "identity"
    assert fitted.config.flow.shape == LATENTS
    z, logdet = fitted.flow.encode(photos.images)
    assert torch.equal(z, fitted.flow.codec.prepare(photos.images))
    assert not logdet.any()
    saved = fitted.save(tmp_path / "flow")
    nfa = nfaug.NFAugment.from_pretrained(saved, autoencoder=source, p=1.0, gate=None)
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
            open_codec(autoencoder, torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="std"):
        open_codec(autoencoder, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


# Opening an autoencoder


@pytest.fixture
def copied(autoencoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(autoencoder, tmp_path / "vae"))


def test_weights_decide_and_not_their_files(autoencoder: Path, copied: Path) -> None:
    model = open_autoencoder(autoencoder)
    save_file(load_file(copied / WEIGHTS), copied / WEIGHTS, metadata={"format": "pt"})
    before = weights_sha256(model.state_dict())
    assert weights_sha256(open_autoencoder(copied).state_dict()) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    assert weights_sha256(model.state_dict()) != before


@pytest.mark.parametrize(
    ("changes", "token"),
    [
        ({"_class_name": "UNet2DModel"}, "UNet2DModel"),
        ({"_class_name": ["x"]}, "x"),
        ({"quantization_config": {}}, "unquantised"),
    ],
)
def test_untrusted_settings(changes: Any, token: str, copied: Path) -> None:
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
