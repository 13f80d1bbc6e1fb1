"""The tiny autoencoders of the TAESD family, for Stable Diffusion's and FLUX's latents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["TinyAutoencoder", "present_names"]

# `decoder.3.conv.0.weight` in the published files is `decoder.layers.2.conv.0.weight` in diffusers,
# which does not count the tanh as a layer. State dicts, and hashes of them, have diffusers' names.
_PUBLISHED = re.compile(r"(encoder|decoder)\.(\d+)\.")
_FIRST = "decoder.layers.0.weight"
_GROUPS = 4  # of the normalisation of pooled blocks, which the weights do not tell


class TinyAutoencoder(nn.Module):
    """A tiny autoencoder, told from the names and shapes of its weights.

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

    input_range, factor = (0.0, 1.0), 8

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        named = present_names(weights)
        if _FIRST not in named:
            raise ValueError(f"there is no {_FIRST}, but {', '.join([*named][:3])}")
        width, self.latent_channels, *_ = named[_FIRST].shape
        pooled = any(".pool." in name for name in named)

        def scale(number: int, pooled: bool = False, stride: int = 1) -> list[nn.Module]:
            conv = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            return [conv, *(_Block(width, pooled) for _ in range(number))]

        with torch.device("meta"):  # weights that are about to be loaded are not initialised
            encoder = [_conv(3, width), _Block(width), *scale(3, stride=2), *scale(3, stride=2)]
            encoder += [*scale(3, pooled, 2), _conv(width, self.latent_channels)]
            decoder = [_conv(self.latent_channels, width), nn.ReLU(), *scale(3, pooled)[1:]]
            for number in (3, 3, 1):
                decoder += [nn.Upsample(scale_factor=2), *scale(number)]
            decoder += [_conv(width, 3)]
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(*encoder)})
        self.decoder = nn.ModuleDict({"layers": nn.Sequential(*decoder)})
        self.load_state_dict(named, assign=True)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (N, latent_channels, H/8, W/8) of images in [0, 1]."""
        return self.encoder["layers"](x)

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents, in [0, 1] but for overshoots."""
        fast = z.device.type == "cpu" and has_matrix_units()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            return self.decoder["layers"](3 * torch.tanh(z / 3)).float()


def has_matrix_units() -> bool:
    """Whether the CPU multiplies matrices in bfloat16 (AMX); False if torch is too old to say."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("amx_tile"))


class _Block(nn.Module):
    def __init__(self, width: int, pooled: bool = False) -> None:
        super().__init__()
        first, second, third = (_conv(width, width) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        self.pool: nn.Sequential | None = None
        if pooled:
            wide = 4 * width
            before, after = (nn.Conv2d(*n, 1, bias=False) for n in ((width, wide), (wide, width)))
            self.pool = nn.Sequential(before, nn.GroupNorm(_GROUPS, wide), nn.ReLU(), after)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def present_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of diffusers, which `TinyAutoencoder.state_dict` has as well."""
    return {_PUBLISHED.sub(_present, name): value for name, value in weights.items()}


def _present(found: re.Match[str]) -> str:
    return f"{found[1]}.layers.{int(found[2]) - (found[1] == 'decoder')}."
