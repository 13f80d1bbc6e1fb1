"""Tiny autoencoders with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
