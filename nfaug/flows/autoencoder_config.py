"""What a checkpoint says of the frozen autoencoder in whose latent space its flow works."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["AutoencoderConfig"]

# A configuration may come from a stranger: what it asks for is bounded.
_LARGEST_SIDE = 4096
_MOST_CHANNELS = 256
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
_NAMES = {
    "hub": re.compile(rf"{_PLAIN}(/{_PLAIN})?"),
    "directory": re.compile(r"[^/\\\0]{1,255}"),
}
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class AutoencoderConfig:
    """A frozen autoencoder, and the scale of its latents.

    Nothing here names code: the autoencoder is always diffusers' `AutoencoderKL`.

    Attributes:
        kind: "hub" for a repository on the Hub, "directory" for a local one.
        name: the repository, or the directory's name without the path to it.
        sha256: of the weights, as `nfaug.flows.autoencoder.weights_sha256` computes it.
        channels: image channels.
        image_size: (height, width) of the images.
        mean, std: of each latent channel, measured on training images.
        noise: width, in standard deviations, of the uniform noise that dequantises latents.

    Raises:
        ValueError: a value is not what it can be.
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
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise ValueError(f"{name} must be a list of numbers; got {str(value)[:40]!r}")
            object.__setattr__(self, name, tuple(value))  # JSON has lists
        pattern = _NAMES.get(self.kind) if isinstance(self.kind, str) else None
        if pattern is None:
            raise ValueError(f"kind must be one of {', '.join(_NAMES)}; got {self.kind!r:.40}")
        if not isinstance(self.name, str) or not pattern.fullmatch(self.name):
            raise ValueError(f"{self.name!r:.99} is no name of a {self.kind}")
        if self.name in (".", ".."):
            raise ValueError(f"{self.name!r} is no name of a directory")
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 must be 64 hexadecimal digits; got {self.sha256!r:.80}")
        sides = self.image_size
        if len(sides) != 2 or any(type(n) is not int or not 1 <= n <= _LARGEST_SIDE for n in sides):
            raise ValueError(f"image_size must be (height, width); got {str(sides)[:80]}")
        if type(self.channels) is not int or not 1 <= self.channels <= _MOST_CHANNELS:
            raise ValueError(f"channels must be a positive whole number; got {self.channels!r:.40}")
        if not 1 <= len(self.mean) == len(self.std) <= _MOST_CHANNELS:
            raise ValueError(
                f"mean and std must have a number a channel; got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        for value in (*self.mean, *self.std, self.noise):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"mean, std and noise must be finite numbers; got {value!r:.40}")
        if min(self.std) <= 0 or not 0 < self.noise <= 1:
            raise ValueError(
                f"std must be positive and noise lie in (0, 1]; got {min(self.std)} and "
                f"{self.noise}"
            )

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> AutoencoderConfig:
        """The configuration of a dictionary.

        Raises:
            ValueError: it is none, a key is unknown or missing, or a value cannot be.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            raise ValueError(f"an autoencoder is an object of {', '.join(sorted(known))}")
        return cls(**values)
