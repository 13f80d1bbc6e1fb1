"""Autoencoders of one safetensors file, and those of the user's own."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tools.autoencoder import SETTINGS, Evil, save_tiny, tiny_weights
from tools.libraries import needs
from tools.nfa import NAMES, TensorImages, write_images
from torch import Tensor, nn

import nfaug
from nfaug.checkpoint.autoencoder import open_autoencoder, open_codec
from nfaug.checkpoint.manifest import CheckpointError
from nfaug.cli import main
from nfaug.flows import tiny_autoencoder
from nfaug.flows.autoencoder import weights_sha256
from nfaug.flows.tiny_autoencoder import TinyAutoencoder
from nfaug.io import hub

FAMILY = {"sd": {"latents": 4}, "flux1": {"latents": 16}, "flux2": {"latents": 32, "pooled": True}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "taef2.safetensors", latents=32, pooled=True)


# The tiny family


@pytest.mark.parametrize("kind", FAMILY)
def test_the_family_is_told_from_weights(kind: str, photos: TensorImages, tmp_path: Path) -> None:
    file = save_tiny(tmp_path / "tiny.safetensors", **FAMILY[kind])
    model = open_autoencoder(file)
    latents = FAMILY[kind]["latents"]
    assert (model.latent_channels, model.factor) == (latents, 8)
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    codec = open_codec(file, photos.images)
    assert (codec.record.kind, codec.record.name) == ("file", "tiny.safetensors")
    assert codec.latent_shape == (latents, 8, 8)
    v = codec.prepare(photos.images)
    assert torch.allclose(codec.prepare(photos.images[:1]), v[:1], atol=1e-4)
    save_file(model.state_dict(), file)  # diffusers' names, in float32
    assert weights_sha256(open_autoencoder(file).state_dict()) == codec.record.sha256


@pytest.mark.parametrize("latents", [4, 16])
def test_parity_with_diffusers(latents: int, photos: TensorImages) -> None:
    diffusers = needs("diffusers")
    theirs = diffusers.AutoencoderTiny(**SETTINGS["AutoencoderTiny"], latent_channels=latents)
    ours = TinyAutoencoder(tiny_weights(latents))
    theirs.load_state_dict(ours.state_dict())
    images = photos.images[:3] / 255
    with torch.no_grad():
        z = theirs.encode(images * 2 - 1).latents
        assert torch.allclose(ours.encode(images), z, atol=1e-5)
        decoded = (theirs.decode(z).sample + 1) / 2
        assert torch.allclose(ours.decode(z), decoded, rtol=1e-4, atol=1e-5)
    assert weights_sha256(ours.state_dict()) == weights_sha256(theirs.state_dict())


def test_a_pooled_block(file: Path) -> None:
    block: Any = open_autoencoder(file).get_submodule("decoder.layers.2")
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    weights = dict(block.named_parameters())
    wide = torch.einsum("oi,bihw->bohw", weights["pool.0.weight"][..., 0, 0], x)
    groups = wide.reshape(2, 4, -1)
    normed = (groups - groups.mean(2, keepdim=True)) / groups.std(2, correction=0, keepdim=True)
    scale, shift = (weights[f"pool.1.{name}"][:, None, None] for name in ("weight", "bias"))
    active = (normed.reshape(wide.shape) * scale + shift).relu()
    y = x + torch.einsum("oi,bihw->bohw", weights["pool.3.weight"][..., 0, 0], active)
    assert torch.allclose(block(x), (y + block.conv(y)).relu(), atol=1e-4)


def test_bfloat16(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is fast, of the decoder alone; the result is float32 and close."""
    model = open_autoencoder(file)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = model.encode(x)
        exact = model.decode(z)
        monkeypatch.setattr(tiny_autoencoder, "has_matrix_units", lambda: True)
        assert torch.equal(model.encode(x), z)
        rounded = model.decode(z)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()


