"""The configuration of a flow, and the registry of backbones."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from .backbone import Backbone, Identity, is_size
from .mef_config import MefConfig

_PAPER = MefConfig(steps=(8, 8, 8), blocks=(8, 4, 2), width=(128, 128, 128))
BACKBONES: dict[str, type[Backbone]] = {
    MefConfig.name: MefConfig,
    Identity.name: Identity,
}


@dataclass(frozen=True)
class FlowConfig:
    """The shape of a flow's images, and its architecture.

    By default it is the paper's CIFAR flow: 42.8 M parameters, 12 GFLOP per image and direction.

    Args:
        channels: Image channels.
        image_size: (height, width) of the images.
        backbone: The settings of a class in `BACKBONES`: `MefConfig` for matrix-exponential
            couplings, `Identity` for a map without weights.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> mef = MefConfig(steps=(4, 4), blocks=(1, 1), width=(32, 32))
        >>> config = FlowConfig(1, (28, 28), mef)
        >>> config.levels, config.shape, config.parameter_count
        (2, (1, 28, 28), 204424)
        >>> FlowConfig.from_dict(config.to_dict()) == config
        True
    """

    channels: int = 3
    image_size: tuple[int, int] = (32, 32)
    backbone: Backbone = _PAPER

    def __post_init__(self) -> None:
        size: Any = self.image_size
        if isinstance(size, list):  # as JSON has it
            object.__setattr__(self, "image_size", tuple(size))
        if type(self.channels) is not int or self.channels < 1:
            raise ValueError(f"channels must be a positive integer; got {self.channels!r}")
        if not is_size(self.image_size):
            raise ValueError(f"image_size must be (height, width); got {self.image_size!r}")
        unit = 2**self.levels
        for padded, size in zip(self.size, self.image_size, strict=True):
            if padded % unit != 0 or padded < size:
                raise ValueError(
                    f"padded_size must hold the images of {self.image_size} and be multiples of "
                    f"{unit}, since each of {self.levels} levels halves it; got {self.size}"
                )

    @property
    def levels(self) -> int:
        """Number of levels; each halves height and width."""
        return self.backbone.levels

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) inside the flow, padding included."""
        return self.backbone.padded(self.image_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the flow's input and of its latent."""
        return (self.channels, *self.size)

    @property
    def dim(self) -> int:
        """d = C*H*W of the latent."""
        return math.prod(self.shape)

    @cached_property
    def parameter_count(self) -> int:
        """Number of trainable values."""
        with torch.device("meta"):
            levels = self.backbone.build(self.shape)
        return sum(parameter.numel() for parameter in levels.parameters())

    @cached_property
    def flop(self) -> int:
        """Floating-point operations per image and direction; a multiply-add counts as two.

        Convolutions are counted. Other work, such as the series of exponentials, adds a few
        percent. The products of queries and keys of a flow with `attention_heads` add less than 1%
        at 32 x 32 pixels, and grow with the square of the number of pixels.
        """
        with torch.device("meta"):
            levels = self.backbone.build(self.shape)
        pixels = math.prod(self.size)
        flop = 0
        for steps in levels:
            pixels //= 4
            for module in steps.modules():
                # The matrix or kernel of a convolution; other weights of 3 dimensions are scales.
                dims = (2, 3, 4) if isinstance(module, nn.Conv1d) else (2, 4)
                for parameter in module.parameters(recurse=False):
                    if parameter.dim() in dims:
                        flop += 2 * parameter.numel() * pixels
        return flop

    def to_dict(self) -> dict[str, Any]:
        """Shape, settings and name of the backbone in one dictionary that JSON can hold.

        Returns:
            The values by name.
        """
        values: dict[str, Any] = {"channels": self.channels, "image_size": self.image_size}
        values.update(dataclasses.asdict(self.backbone))
        values["backbone"] = self.backbone.name
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FlowConfig:
        """The configuration that `to_dict` returned; missing keys take the defaults of their class.

        Args:
            values: The values by name.

        Returns:
            The configuration.

        Raises:
            ValueError: If a value is out of range.
            TypeError: If a key is unknown or a value has another type.
        """
        settings = dict(values)
        name = settings.pop("backbone", MefConfig.name)
        if name not in BACKBONES:
            raise ValueError(f"unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}")
        shape: dict[str, Any] = {}
        for key in ("channels", "image_size"):
            if key in settings:
                shape[key] = settings.pop(key)
        if name == Identity.name:
            settings.clear()  # it has none, but files of the first version hold those of "mef"
        return cls(**shape, backbone=BACKBONES[name](**settings))
