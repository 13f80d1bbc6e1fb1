"""The shape of a flow."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

__all__ = ["FlowConfig"]

# A configuration may come from a stranger: what it asks for is bounded before it is allocated.
_MOST_LEVELS = 10
_MOST_VALUES = 2**22  # of an image
_MOST_PARAMETERS = 2**30
_MOST_TENSORS = 100_000


@dataclass(frozen=True)
class FlowConfig:
    """Everything that fixes a flow's shape.

    The defaults are the paper's CIFAR flow: 42.8 M parameters, 12 GFLOP an image and direction.

    Attributes:
        channels: image channels.
        image_size: (height, width) of the images that go in and come out.
        padded_size: (height, width) that the flow works at; None for the smallest multiple of
            2^levels. Images are centred on black and the margin is cut off again.
        steps: steps per level.
        blocks: residual blocks per coupling network, per level.
        width: channels of the coupling networks, per level.
        low_rank_above: couplings of more channels than this use a matrix of rank `rank`.
        rank: that rank.
        bound: largest norm of a coupling's matrix in training; sets the length of its series.
        squeeze: how a level folds space into channels: "pixel" for the four pixels of a block,
            "haar" for their orthonormal Haar coefficients.
        max_scale: ActNorm scales stay in [1/max_scale, max_scale]; None for no limit. The limit
            bounds the condition of the map where pixels hardly vary.
        backbone: "mef", the only one there is.

    Raises:
        ValueError: a value is not what a flow can have, or asks for more than a machine has.
    """

    channels: int = 3
    image_size: tuple[int, int] = (32, 32)
    padded_size: tuple[int, int] | None = None
    steps: tuple[int, ...] = (8, 8, 8)
    blocks: tuple[int, ...] = (8, 4, 2)
    width: tuple[int, ...] = (128, 128, 128)
    low_rank_above: int = 24
    rank: int = 3
    bound: float = 2.0
    squeeze: str = "pixel"
    max_scale: float | None = None
    backbone: str = "mef"

    def __post_init__(self) -> None:
        if self.backbone != "mef":
            raise ValueError(f"backbone {self.backbone!r} is not known; the one there is: 'mef'")
        for name in ("image_size", "padded_size", "steps", "blocks", "width"):
            value = getattr(self, name)
            if isinstance(value, list):  # as JSON and YAML give it
                object.__setattr__(self, name, tuple(value))
            elif not isinstance(value, tuple) and not (name == "padded_size" and value is None):
                raise ValueError(f"{name} must be a list of whole numbers; got {value!r}")
        self._check_types()
        self._check_shape()
        self._check_amount()

    def _check_types(self) -> None:
        padded = self.padded_size or ()
        positive = (self.channels, *self.image_size, *padded, *self.steps, *self.width, self.rank)
        counts = (*self.blocks, self.low_rank_above)
        if any(type(n) is not int or n < 1 for n in positive) or any(
            type(n) is not int or n < 0 for n in counts
        ):
            raise ValueError(f"sizes and counts must be positive whole numbers; got {self}")
        if type(self.bound) not in (int, float) or not 0 < self.bound <= 30:
            raise ValueError(f"bound must lie in (0, 30]; got {self.bound!r}")
        if self.squeeze not in ("pixel", "haar"):
            raise ValueError(f"squeeze must be 'pixel' or 'haar'; got {self.squeeze!r}")
        if self.max_scale is not None and (
            type(self.max_scale) not in (int, float) or not 1 < self.max_scale <= 1e6
        ):
            raise ValueError(f"max_scale must lie in (1, 1e6], or be None; got {self.max_scale!r}")

    def _check_shape(self) -> None:
        if not self.steps or not len(self.steps) == len(self.blocks) == len(self.width):
            raise ValueError(
                f"steps {self.steps}, blocks {self.blocks} and width {self.width} must have one "
                "entry a level each"
            )
        if len(self.image_size) != 2 or (self.padded_size and len(self.padded_size) != 2):
            raise ValueError(
                f"sizes are (height, width); got {self.image_size} and {self.padded_size}"
            )
        if self.levels > _MOST_LEVELS:
            raise ValueError(f"a flow has at most {_MOST_LEVELS} levels; got {self.levels}")
        unit = 2**self.levels
        if any(n % unit for n in self.size):
            raise ValueError(
                f"padded_size {self.size} cannot be halved {self.levels} times: use multiples of "
                f"{unit}, or None"
            )
        if any(big < small for big, small in zip(self.size, self.image_size, strict=True)):
            raise ValueError(
                f"padded_size {self.size} is smaller than the images {self.image_size}"
            )

    def _check_amount(self) -> None:
        tensors = sum(s * (12 + 9 * b) for s, b in zip(self.steps, self.blocks, strict=True))
        amounts = {
            "values an image": (self.dim, _MOST_VALUES),
            "parameters": (self.parameter_count, _MOST_PARAMETERS),
            "tensors": (tensors, _MOST_TENSORS),
        }
        for what, (amount, most) in amounts.items():
            if amount > most:
                raise ValueError(f"this flow is too large: {amount} {what}, at most {most}; {self}")

    @property
    def levels(self) -> int:
        """Number of levels, each halving height and width."""
        return len(self.steps)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that the flow works at."""
        if self.padded_size is not None:
            return self.padded_size
        unit = 2**self.levels
        height, width = (math.ceil(n / unit) * unit for n in self.image_size)
        return height, width

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the flow's input and of its latent."""
        return (self.channels, *self.size)

    @property
    def dim(self) -> int:
        """d = C*H*W of the latent."""
        return math.prod(self.shape)

    @property
    def image_dim(self) -> int:
        """C*H*W of the images, without padding."""
        return self.channels * math.prod(self.image_size)

    @property
    def parameter_count(self) -> int:
        """Number of learnt values."""
        total, channels, pixels = 0, self.channels, math.prod(self.size)
        for steps, blocks, width in zip(self.steps, self.blocks, self.width, strict=True):
            channels, pixels = 4 * channels, pixels // 4
            n = channels // 2
            out = n * (n + 1 if n <= self.low_rank_above else 2 * self.rank + 1)
            net = 9 * width * (channels - n) + 2 * width  # the first convolution
            net += blocks * (19 * width**2 + 6 * width) + (9 * width + 1) * out
            total += steps * (2 * channels * pixels + channels**2 + 4 + net)
            channels //= 2
        return total

    @property
    def flop(self) -> int:
        """Floating-point operations of an image in either direction, 2 a multiplication and sum.

        Those of convolutions, which are all but some hundredths: elementwise work and the series of
        the exponentials are left out.
        """
        total, channels, pixels = 0, self.channels, math.prod(self.size)
        for steps, blocks, width in zip(self.steps, self.blocks, self.width, strict=True):
            channels, pixels = 4 * channels, pixels // 4
            n = channels // 2
            out = n * (n + 1 if n <= self.low_rank_above else 2 * self.rank + 1)
            net = 9 * width * (channels - n) + blocks * 19 * width**2 + 9 * width * out
            total += 2 * steps * pixels * (channels**2 + net)
            channels //= 2
        return total

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FlowConfig:
        """The configuration of a dictionary.

        Raises:
            ValueError: a key is unknown, or a value is not what a flow can have.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown flow settings {unknown}; known are {sorted(known)}")
        return cls(**values)
