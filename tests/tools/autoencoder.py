"""Tiny autoencoders with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tools.libraries import needs

SETTINGS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (4,) * 4,
        "norm_num_groups": 2,
        "latent_channels": 4,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8,) * 4,
        "decoder_block_out_channels": (8,) * 4,
    },
}


def make_autoencoder(
    path: Path, kind: str = "AutoencoderTiny", seed: int = 0, **changes: Any
) -> Path:
    """An autoencoder as diffusers writes it; 64 x 64 images have latents of 8 x 8."""
    diffusers = needs("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = getattr(diffusers, kind)(**{**SETTINGS[kind], **changes})
    made.save_pretrained(path, safe_serialization=True)
    return path


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def tiny_weights(latents: int = 4, *, pooled: bool = False) -> dict[str, Tensor]:
    """Random weights of the tiny family, 8 channels wide, under the names of published files."""
    diffusers = needs("diffusers")
    settings: dict[str, Any] = {**SETTINGS["AutoencoderTiny"], "latent_channels": latents}
    blocks = [f"encoder.{i}" for i in (11, 12, 13)] + [f"decoder.{i}" for i in (3, 4, 5)]
    pools = {
        "0.weight": (32, 8, 1, 1),
        "1.weight": (32,),
        "1.bias": (32,),
        "3.weight": (8, 32, 1, 1),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = diffusers.AutoencoderTiny(**settings).state_dict()
        added = {f"{b}.pool.{n}": torch.randn(pools[n]) for b in blocks for n in pools if pooled}

    def published(name: str) -> str:
        half, _, number, part = name.split(".", 3)
        return f"{half}.{int(number) + (half == 'decoder')}.{part}"

    return {published(name): value for name, value in found.items()} | added


def save_tiny(path: Path, **options: Any) -> Path:
    """A file of `tiny_weights` in float16, as published."""
    save_file({name: value.half() for name, value in tiny_weights(**options).items()}, path)
    return path
