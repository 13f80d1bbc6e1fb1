"""Tiny autoencoders with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_HALVES = ("encoder", "decoder")
_DC = {
    "block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
    "block_out_channels": (8, 8, 8),
    "layers_per_block": (0, 1, 1),  # none at the first resolution, as in the published f32c32
    "qkv_multiscales": ((), (), (5,)),
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
    },
    "AutoencoderDC": {
        "latent_channels": 8,
        "attention_head_dim": 4,
        **{f"{half}_{name}": value for half in _HALVES for name, value in _DC.items()},
    },
}


def make_autoencoder(
    path: Path, kind: str = "AutoencoderKL", seed: int = 0, **changes: Any
) -> Path:
    """An autoencoder as diffusers writes it; 64 x 64 images have latents of 8 x 8, or 16 x 16."""
    import diffusers

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


def tiny_weights(latents: int = 4, *, pooled: bool = False, width: int = 8) -> dict[str, Tensor]:
    """Random weights of the tiny family under the names of the published files."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, size: int = 3, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        shapes.update({f"{name}.bias": (outputs,)} if bias else {})

    for half, index, count in (
        *(("encoder", 1, 1), ("encoder", 3, 3), ("encoder", 7, 3), ("encoder", 11, 3)),
        *(("decoder", 3, 3), ("decoder", 8, 3), ("decoder", 13, 3), ("decoder", 18, 1)),
    ):
        for block in (f"{half}.{number}" for number in range(index, index + count)):
            for part in (0, 2, 4):
                conv(f"{block}.conv.{part}", width, width)
            if pooled and (half, index) in (("encoder", 11), ("decoder", 3)):
                conv(f"{block}.pool.0", width, 4 * width, 1, bias=False)
                conv(f"{block}.pool.3", 4 * width, width, 1, bias=False)
                shapes.update({f"{block}.pool.1.{n}": (4 * width,) for n in ("weight", "bias")})
    for name in (
        *("encoder.2", "encoder.6", "encoder.10"),
        "decoder.7",
        "decoder.12",
        "decoder.17",
    ):
        conv(name, width, width, bias=False)
    conv("encoder.0", 3, width)
    conv("encoder.14", width, latents)
    conv("decoder.1", latents, width)
    conv("decoder.19", width, 3)
    draws = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=draws) / torch.Size(shape[1:]).numel() ** 0.5
        for name, shape in shapes.items()
    }


def save_tiny(path: Path, **options: Any) -> Path:
    """A file of `tiny_weights` in float16, as published."""
    save_file({name: value.half() for name, value in tiny_weights(**options).items()}, path)
    return path
