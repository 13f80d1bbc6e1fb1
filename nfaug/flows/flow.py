"""The normalizing flow: a stack of invertible layers at several scales, with a codec for images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .codec import Codec, PixelCodec
from .config import FlowConfig
from .layers import Layer, Squeeze
from .mef import MefSettings
from .networks import DisableTF32

__all__ = ["Flow", "FlowConfig", "MefSettings", "Recompute", "check_finite"]

Recompute = Literal["none", "steps"]

_LayerMap = Callable[[Layer, Tensor], tuple[Tensor, Tensor]]


class Flow(Layer):
    """An invertible map between images and latents of the same shape (C, H, W).

    Each level squeezes space into channels and applies its steps. After every level but the last,
    the first half of the channels goes on and the second half is set aside. At the end all parts
    are put back in place, so no coordinate is dropped.

    `encode` and `decode` take and return 8-bit images. They run in full precision whatever the
    settings of autocast and TF32 are, because either would break the exact round trip. `forward`
    and `inverse` work in flow space (see `nfaug.flows.codec`) under the caller's settings. No
    method copies values from the device, so all can be captured in CUDA graphs.

    Args:
        config: The architecture.
        blocks: The layers of each level; None for new ones.
        codec: Converts images to flow space and back; None for pixels. Not part of the state dict.

    Attributes:
        frozen: Whether `freeze` folded the weights, so that they cannot be trained or saved.
        recompute: See `configure_training`, as for `bf16`.

    Example:
        >>> mef = MefSettings(steps=(1, 1), blocks=(1, 1), width=(8, 8))
        >>> flow = Flow(FlowConfig(1, (8, 8), mef))
        >>> images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
        >>> z, logdet = flow.encode(images)
        >>> z.shape, logdet.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4]))
        >>> torch.equal(flow.decode(z), images)
        True
    """

    _anchor: Tensor

    def __init__(
        self, config: FlowConfig, blocks: nn.ModuleList | None = None, codec: Codec | None = None
    ) -> None:
        super().__init__()
        self.config = config
        pixels = PixelCodec(config.channels, config.image_size, config.size)
        self.codec: Codec = pixels if codec is None else codec
        self.squeeze = config.backbone.fold()
        self.unsqueeze = Squeeze()  # in either case: each level keeps its own positions in latents
        self.blocks = config.backbone.build(config.shape) if blocks is None else blocks
        # Records device and dtype, whatever the defaults are: the device may be "meta".
        anchor = torch.empty(0, device="cpu", dtype=torch.float32)
        self.register_buffer("_anchor", anchor, persistent=False)
        self.frozen = False
        self.recompute: Recompute = "none"
        self.bf16 = False

    @classmethod
    def from_tensors(
        cls, config: FlowConfig, tensors: Mapping[str, Tensor], codec: Codec | None = None
    ) -> Flow:
        """A flow with the given weights, under the names of `state_dict`.

        No weights are initialised, and float32 tensors are used without a copy.

        Raises:
            ValueError: If keys are missing, unexpected or misshapen (one error lists them all), a
                tensor holds NaN or infinity, or the exponents of a coupling are too large.
        """
        with torch.device("meta"):
            flow = cls(config, codec=codec)
        weights = {name: value.to(torch.float32) for name, value in tensors.items()}
        check_finite(weights)
        try:
            flow.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the weights do not fit the flow: {reason}") from None
        return flow

    @property
    def device(self) -> torch.device:
        """The device of the flow's tensors."""
        return self._anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the flow's tensors."""
        return self._anchor.dtype

    @property
    def shape_free(self) -> bool:
        """Whether `with_shape` can give the same map for images of another shape."""
        return self.config.backbone.shape_free and self.codec.record is None

    def configure_training(self, *, recompute: Recompute = "none", bf16: bool = False) -> None:
        """Set what passes that record gradients do to save memory or time.

        Passes without gradients, and so `encode` and `decode` in use, stay in full precision.

        Args:
            recompute: Activations that the backward pass recomputes: "none", or those of "steps".
            bf16: Run the coupling networks in bfloat16.
        """
        self.recompute, self.bf16 = recompute, bf16
        for layer in self._layers():
            layer.use_bf16(bf16)

    def _layers(self) -> list[Layer]:
        """All layers, those inside of others too."""
        return [m for m in self.modules() if isinstance(m, Layer) and m is not self]

    def _levels(self) -> list[list[Layer]]:
        return [list(cast("Iterable[Layer]", steps)) for steps in self.blocks]

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or tuple(x.shape[1:]) != self.config.shape:
            raise ValueError(
                f"this flow takes tensors of shape (B, {', '.join(map(str, self.config.shape))}); "
                f"got {tuple(x.shape)}"
            )

    def _run(self, step: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.recompute != "none" and torch.is_grad_enabled():
            return checkpoint(step, x, use_reentrant=False, preserve_rng_state=False)
        return step(x)

    def _normalize(self, x: Tensor, run: _LayerMap) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        kept: list[Tensor] = []
        for level, steps in enumerate(self._levels()):
            if level:
                x, rest = x.chunk(2, 1)
                kept.append(rest)
            x = self.squeeze(x)[0]
            for step in steps:
                x, logdet = run(step, x)
                total = total + logdet
        for level in range(self.config.levels):
            x = self.unsqueeze.inverse(torch.cat([x, kept.pop()], 1) if level else x)[0]
        return x, total

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z = f(x) of x in flow space, and log|det df/dx| of shape (B,)."""
        self._check(x)
        return self._normalize(x, self._run)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = f^-1(z) in flow space, and log|det df^-1/dz| of shape (B,)."""
        self._check(z)
        kept: list[Tensor] = []
        for level in range(self.config.levels):
            if level:
                z, rest = z.chunk(2, 1)
                kept.append(rest)
            z = self.unsqueeze(z)[0]
        total = z.new_zeros(len(z))
        for steps in reversed(self._levels()):
            for step in reversed(steps):
                z, logdet = step.inverse(z)
                total = total + logdet
            z = self.squeeze.inverse(z)[0]
            if kept:
                z = torch.cat([z, kept.pop()], 1)
        return z, total

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        """Set data-dependent parameters from one batch in flow space and return its latents."""
        self._check(x)

        def run(step: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
            return step.initialize(x), x.new_zeros(len(x))

        return self._normalize(x, run)[0]

    def encode(self, images: Tensor, noise: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
        """Return latents of 8-bit images, z = f((u + e)/128 - 1), and log|det df/dv|.

        Args:
            images: uint8 of shape (B, C, H, W), or floating-point grey levels in [0, 255]. For a
                flow on autoencoder latents, the images are those of the autoencoder.
            noise: e in [0, 1); a tensor has the flow's padded shape. None for 1/2. See
                `LatentCodec` for its meaning on autoencoder latents.

        Returns:
            Latents of shape (B, C, H, W), padding included, and log-determinants of shape (B,).
            Under gaussians p(z | y) of latents, the log-density of v in nats is log p(z | y) plus
            the log-determinant; `flow.codec.bits_per_dim` of its negative gives bits.

        Raises:
            ValueError: If the images have a wrong shape or dtype.
        """
        with torch.autocast(images.device.type, enabled=False):
            prepared = self.codec.prepare(images)  # outside: autoencoders may use TF32
            with DisableTF32(images.device):
                return self(self.codec.dequantize(prepared, noise).to(self.dtype))

    def decode(self, z: Tensor, *, quantize: bool = True) -> Tensor:
        """Return the images of latents: uint8, or floats in [0, 1] with `quantize=False`.

        Raises:
            ValueError: If the latents have a wrong shape.
        """
        with torch.autocast(z.device.type, enabled=False):
            with DisableTF32(z.device):
                v = self.inverse(z.to(self.dtype))[0]
            return self.codec.to_images(v, quantize=quantize)

    def with_shape(self, channels: int, image_size: tuple[int, int]) -> Flow:
        """Return the same map for images of another shape.

        Raises:
            ValueError: If the flow serves one shape only (see `shape_free`).
        """
        if not self.shape_free:
            raise ValueError(
                f"this flow (backbone {self.config.backbone.name!r}) serves images of shape "
                f"{(self.codec.channels, *self.codec.image_size)} only; got "
                f"{(channels, *image_size)}"
            )
        config = FlowConfig(channels, image_size, self.config.backbone)
        return Flow(config).to(self.device, self.dtype).train(self.training)

    def clip_(self) -> None:
        """Move exponents and ActNorm scales back inside their bounds, after an optimizer step."""
        for layer in self._layers():
            layer.clip_()

    def freeze(self) -> Flow:
        """Return a copy for inference: the same map, folded, without parameters."""
        blocks = nn.ModuleList(
            nn.ModuleList(step.freeze() for step in steps) for steps in self._levels()
        )
        frozen = Flow(self.config, blocks, self.codec).to(self.device, self.dtype)
        frozen.frozen = self.frozen or next(self.parameters(), None) is not None
        return frozen.eval()

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.config.shape))
        size = f"{self.config.parameter_count / 1e6:.2f} M parameters"
        return f"Flow({self.config.backbone.name} {shape}, {size})"


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a weight is NaN or infinite."""
    # One pass: a sum is finite only if all terms are. Sums of large terms may overflow.
    bad = [
        name
        for name, value in weights.items()
        if not (value.sum().isfinite() or value.isfinite().all())
    ]
    if bad:
        raise ValueError(f"weights hold NaN or infinity in {', '.join(bad)}")
