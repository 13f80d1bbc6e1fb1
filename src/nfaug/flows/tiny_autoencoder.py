"""The tiny autoencoders of the TAESD family, for Stable Diffusion's and FLUX's latents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# `decoder.3.conv.0.weight` in the published files is `decoder.layers.2.conv.0.weight` in diffusers,
# which does not count the tanh as a layer. State dicts, and hashes of them, have diffusers' names.
_PUBLISHED = re.compile(r"(encoder|decoder)\.(\d+)\.")
_FIRST = "decoder.layers.0.weight"
_GROUPS = 4  # of the normalization of pooled blocks, which the weights do not tell


class TinyAutoencoder(nn.Module):
    """A tiny autoencoder; names and shapes of its weights tell its architecture.

    The encoder maps an image x in [0, 1] to latents: residual blocks at four resolutions, with a
    convolution of stride 2 before each but the first. The decoder maps 3 tanh(z/3) back, with
    nearest-neighbour upsampling. A block is relu(x + conv(x)); a pooled one, as at the lowest
    resolution of FLUX.2's, has x + pool(x) in the place of x.
    SD, SDXL: 4 latent channels; SD3, FLUX.1: 16; FLUX.2: 32 and pooled blocks.

    The decoder computes in bfloat16 on CPUs with matrix units (AMX), where it is four times as fast
    and 52 dB from the float32 image (TAEF2); on others bfloat16 was slower.

    Args:
        weights: Tensors under the names of the published files or of diffusers.

    Raises:
        ValueError: If they are not those of such an autoencoder, also RuntimeError.

    Source: Bohan, Tiny AutoEncoder for Stable Diffusion, https://github.com/madebyollin/taesd
    """

    input_range: tuple[float, float] = (0.0, 1.0)
    factor: int = 8
    latent_channels: int
    encoder: nn.ModuleDict
    decoder: nn.ModuleDict

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        tensors = present_names(weights)
        if _FIRST not in tensors:
            raise ValueError(f"there is no {_FIRST}, but {', '.join(list(tensors)[:3])}")
        width, self.latent_channels, *_ = tensors[_FIRST].shape
        pooled = any(".pool." in name for name in tensors)
        with torch.device("meta"):  # weights that are about to be loaded are not initialised
            encoder = _encoder(width, self.latent_channels, pooled)
            decoder = _decoder(width, self.latent_channels, pooled)
        self.encoder = nn.ModuleDict({"layers": encoder})
        self.decoder = nn.ModuleDict({"layers": decoder})
        self.load_state_dict(tensors, assign=True)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (N, latent_channels, H/8, W/8) of images in [0, 1]."""
        return self.encoder["layers"](x)

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents, in [0, 1] but for overshoots."""
        bf16 = z.device.type == "cpu" and has_matrix_units()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return self.decoder["layers"](3 * torch.tanh(z / 3)).float()


def has_matrix_units() -> bool:
    """Whether the CPU multiplies matrices in bfloat16 (AMX); False if torch is too old to say."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_tile"))


def _encoder(width: int, latent_channels: int, pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, width), _Block(width)]
    for stage in (1, 2, 3):
        layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
        layers.extend(_blocks(3, width, pooled=pooled and stage == 3))
    layers.append(_conv(width, latent_channels))
    return nn.Sequential(*layers)


def _decoder(width: int, latent_channels: int, pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(latent_channels, width), nn.ReLU()]
    layers.extend(_blocks(3, width, pooled=pooled))
    for blocks in (3, 3, 1):
        layers.append(nn.Upsample(scale_factor=2))
        layers.append(nn.Conv2d(width, width, 3, padding=1, bias=False))
        layers.extend(_blocks(blocks, width))
    layers.append(_conv(width, 3))
    return nn.Sequential(*layers)


def _blocks(number: int, width: int, *, pooled: bool = False) -> list[_Block]:
    return [_Block(width, pooled) for _ in range(number)]


class _Block(nn.Module):
    def __init__(self, width: int, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )
        self.pool: nn.Sequential | None = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(_GROUPS, 4 * width),
                nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def present_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of diffusers, which `TinyAutoencoder.state_dict` has as well."""
    return {_PUBLISHED.sub(_present_name, name): value for name, value in weights.items()}


def _present_name(published: re.Match[str]) -> str:
    part = published[1]
    number = int(published[2])
    if part == "decoder":
        number -= 1
    return f"{part}.layers.{number}."