def test_the_command_line(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line fits; what follows finds the file beside the checkpoint."""
    write_images(tmp_path / "photos", 64, train=4)
    monkeypatch.chdir(tmp_path)
    data = ["--data", "photos", "--image-size", "64"]
    fit = ["fit", "--checkpoint", "builtin:pixels", "--autoencoder", file.name, "--rank", "3"]
    assert main([*fit, *data, "--out", "flow"]) == 0
    assert main(["preview", "--checkpoint", "flow", *data, "--out", "grid.png"]) == 0
    bank = ["bank", "--checkpoint", "flow", "--data", "photos", "--variants", "2", "--out", "bank"]
    assert main(bank) == 0
    assert len(nfaug.bank.Bank("bank")) == 4 * len(NAMES)


def test_a_repository_of_one_file(
    file: Path, photos: TensorImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        hub, "download", lambda _, names, hub: asked.extend(names) or {file.name: file}
    )
    codec = open_codec("someone/taef2", photos.images)
    assert (codec.record.kind, codec.record.name) == ("hub", "someone/taef2")
    assert asked == ["config.json", "diffusion_pytorch_model.safetensors", file.name]
    assert weights_sha256(open_autoencoder("someone/taef2").state_dict()) == codec.record.sha256


# Bad input

WITHOUT = {k: v for k, v in tiny_weights().items() if k != "decoder.8.conv.2.bias"}
KL = {"encoder.conv_in.weight": torch.zeros(4, 3, 3, 3)}


@pytest.mark.parametrize(
    ("weights", "token"),
    [
        ({"conv1.weight": torch.zeros(4, 3, 7, 7)}, r"conv1\.weight"),
        (KL, r"conv_in\.weight"),
        (WITHOUT, r"decoder\.layers\.7\.conv"),
        ({**tiny_weights(), "decoder.1.weight": torch.zeros(8, 5, 3, 3)}, "size"),
        ({**tiny_weights(), "encoder.0.mask": torch.zeros(3)}, "mask"),
    ],
)
def test_another_architecture(weights: dict[str, Tensor], token: str, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=token) as caught:
        open_autoencoder(tmp_path / "other.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "header", "pickle"])
def test_no_safetensors(damage: str, file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    pickled = pickle.dumps(Evil(tmp_path / "ran"))
    file.write_bytes({"truncated": data[:-9], "header": data[:99], "pickle": pickled}[damage])
    with pytest.raises(ValueError, match=re.escape(file.name)):
        open_autoencoder(file)
    assert not (tmp_path / "ran").exists()


def test_folders(file: Path, tmp_path: Path) -> None:
    assert open_autoencoder(tmp_path).factor == 8, "its only file"
    save_tiny(tmp_path / "second.safetensors")
    with pytest.raises(FileNotFoundError, match="has 2"):
        open_autoencoder(tmp_path)
    with pytest.raises(FileNotFoundError, match="taef3"):
        open_autoencoder("taef3.safetensors")


def test_a_size_that_the_factor_does_not_divide(file: Path) -> None:
    with pytest.raises(ValueError, match=r"factor 8 .*\(127, 127\)"):
        open_codec(file, torch.zeros(2, 3, 127, 127, dtype=torch.uint8))


# An object of the user's own


class Own(nn.Module):
    """Means of 4 x 4 pixels, scaled."""

    latent_channels, factor, input_range = 3, 4, (0.0, 255.0)

    def __init__(self, scale: float = 2.0, **changes: Any) -> None:
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.tensor(scale)), Counter[str]()
        for name, value in changes.items():
            setattr(self, name, value)

    def encode(self, x: Tensor) -> Tensor:
        assert not self.training
        assert 1 < float(x.max()) <= 255
        self.seen["encode"] += len(x)
        return self.scale * nn.functional.avg_pool2d(x, 4)

    def decode(self, z: Tensor) -> Tensor:
        self.seen["decode"] += len(z)
        return nn.functional.interpolate(z / self.scale, scale_factor=4)


def test_an_object(photos: TensorImages, tmp_path: Path) -> None:
    fitted = nfaug.fit("builtin:pixels", photos, autoencoder=Own(), rank=3, progress=False)
    record = fitted.config.autoencoder
    assert record is not None
    assert (record.kind, record.name) == ("object", "Own")
    flow = fitted.flow
    means = nn.functional.avg_pool2d(photos.images / 255, 4)
    back = flow.decode(flow.encode(photos.images)[0], quantize=False)
    assert torch.allclose(back, nn.functional.interpolate(means, scale_factor=4), atol=1e-5)
    saved = fitted.save(tmp_path / "flow")
    with pytest.raises(FileNotFoundError, match=r"'Own'.*autoencoder="):
        nfaug.load(saved)
    with pytest.raises(CheckpointError, match="SHA-256"):
        nfaug.load(saved, autoencoder=Own(3.0))
    count, given = len(photos), Own()
    nfa = nfaug.NFAugment.from_pretrained(saved, autoencoder=given, p=1.0, gate=None)
    own: Any = nfa.engine.codec._autoencoder  # type: ignore[attr-defined]  # a frozen copy
    assert (given.scale.requires_grad, own.scale.requires_grad) == (True, False)
    generators = [torch.Generator().manual_seed(seed) for seed in range(5)]
    for new in nfa.variants(photos.images, photos.targets, generators):
        assert not torch.equal(new, photos.images)
    assert nfa.stats()["applied"] == 5 * count
    assert own.seen == {"encode": count, "decode": 6 * count}, "once, and with each generator"
    again = nfaug.fit(saved, photos, autoencoder=Own(), rank=2, progress=False)
    assert again.config.autoencoder == record


@pytest.mark.parametrize(
    ("changes", "token"),
    [
        ({"channels": 1}, "channels=1"),
        ({"latent_channels": 4}, "latent_channels"),
        ({"factor": 8}, "factor"),
        ({"decode": lambda z: z}, "factor"),
        ({"encode": lambda x: x[..., ::4, ::4] / 0}, "mean"),
    ],
)
def test_an_unfit_object(changes: dict[str, Any], token: str, photos: TensorImages) -> None:
    with pytest.raises(ValueError, match=token):
        open_codec(Own(**changes), photos.images)


def test_no_autoencoder(photos: TensorImages) -> None:
    with pytest.raises(TypeError, match="input_range"):
        nfaug.fit("builtin:pixels", photos, autoencoder=nn.Linear(1, 1))  # type: ignore[arg-type]
