"""The normalizing flow: a stack of invertible layers at several scales, with a codec for images."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .codec import Codec, PixelCodec
from .config import BACKBONES, FlowConfig
from .layers import SQUEEZES, Layer, Squeeze
from .mef import MatrixExpCoupling
from .networks import DisableTF32
from .stored import check_finite

__all__ = ["Flow", "FlowConfig", "Recompute"]

Recompute = Literal["none", "steps", "blocks"]

_LayerMap = Callable[[Layer, Tensor], tuple[Tensor, Tensor]]


class _Density(Protocol):
    def log_prob(self, z: Tensor, labels: Tensor | None = None) -> Tensor: ...


def _fit_terms(flow: nn.Module, _: object) -> None:
    """After `load_state_dict`; a function, because hooks are pickled with the flow.

    Weights that are missing still are on the device "meta" of `Flow.from_tensors`.
    """
    for coupling in cast("Flow", flow).couplings():
        if not (coupling.rescale.is_meta or coupling.reshift.is_meta):
            coupling.fit_terms()


class Flow(Layer):
    """An invertible map between images and latents of the same shape (C, H, W).

    Each level squeezes space into channels and applies its steps. After every level but the last,
    the first half of the channels goes on and the second half is set aside. At the end all parts
    are put back in place, so no coordinate is dropped.

    `encode` and `decode` take and return 8-bit images. They run in full precision whatever the
    settings of autocast and TF32 are, because either would break the exact round trip. `forward`
    and `inverse` work in flow space (see `nfaug.flows.codec`) under the caller's settings. No
    method copies values from the device, so all can be captured in CUDA graphs.

    Set `recompute` to save memory in training: "steps" recomputes the activations of each step in
    the backward pass, "blocks" those of each residual block. Set `bf16` to train the coupling
    networks in bfloat16; passes without gradients, and so `encode` and `decode` in use, are in full
    precision all the same.

    Args:
        config: The architecture.
        blocks: The layers of each level; None for new ones.
        codec: Converts images to flow space and back; None for pixels. Not part of the state dict.

    Example:
        >>> flow = Flow(FlowConfig(1, (8, 8), steps=(1, 1), blocks=(1, 1), width=(8, 8)))
        >>> images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
        >>> z, logdet = flow.encode(images)
        >>> z.shape, logdet.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4]))
        >>> torch.equal(flow.decode(z), images)
        True
        >>> flow.log_prob(images).shape, flow.sample(2).shape
        (torch.Size([4]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        config: FlowConfig,
        blocks: nn.ModuleList | None = None,
        codec: Codec | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        pixels = PixelCodec(config.channels, config.image_size, config.size)
        self.codec: Codec = pixels if codec is None else codec
        self.squeeze = SQUEEZES[config.squeeze]()
        self.unsqueeze = Squeeze()  # in either case: each level keeps its own positions in latents
        self.blocks = BACKBONES[config.backbone].build(config) if blocks is None else blocks
        if next(itertools.chain(self.parameters(), self.buffers()), None) is None:
            # Records device and dtype, whatever the defaults are: the device may be "meta".
            anchor = torch.empty(0, device="cpu", dtype=torch.float32)
            self.register_buffer("_anchor", anchor, persistent=False)
        self.recompute = "none"
        self.bf16 = False
        self.register_load_state_dict_post_hook(_fit_terms)

    @classmethod
    def from_tensors(
        cls, config: FlowConfig, tensors: Mapping[str, Tensor], codec: Codec | None = None
    ) -> Flow:
        """A flow with the given weights, under the names of `state_dict`.

        No weights are initialised, and float32 tensors are used without a copy.

        Raises:
            ValueError: If keys are missing, unexpected or misshapen (one error lists them all), a
                tensor is not floating point or holds NaN or infinity, or the exponents of a
                coupling are too large.
        """
        with torch.device("meta"):
            flow = cls(config, codec=codec)
        if whole := [name for name, value in tensors.items() if not value.is_floating_point()]:
            raise ValueError(f"weights must be floating point; {', '.join(whole)} are not")
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
        return self._any_tensor().device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the flow's tensors."""
        return self._any_tensor().dtype

    @property
    def shape_free(self) -> bool:
        """Whether `with_shape` can give the same map for images of another shape."""
        return BACKBONES[self.config.backbone].shape_free and self.codec.record is None

    @property
    def frozen(self) -> bool:
        """Whether the weights were folded by `freeze`, so that they cannot be trained or saved."""
        return self.config.parameter_count > 0 and next(self.parameters(), None) is None

    def _any_tensor(self) -> Tensor:
        return next(itertools.chain(self.parameters(), self.buffers()))

    @property
    def recompute(self) -> Recompute:
        """Activations that the backward pass recomputes: "none", "steps" or "blocks"."""
        return self._recompute

    @recompute.setter
    def recompute(self, value: Recompute) -> None:
        self._recompute = value
        for coupling in self.couplings():
            coupling.net.recompute = value == "blocks"

    @property
    def bf16(self) -> bool:
        """Whether the coupling networks run in bfloat16 in passes that record gradients."""
        return self._bf16

    @bf16.setter
    def bf16(self, value: bool) -> None:
        self._bf16 = value
        for coupling in self.couplings():
            coupling.net.bf16 = value

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
            The log-determinants are those of the flow alone: see `nfaug.flows.codec.bits_per_dim`.

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

    def log_prob(
        self,
        images: Tensor,
        gaussians: _Density | None = None,
        labels: Tensor | None = None,
        *,
        noise: Tensor | float | None = None,
    ) -> Tensor:
        """Return log p(v) = log p(z) + log|det df/dv| in nats, where z = f(v).

        This is the density of dequantised images v = (u + e)/128 - 1 in flow space, padding
        included; not the probability of 8-bit images, and not bits per dimension, which is
        `flow.codec.bits_per_dim(-log_prob)`. With e uniform in [0, 1), the expected bits per
        dimension are an upper bound of those of the 8-bit images. The default e = 1/2 is
        deterministic, but gives no bound.

        Args:
            images: As for `encode`.
            gaussians: The latent density p(z | y); None for the standard Gaussian N(0, I).
            labels: The class of each image, integers of shape (B,).
            noise: As for `encode`, for instance `torch.rand(len(images), *flow.config.shape)`.

        Returns:
            Shape (B,); with `gaussians` and no labels (B, K), the density under every class.

        Raises:
            ValueError: If the images or labels do not fit, or there are labels without gaussians.
        """
        z, logdet = self.encode(images, noise)
        if gaussians is not None:
            density = gaussians.log_prob(z, labels)
            return density + (logdet if density.dim() == 1 else logdet[:, None])
        if labels is not None:
            raise ValueError("labels need gaussians; got labels and gaussians=None")
        squares = z.square().flatten(1).sum(1)
        return logdet - (squares + self.config.dim * math.log(2 * math.pi)) / 2

    @torch.no_grad()
    def sample(
        self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return uint8 images of latents z = temperature * e with e from N(0, I).

        Flows that were trained under class Gaussians need latents from these instead:
        `flow.decode(gaussians.sample(labels).view(-1, *flow.config.shape))`.

        Args:
            n: Number of images.
            temperature: Standard deviation of the latents.
            generator: Source of randomness, on the flow's device.

        Returns:
            Shape (n, C, H, W), the size of the images without padding.

        Raises:
            ValueError: If `n` or `temperature` is negative.
        """
        if n < 0 or not 0 <= temperature < math.inf:
            raise ValueError(
                f"n and temperature must not be negative; got n={n}, temperature={temperature}"
            )
        shape = (n, *self.config.shape)
        z = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        return self.decode(temperature * z)

    def with_shape(self, channels: int, image_size: tuple[int, int]) -> Flow:
        """Return the same map for images of another shape.

        This needs a flow on pixels and a backbone whose weights serve every shape (`shape_free`).

        Raises:
            ValueError: If the flow serves one shape only.
        """
        if not self.shape_free:
            raise ValueError(
                f"this flow (backbone {self.config.backbone!r}) serves images of shape "
                f"{(self.codec.channels, *self.codec.image_size)} only; got "
                f"{(channels, *image_size)}"
            )
        config = dataclasses.replace(
            self.config, channels=channels, image_size=image_size, padded_size=None
        )
        return Flow(config).to(self.device, self.dtype).train(self.training)

    def couplings(self) -> list[MatrixExpCoupling]:
        """All trainable matrix-exponential couplings, in order."""
        return [module for module in self.modules() if isinstance(module, MatrixExpCoupling)]

    def fit_terms(self) -> None:
        """Lengthen the couplings' series where the loaded scalars need more terms."""
        for coupling in self.couplings():
            coupling.fit_terms()

    def clip_(self) -> None:
        """Move exponents and ActNorm scales back inside their bounds, after an optimizer step."""
        for module in self.modules():
            if isinstance(module, Layer) and module is not self:
                module.clip_()

    def freeze(self) -> Flow:
        """Return a copy for inference: the same map, folded, without parameters."""
        blocks = nn.ModuleList(
            nn.ModuleList(step.freeze() for step in steps) for steps in self._levels()
        )
        frozen = Flow(self.config, blocks, self.codec)
        if "_anchor" in frozen._buffers:
            frozen._anchor = self._any_tensor().detach().new_empty(0)
        return frozen.eval()

    def __repr__(self) -> str:
        return f"Flow({self.config}, {self.config.parameter_count / 1e6:.2f} M parameters)"
