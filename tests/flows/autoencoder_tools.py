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
        "num_encoder_blocks": (1,) * 4,
        "num_decoder_blocks": (1,) * 4,
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


def tiny_weights(latents: int = 4, *, pooled: bool = False, width: int = 8) -> dict[str, Tensor]:
    """Random weights of the tiny family under the names of the published files."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, size: int = 3, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def blocks(half: str, first: int, count: int, pools: bool = False) -> None:
        for index in range(first, first + count):
            for part in (0, 2, 4):
                conv(f"{half}.{index}.conv.{part}", width, width)
            if pools:
                conv(f"{half}.{index}.pool.0", width, 4 * width, 1, bias=False)
                shapes.update(
                    {f"{half}.{index}.pool.1.{n}": (4 * width,) for n in ("weight", "bias")}
                )
                conv(f"{half}.{index}.pool.3", 4 * width, width, 1, bias=False)

    conv("encoder.0", 3, width)
    blocks("encoder", 1, 1)
    for index in (2, 6, 10):
        conv(f"encoder.{index}", width, width, bias=False)
        blocks("encoder", index + 1, 3, pooled and index == 10)
    conv("encoder.14", width, latents)
    conv("decoder.1", latents, width)
    for index in (7, 12, 17):
        blocks("decoder", index - 4, 3, pooled and index == 7)
        conv(f"decoder.{index}", width, width, bias=False)
    blocks("decoder", 18, 1)
    conv("decoder.19", width, 3)
    draws = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=draws) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        for name, shape in shapes.items()
    }


def save_tiny(path: Path, **options: Any) -> Path:
    """A file of `tiny_weights` in float16, as published."""
    weights = tiny_weights(**options)
    save_file({name: value.half() for name, value in weights.items()}, path)
    return path
