"""A frozen autoencoder for a flow on latents: its interface, and its record in a checkpoint."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .backbone import is_size


@runtime_checkable
class Autoencoder(Protocol):
    """A `torch.nn.Module` that a flow on latents can use.

    Attributes:
        latent_channels: Channels of the latents.
        factor: Height and width of the images over those of the latents, 2 or more.
        input_range: (lowest, highest) pixel of the images that it encodes and decodes.

    Images have 3 channels, or as many as an attribute `channels` says. Tensors come in torch's
    channels_last memory format: use `reshape`, not `view`.
    """

    latent_channels: int
    factor: int
    input_range: tuple[float, float]

    def encode(self, x: Tensor, /) -> Tensor:
        """Latents (N, latent_channels, H/factor, W/factor) of float32 images (N, C, H, W)."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Images of latents."""


# A path is searched near the checkpoint, so that its record is a name without a path.
_PATH = r"[^/\\\0]+"
_NAMES = {  # by kind
    "hub": r"[\w.-]+(/[\w.-]+)?",
    "directory": _PATH,
    "file": _PATH,
    "object": r"\w+",
}
_SHA256 = r"[0-9a-f]{64}"


@dataclass(frozen=True)
class AutoencoderConfig:
    """What a checkpoint records of its frozen autoencoder, and the scale of the latents.

    Attributes:
        kind: "hub" for a repository on the Hub, "directory" or "file" for a local one, "object" for
            one of the user's own.
        name: The repository, the name of the directory or file without its path, or the class.
        sha256: Hash of the weights; see `weights_sha256`.
        channels: Image channels.
        image_size: (height, width) of the images.
        mean: Mean of each latent channel over training images.
        std: Standard deviation of each latent channel over training images.
        noise: Width, in standard deviations, of the uniform noise that dequantises latents.

    Raises:
        ValueError: If a value is out of range.
        TypeError: If it has another type.
    """

    kind: str
    name: str
    sha256: str
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    noise: float

    def __post_init__(self) -> None:
        for name in ("image_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        name_pattern = _NAMES.get(str(self.kind), "")
        valid = {
            "kind": self.kind in list(_NAMES),  # a list, since the kind may have no hash
            "name": re.fullmatch(name_pattern, str(self.name)) is not None,
            "sha256": re.fullmatch(_SHA256, str(self.sha256)) is not None,
            "channels": type(self.channels) is int and self.channels > 0,
            "image_size": is_size(self.image_size),
            "mean": all(math.isfinite(n) for n in self.mean),
            "std": len(self.std) == len(self.mean) and all(0 < n < math.inf for n in self.std),
            "noise": 0 < self.noise <= 1,
        }
        for name, is_valid in valid.items():
            if not is_valid:
                value = getattr(self, name)
                raise ValueError(
                    f"the record of an autoencoder cannot have the {name} {value!r:.80}"
                )


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the sorted names, the shapes and the float32 values of an autoencoder."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name}{tuple(value.shape)}\0".encode())
        digest.update(value.detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()
