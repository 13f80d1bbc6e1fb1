"""The normalizing flow: a stack of invertible layers at several scales, with a codec for images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..data.view import Wanted
from ..io.progress import progress_bar
from .backbone import Recompute
from .codec import Codec, PixelCodec
from .config import FlowConfig
from .layers import Layer, Squeeze
from .networks import DisableTF32

_LayerMap = Callable[[Layer, Tensor], Tensor]


class Flow(Layer):
    """An invertible map between images and latents of the same shape (C, H, W).

    Each level squeezes space into channels and applies its steps. After every level but the last,
    the first half of the channels goes on and the second half is set aside. At the end all parts
    are put back in place, so no coordinate is dropped.

    `encode` and `decode` take and return 8-bit images. They run in full precision whatever the
    settings of autocast and TF32 are, because either would break the exact round trip. `forward`
    and `inverse` work in flow space (see `nfaug.flows.codec`) under the caller's settings. None of
    the four copies values from the device, which would make the host wait for a GPU.

    Args:
        config: The architecture.
        blocks: The layers of each level; None for new ones.
        codec: Converts images to flow space and back; None for pixels. Not part of the state dict.

    Attributes:
        shape: (C, H, W) of latents, padding included.
        frozen: Whether `freeze` folded the weights, so that they cannot be trained or saved.
        recompute: See `configure_training`, as for `bf16`.

    Example:
        >>> from nfaug import MefConfig
        >>> mef = MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8))
        >>> flow = Flow(FlowConfig(1, (8, 8), mef))
        >>> images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
        >>> z, logdet = flow.encode(images)
        >>> z.shape, logdet.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4]))
        >>> torch.equal(flow.decode(z), images)
        True
    """

    config: FlowConfig
    codec: Codec
    squeeze: Squeeze
    unsqueeze: Squeeze
    blocks: nn.ModuleList
    shape: tuple[int, int, int]
    frozen: bool
    recompute: Recompute
    bf16: bool
    _anchor: Tensor

    def __init__(
        self, config: FlowConfig, blocks: nn.ModuleList | None = None, codec: Codec | None = None
    ) -> None:
        super().__init__()
        if codec is None:
            codec = PixelCodec(config.channels, config.image_size, config.size)
        if blocks is None:
            blocks = config.backbone.build(config.shape)
        self.config = config
        self.shape = config.shape
        self.codec = codec
        self.squeeze = config.backbone.fold()
        # At the end, all parts go back to the positions of pixels, also with a `HaarSqueeze`.
        self.unsqueeze = Squeeze()
        self.blocks = blocks
        # An empty buffer tells device and dtype, also of a flow without weights. Its first device
        # is the CPU, even where weights are made on "meta".
        anchor = torch.empty(0, device="cpu", dtype=torch.float32)
        self.register_buffer("_anchor", anchor, persistent=False)
        self.frozen = False
        self.recompute = "none"
        self.bf16 = False

    @classmethod
    def from_tensors(
        cls, config: FlowConfig, tensors: Mapping[str, Tensor], codec: Codec | None = None
    ) -> Flow:
        """A flow with the given weights, under the names of `state_dict`.

        No weights are initialised, and float32 tensors are used without a copy.

        Args:
            config: The architecture.
            tensors: The weights by name.
            codec: As for `Flow`.

        Returns:
            The flow.

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
    def wanted(self) -> Wanted:
        """The channels and the size of the images that it takes; a `shape_free` one takes any."""
        if self.shape_free:
            return Wanted()
        return Wanted(self.codec.channels, self.codec.image_size)

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
        self.recompute = recompute
        self.bf16 = bf16
        for layer in self._layers():
            layer.use_bf16(bf16)

    def _layers(self) -> list[Layer]:
        """All layers, including those inside of other layers."""
        layers: list[Layer] = []
        for module in self.modules():
            if isinstance(module, Layer) and module is not self:
                layers.append(module)
        return layers

    def _levels(self) -> list[list[Layer]]:
        """The steps of each level."""
        return [list(cast("Iterable[Layer]", steps)) for steps in self.blocks]

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or tuple(x.shape[1:]) != self.shape:
            channels, height, width = self.shape
            raise ValueError(
                f"this flow takes tensors of shape (B, {channels}, {height}, {width}); "
                f"got {tuple(x.shape)}"
            )

    def _run(self, step: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.recompute != "none" and torch.is_grad_enabled():
            return checkpoint(step, x, use_reentrant=False, preserve_rng_state=False)
        return step(x)

    def _normalize(self, x: Tensor, run: _LayerMap) -> Tensor:
        """Return z, where `run` applies a step."""
        set_aside: list[Tensor] = []
        for level, steps in enumerate(self._levels()):
            if level > 0:
                x, rest = x.chunk(2, 1)
                set_aside.append(rest)
            x = self.squeeze.map(x)
            for step in steps:
                x = run(step, x)
        for level in range(len(self.blocks)):
            if level > 0:
                x = torch.cat([x, set_aside.pop()], 1)
            x = self.unsqueeze.map_back(x)
        return x

    def _restore(self, z: Tensor, run: _LayerMap) -> Tensor:
        """Return x, where `run` applies the inverse of a step."""
        set_aside: list[Tensor] = []
        for level in range(len(self.blocks)):
            if level > 0:
                z, rest = z.chunk(2, 1)
                set_aside.append(rest)
            z = self.unsqueeze.map(z)
        for steps in reversed(self._levels()):
            for step in reversed(steps):
                z = run(step, z)
            z = self.squeeze.map_back(z)
            if set_aside:
                z = torch.cat([z, set_aside.pop()], 1)
        return z

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The latents of tensors in flow space, z = f(x).

        Args:
            x: (B, C, H, W) with C, H, W of `shape`; 8-bit levels u are u/128 - 1 there.

        Returns:
            z, shape (B, C, H, W), and log|det df/dx|, shape (B,), in nats.
        """
        self._check(x)
        total = x.new_zeros(len(x))

        def run(step: Layer, x: Tensor) -> Tensor:
            nonlocal total
            x, logdet = self._run(step, x)
            total = total + logdet
            return x

        return self._normalize(x, run), total

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The tensors in flow space of latents, x = f^-1(z).

        Args:
            z: (B, C, H, W) with C, H, W of `shape`.

        Returns:
            x, shape (B, C, H, W), and log|det df^-1/dz|, shape (B,), in nats.

        Example:
            >>> x, _ = flow.inverse(flow(torch.zeros(2, 1, 8, 8))[0])
            >>> bool(x.abs().max() < 1e-4)
            True
        """
        self._check(z)
        total = z.new_zeros(len(z))

        def run(step: Layer, z: Tensor) -> Tensor:
            nonlocal total
            z, logdet = step.inverse(z)
            total = total + logdet
            return z

        return self._restore(z, run), total

    def map(self, x: Tensor) -> Tensor:
        """The latents that `forward` returns, without log-determinants.

        Args:
            x: (B, C, H, W) in flow space.

        Returns:
            z, shape (B, C, H, W).
        """
        self._check(x)
        return self._normalize(x, lambda step, x: step.map(x))

    def map_back(self, z: Tensor) -> Tensor:
        """The tensors that `inverse` returns, without log-determinants.

        Args:
            z: (B, C, H, W).

        Returns:
            x in flow space, shape (B, C, H, W).
        """
        self._check(z)
        return self._restore(z, lambda step, z: step.map_back(z))

    @torch.no_grad()
    def initialize(self, x: Tensor, *, progress: bool = False) -> Tensor:
        """Set the parameters that depend on data, those of ActNorm, from one batch.

        Args:
            x: (B, C, H, W) in flow space.
            progress: Show a bar.

        Returns:
            The latents of the batch, (B, C, H, W).

        Example:
            >>> new = Flow(flow.config)
            >>> new.initialize(torch.randn(64, 1, 8, 8)).shape
            torch.Size([64, 1, 8, 8])
        """
        self._check(x)
        steps = sum(map(len, self._levels()))
        with progress_bar(steps, "initialisation", "step", shown=progress) as bar:

            def run(step: Layer, x: Tensor) -> Tensor:
                x = step.initialize(x)
                bar.update()
                return x

            return self._normalize(x, run)

    def encode(self, images: Tensor, noise: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
        """The latents of 8-bit images, z = f((u + e)/128 - 1), and log|det df/dv|.

        Args:
            images: uint8 of shape (B, C, H, W), or floating-point gray levels in [0, 255]. For a
                flow on autoencoder latents, the images are those of the autoencoder.
            noise: e in [0, 1); a tensor has the flow's padded shape. None for 1/2. See
                `LatentCodec` for its meaning on autoencoder latents.

        Returns:
            Latents of shape (B, C, H, W), padding included, and log-determinants of shape (B,).
            Under Gaussians p(z | y) of latents, the log-density of v in nats is log p(z | y) plus
            the log-determinant; `flow.codec.bits_per_dim` of its negative gives bits.

        Raises:
            ValueError: If the images have a wrong shape or dtype.
        """
        with torch.autocast(images.device.type, enabled=False):
            prepared = self.codec.prepare(images)  # an autoencoder may use TF32
            with DisableTF32(images.device):
                return self(self._flow_space(prepared, noise))

    def latents(self, images: Tensor, noise: Tensor | float | None = None) -> Tensor:
        """The latents that `encode` returns, without log-determinants.

        Args:
            images, noise: As for `encode`.

        Returns:
            Latents of shape (B, C, H, W), padding included.

        Raises:
            ValueError: If the images have a wrong shape or dtype.
        """
        with torch.autocast(images.device.type, enabled=False):
            prepared = self.codec.prepare(images)
            with DisableTF32(images.device):
                return self.map(self._flow_space(prepared, noise))

    def _flow_space(self, prepared: Tensor, noise: Tensor | float | None) -> Tensor:
        return self.codec.dequantize(prepared, noise).to(self.dtype)

    def decode(self, z: Tensor, *, quantize: bool = True) -> Tensor:
        """The images of latents.

        Args:
            z: Latents (B, C, H, W), as `encode` returns them.
            quantize: Round to 8 bits.

        Returns:
            Images (B, C, H, W) without padding: uint8, or floats in [0, 1] with `quantize=False`.

        Raises:
            ValueError: If the latents have a wrong shape.
        """
        with torch.autocast(z.device.type, enabled=False):
            with DisableTF32(z.device):
                v = self.map_back(z.to(self.dtype))
            return self.codec.to_images(v, quantize=quantize)

    def with_shape(self, channels: int, image_size: tuple[int, int]) -> Flow:
        """The same map for images of another shape.

        Args:
            channels: C of the images.
            image_size: Their (height, width).

        Returns:
            The flow for these images, such as builtin:pixels for another size.

        Raises:
            ValueError: If the flow serves one shape only (see `shape_free`).

        Example:
            >>> import nfaug
            >>> nfaug.load("builtin:pixels").flow.with_shape(1, (24, 16)).shape
            (1, 24, 16)
        """
        if not self.shape_free:
            served_shape = (self.codec.channels, *self.codec.image_size)
            requested_shape = (channels, *image_size)
            raise ValueError(
                f"this flow (backbone {self.config.backbone.name!r}) serves images of shape "
                f"{served_shape} only; got {requested_shape}"
            )
        config = FlowConfig(channels, image_size, self.config.backbone)
        return Flow(config).to(self.device, self.dtype).train(self.training)

    def clip_(self) -> None:
        """Move exponents and ActNorm scales back inside their bounds, after an optimizer step."""
        for layer in self._layers():
            layer.clip_()

    def freeze(self) -> Flow:
        """A copy for inference: the same map, folded, without parameters.

        Returns:
            The copy, which cannot be trained or saved.
        """
        blocks = nn.ModuleList()
        for steps in self._levels():
            blocks.append(nn.ModuleList(step.freeze() for step in steps))
        flow = Flow(self.config, blocks, self.codec).to(self.device, self.dtype)
        has_parameters = next(self.parameters(), None) is not None
        flow.frozen = self.frozen or has_parameters
        return flow.eval()

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        size = f"{self.config.parameter_count / 1e6:.2f} M parameters"
        return f"Flow({self.config.backbone.name} {shape}, {size})"


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a weight is NaN or infinite."""
    damaged = [name for name, value in weights.items() if not _is_finite(value)]
    if damaged:
        raise ValueError(f"weights hold NaN or infinity in {', '.join(damaged)}")


def _is_finite(value: Tensor) -> bool:
    # A finite sum, which takes one pass, has finite terms. A sum of large terms may overflow.
    return bool(value.sum().isfinite() or value.isfinite().all())
