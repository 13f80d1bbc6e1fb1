"""The tiny autoencoders of the TAESD family, for Stable Diffusion's and FLUX's latents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["TinyAutoencoder"]

# `decoder.3.conv.0.weight` in the published files is `decoder.layers.2.conv.0.weight` in diffusers,
# which does not count the tanh as a layer. State dicts, and hashes of them, have diffusers' names.
_NAME = re.compile(r"(encoder|decoder)\.(layers\.)?([0-9]{1,3})\.(.+)")
_GROUPS = 4  # of the normalisation of pooled blocks, which the weights do not tell
_Shapes: TypeAlias = dict[str, tuple[int, ...]]


class TinyAutoencoder(nn.Module):
    """A tiny autoencoder, built after the names and shapes of its weights.

    The encoder maps an image x in [0, 1] to latents: convolutions and residual blocks, with a
    convolution of stride 2 (the one without a bias) before each coarser level. The decoder maps
    3 tanh(z/3) back, with nearest-neighbour upsampling before each finer level. A block is
    relu(x + conv(x)); a pooled one, as in the coarsest level of FLUX.2's, gets x + pool(x) for x.
    SD, SDXL: 4 latent channels; SD3, FLUX.1: 16; FLUX.2: 32. All reduce by a factor of 8.

    The decoder computes in bfloat16 on CPUs with matrix units (AMX), where it is five times as fast
    and 52 dB from the float32 image (TAEF2); on others bfloat16 was slower.

    Args:
        weights: Tensors under the names of the published files or of diffusers.

    Raises:
        ValueError: If they are not those of such an autoencoder, also RuntimeError and KeyError.

    Source: Bohan, Tiny AutoEncoder for Stable Diffusion, https://github.com/madebyollin/taesd
    """

    input_range = (0.0, 1.0)

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        named, halves = {}, {"encoder": dict[int, _Shapes](), "decoder": dict[int, _Shapes]()}
        for name, value in weights.items():
            if (found := _NAME.fullmatch(name)) is None:
                raise ValueError(f"{name:.80} is in no numbered layer of encoder or decoder")
            half, layers, number, part = found.groups()
            index = int(number) - (half == "decoder" and not layers)
            named[f"{half}.layers.{index}.{part}"] = value
            halves[half].setdefault(index, {})[part] = tuple(value.shape)
        with torch.device("meta"):  # shapes alone
            for half, parts in halves.items():
                layers = [_layer(half, i, parts.get(i)) for i in range(max(parts, default=0) + 1)]
                self.add_module(half, nn.ModuleDict({"layers": nn.Sequential(*layers)}))
            self.channels = halves["encoder"][0]["weight"][1]
            images = torch.empty(1, self.channels, 64, 64)
            latents = self.encode(images)
            self.latent_channels, self.factor = latents.shape[1], 64 // latents.shape[2]
            if self.decode(latents).shape != images.shape:
                raise ValueError("the decoder returns images of another shape")
        self.load_state_dict(named, assign=True)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (N, latent_channels, H/8, W/8) of images in [0, 1]."""
        return self.get_submodule("encoder.layers")(x)

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents, in [0, 1] but for overshoots."""
        fast = z.device.type == "cpu" and torch.cpu._is_amx_tile_supported()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            return self.get_submodule("decoder.layers")(3 * torch.tanh(z / 3)).float()


class _Block(nn.Module):
    def __init__(self, shapes: _Shapes) -> None:
        super().__init__()
        first, second, third = (_conv(shapes[f"conv.{index}.weight"]) for index in (0, 2, 4))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        self.pool: nn.Sequential | None = None
        if "pool.0.weight" in shapes:
            before, after = (_conv(shapes[f"pool.{i}.weight"], bias=False) for i in (0, 3))
            norm = nn.GroupNorm(_GROUPS, shapes["pool.1.weight"][0])
            self.pool = nn.Sequential(before, norm, nn.ReLU(), after)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


def _layer(half: str, index: int, shapes: _Shapes | None) -> nn.Module:
    if shapes is None:  # no weights
        return nn.ReLU() if index == 1 else nn.Upsample(scale_factor=2)
    if "weight" not in shapes:
        return _Block(shapes)
    bias = "bias" in shapes
    return _conv(shapes["weight"], 1 if bias or half == "decoder" else 2, bias=bias)


def _conv(shape: tuple[int, ...], stride: int = 1, *, bias: bool = True) -> nn.Conv2d:
    outputs, inputs, size, _ = shape
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)
