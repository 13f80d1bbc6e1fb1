"""What a backbone is, and the backbone "identity", a flow without weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..io.types import ModuleList
from .types import Squeeze

Recompute = Literal["none", "steps"]  # what a training computes again in its backward pass


@dataclass(frozen=True)
class Backbone:
    """The settings of one family of flows; they build its layers and tell its size.

    A new backbone is a module with a frozen dataclass that derives from this one, and an entry in
    `nfaug.flows.config.BACKBONES`. Its fields are its settings: numbers, strings and tuples, all
    with defaults. `config.json` of a checkpoint holds them beside the shape of the images.

    Attributes:
        name: Its name in `config.json`.
        shape_free: Whether the same weights serve every number of channels and every size.
    """

    name: ClassVar[str]
    shape_free: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # JSON and YAML have lists
                object.__setattr__(self, field.name, tuple(value))

    @property
    def levels(self) -> int:
        """Number of levels; each halves height and width."""
        return 0

    def padded(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) inside the flow: the smallest multiples of 2^levels that hold images."""
        unit = 2**self.levels
        height, width = image_size
        padded_height = (height + unit - 1) // unit * unit
        padded_width = (width + unit - 1) // unit * unit
        return padded_height, padded_width

    def fold(self) -> Squeeze:
        """The layer that folds space into channels at the start of each level."""
        from .layers import Squeeze  # settings alone need no torch

        return Squeeze()

    def build(self, shape: tuple[int, int, int]) -> ModuleList:
        """New layers for inputs of shape (C, H, W): a list of `Layer` for each level."""
        from torch import nn

        return nn.ModuleList()


@dataclass(frozen=True)
class Identity(Backbone):
    """z = v with log|det| = 0, for images of any size and number of channels.

    The latent is the image in flow space, so classwise PCA and mixing work on pixels. This is the
    baseline that a trained flow has to beat.
    """

    name = "identity"
    shape_free = True


def is_size(value: Any) -> bool:
    """Whether a value is (height, width), two positive integers."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(type(n) is int and n > 0 for n in value)
