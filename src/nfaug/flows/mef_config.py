"""The settings of the backbone "mef", without its layers, which need torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..io.numbers import check_number, check_whole
from ..io.text import did_you_mean
from ..io.types import ModuleList
from .backbone import Backbone, is_size
from .taylor import MAX_BOUND
from .types import Squeeze

SQUEEZE_NAMES = ("pixel", "haar")  # of `nfaug.flows.layers.SQUEEZES`
_MOST_TENSORS = 20_000


@dataclass(frozen=True)
class MefConfig(Backbone):
    """Matrix-exponential couplings on a multi-scale Glow (paper, section 5.1).

    Each level folds 2 x 2 pixels into channels and applies steps of ActNorm, 1x1 convolution and
    `MatrixExpCoupling` (Xiao & Liu 2020). After every level but the last, half of the channels go
    on.

    Args:
        padded_size: (height, width) inside the flow; None for the smallest multiple of 2^levels
            that holds the image. Images are centred on black, and the margin is cropped after
            decoding.
        steps: Steps per level.
        blocks: Residual blocks per coupling network, for each level.
        width: Channels of the coupling networks, for each level.
        low_rank_above: Couplings that transform more channels than this use low-rank matrices.
        rank: Rank of those matrices.
        bound: Largest norm of a coupling's matrix in training; sets the length of its series. Above
            about 5, float32 loses digits of exp(-M), and images no longer come back exactly.
        squeeze: How a level folds space into channels: "pixel" for the four pixels of each 2 x 2
            block, "haar" for their orthonormal Haar coefficients.
        max_scale: ActNorm scales stay in [1/max_scale, max_scale]; None for no limit. The limit
            bounds the condition number of the map where pixels hardly vary.
        attention_heads: Heads of the self-attention after the last convolution of each coupling
            network; 0 for none. Each position attends to all positions of its level, as in some of
            the paper's released flows (6 heads). The number must divide twice the number of input
            channels, so that heads are equally wide at every level.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> mef = MefConfig(steps=(2, 2), blocks=(1, 1), width=(16, 16))
        >>> mef.levels
        2
    """

    name = "mef"

    padded_size: tuple[int, int] | None = None
    steps: tuple[int, ...] = (4, 4)
    blocks: tuple[int, ...] = (1, 1)
    width: tuple[int, ...] = (32, 32)
    low_rank_above: int = 24
    rank: int = 3
    bound: float = 2.0
    squeeze: str = "pixel"
    max_scale: float | None = None
    attention_heads: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padded_size is not None and not is_size(self.padded_size):
            raise ValueError(f"padded_size must be (height, width); got {self.padded_size!r}")
        for name, least in (("steps", 1), ("blocks", 0), ("width", 1)):
            values = getattr(self, name)
            if not _are_counts(values, self.levels, least):
                raise ValueError(
                    f"{name} must be one integer of at least {least} per level; got {values!r} "
                    f"with steps {self.steps!r}"
                )
        check_whole("rank", self.rank)
        check_whole("low_rank_above", self.low_rank_above, 0)
        check_whole("attention_heads", self.attention_heads, 0)
        check_number("bound", self.bound, 0, MAX_BOUND, open_low=True)
        if self.max_scale is not None:
            check_number("max_scale", self.max_scale, 1, 1e6, open_low=True)
        if self.squeeze not in SQUEEZE_NAMES:
            raise ValueError(
                f"squeeze must be one of {', '.join(SQUEEZE_NAMES)}; got {self.squeeze!r}"
                f"{did_you_mean(str(self.squeeze), SQUEEZE_NAMES)}"
            )
        # Settings may come from the Hub: a large number must not keep `build` busy for hours.
        tensors = 0
        for steps, blocks in zip(self.steps, self.blocks, strict=True):
            tensors += steps * (12 + 9 * blocks + 6 * (self.attention_heads > 0))
        if tensors > _MOST_TENSORS:
            raise ValueError(f"the flow is too large: {tensors} tensors, at most {_MOST_TENSORS}")

    @property
    def levels(self) -> int:
        # `__post_init__` asks before it checks the type.
        return len(self.steps) if isinstance(self.steps, tuple) else 0

    def padded(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The size inside the flow, padding included.

        Args:
            image_size: (height, width) of the images.

        Returns:
            `padded_size`, or the smallest multiples of 2^levels that hold the images.
        """
        return self.padded_size or super().padded(image_size)

    def fold(self) -> Squeeze:
        """The layer that folds space into channels at the start of each level.

        Returns:
            A layer without weights.
        """
        from .layers import SQUEEZES  # settings alone need no torch

        return SQUEEZES[self.squeeze]()

    def build(self, shape: tuple[int, int, int]) -> ModuleList:
        """New layers for inputs of one shape.

        Args:
            shape: (C, H, W), padding included.

        Returns:
            A list of steps for each level.

        Raises:
            ValueError: If `attention_heads` does not divide 2C.
        """
        from torch import nn

        from .layers import ActNorm, InvertibleConv1x1, Step
        from .mef import MatrixExpCoupling

        channels, height, width = shape
        if self.attention_heads > 0 and 2 * channels % self.attention_heads != 0:
            raise ValueError(
                f"attention_heads must divide {2 * channels}, twice the number of input channels; "
                f"got {self.attention_heads}"
            )
        levels = nn.ModuleList()
        for steps, blocks, net_width in zip(self.steps, self.blocks, self.width, strict=True):
            channels *= 4
            height //= 2
            width //= 2
            rank = None
            if channels // 2 > self.low_rank_above:
                rank = self.rank
            level = nn.ModuleList()
            for _ in range(steps):
                actnorm = ActNorm((channels, height, width), self.max_scale)
                conv1x1 = InvertibleConv1x1(channels)
                coupling = MatrixExpCoupling(
                    channels, net_width, blocks, rank, self.bound, self.attention_heads
                )
                level.append(Step(actnorm=actnorm, conv1x1=conv1x1, couplinglayer=coupling))
            levels.append(level)
            channels //= 2
        return levels


def _are_counts(values: object, levels: int, least: int) -> bool:
    """Whether there are levels, and `values` is a tuple of one integer >= `least` for each."""
    if levels == 0 or not isinstance(values, tuple) or len(values) != levels:
        return False
    return all(type(n) is int and n >= least for n in values)
