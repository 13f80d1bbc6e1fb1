"""The normalizing flow: matrix-exponential couplings on a multi-scale Glow (paper, section 5.1)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..io.manifest import read_manifest
from ..resolve import read_resolved
from .codec import Codec, PixelCodec
from .config import FlowConfig
from .layers import (
    ActNorm,
    HaarSqueeze,
    InvertibleConv1x1,
    Layer,
    Precision,
    Squeeze,
    Step,
)
from .mef import MatrixExpCoupling
from .stored import read_flow

__all__ = ["Flow", "FlowConfig", "Recompute"]

Recompute = Literal["none", "steps", "blocks"]

_LayerMap = Callable[[Layer, Tensor], tuple[Tensor, Tensor]]


class Flow(Layer):
    """A multi-scale flow between images and latents of the same shape (C, H, W).

    A level squeezes space into channels and runs its steps; after every level but the last the
    first half of the channels goes on and the second is kept. At the end all is put back, so the
    latent has the image's own shape: nothing is dropped.

    `forward` and `inverse` work in flow space (see `nfaug.flows.codec`) and under the caller's
    settings;
    `encode` and `decode` work on 8-bit images and in full precision, whatever autocast and TF32
    say: both would lose the 8-bit exactness of a round trip.
    Neither ever waits for the device, so CUDA graphs can capture them. Set `recompute` to trade
    time for memory in training: activations inside a step ("steps") are computed again in the
    backward pass, or there those inside a residual block, again ("blocks").

    Args:
        config: the flow's shape.
        blocks: the steps of each level, for a flow made of existing ones; None for new ones.
        codec: from images to flow space and back; None for pixels. No part of the weights.
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
        self.squeeze = HaarSqueeze() if config.squeeze == "haar" else Squeeze()
        self.unsqueeze = Squeeze()  # latents keep the coordinates of each level apart
        self.blocks = _new_blocks(config) if blocks is None else blocks
        self.recompute = "none"

    @classmethod
    def from_tensors(
        cls, config: FlowConfig, tensors: Mapping[str, Tensor], codec: Codec | None = None
    ) -> Flow:
        """A flow with these weights, under the names of `state_dict`.

        Nothing is initialised first, and float32 tensors are taken over without a copy.

        Raises:
            ValueError: keys are missing, unexpected or misshapen (one error lists them all), a
                tensor is not floating point or holds NaN or infinity, or the couplings' scalars
                ask for a series that is too long.
        """
        with torch.device("meta"):
            flow = cls(config, codec=codec)
        expected = flow.state_dict()
        _check_keys(expected, tensors)
        weights = {name: tensors[name].to(torch.float32) for name in expected}
        if bad := [name for name, value in weights.items() if not _finite(value)]:
            raise ValueError(f"weights hold NaN or infinity in {_listed(bad)}")
        flow.load_state_dict(weights, assign=True)
        flow.fit_terms()
        return flow

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        autoencoder: str | Path | None = None,
    ) -> Flow:
        """Load the flow of a checkpoint, without its class gaussians and PCA.

        From a repository only the configuration and the weights of the flow are downloaded.

        Args:
            path_or_repo: "builtin:NAME", a directory, or a Hub repository "owner/name".
            revision: Branch, tag or commit of the repository.
            token: Access token of the Hub; None for the one that is logged in, False for none.
            autoencoder: See `nfaug.Checkpoint.load`.

        Raises:
            CheckpointError: The directory is not a checkpoint, or it is damaged.
            FileNotFoundError: This is neither a directory nor a possible repository name.
            nfaug.hub.HubError: The repository cannot be read.
        """

        def read(directory: Path) -> Flow:
            manifest = read_manifest(directory)
            return read_flow(cls.from_tensors, directory, manifest, autoencoder).eval()

        return read_resolved(read, path_or_repo, revision=revision, token=token, whole=False)

    @property
    def device(self) -> torch.device:
        """Where the flow's tensors are."""
        return self._any_tensor().device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that the flow works in."""
        return self._any_tensor().dtype

    def _any_tensor(self) -> Tensor:
        return next(itertools.chain(self.parameters(), self.buffers()))

    @property
    def recompute(self) -> Recompute:
        """Which activations are not kept for the backward pass: "none", "steps" or "blocks"."""
        return self._recompute

    @recompute.setter
    def recompute(self, value: Recompute) -> None:
        self._recompute = value
        for coupling in self.couplings():
            coupling.net.recompute = value == "blocks"

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
        kept = []
        for level, steps in enumerate(self._levels()):
            x = self.squeeze(x)[0]
            for step in steps:
                x, logdet = run(step, x)
                total = total + logdet
            if level < self.config.levels - 1:
                x, rest = x.chunk(2, 1)
                kept.append(rest)
        z = self.unsqueeze.inverse(x)[0]
        for rest in reversed(kept):
            z = self.unsqueeze.inverse(torch.cat([z, rest], 1))[0]
        return z, total

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = f(x) in flow space and log|det df/dx|."""
        self._check(x)
        return self._normalize(x, self._run)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = f^-1(z) in flow space and log|det df^-1/dz|."""
        self._check(z)
        kept = []
        z = self.unsqueeze(z)[0]
        for _ in range(self.config.levels - 1):
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
        """Data-dependent initialisation from one batch in flow space; returns its latents."""
        self._check(x)

        def run(step: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
            return step.initialize(x), x.new_zeros(len(x))

        return self._normalize(x, run)[0]

    def encode(self, images: Tensor, noise: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
        """Latents of 8-bit images and log|det| (the flow's alone: see `codec.bits_per_dim`).

        `images` is uint8 (B, C, H, W) of the configured size, or of the autoencoder's where the
        flow works on one's latents; floating point is read as grey levels in [0, 255]. `noise` in
        [0, 1) is added to the levels (see `LatentCodec` for latents), None for 1/2; a tensor has
        the flow's padded shape.

        Raises:
            ValueError: the images have another shape, or another integer type.
        """
        with torch.autocast(images.device.type, enabled=False):
            prepared = self.codec.prepare(images)  # an autoencoder may use TF32, a flow may not
            with NoTF32(images.device):
                return self(self.codec.dequantize(prepared, noise).to(self.dtype))

    def decode(self, z: Tensor, *, quantize: bool = True) -> Tensor:
        """Images of latents: uint8, or floating point in [0, 1] with `quantize=False`.

        Raises:
            ValueError: the latents have another shape than the flow's.
        """
        with torch.autocast(z.device.type, enabled=False):
            with NoTF32(z.device):
                v = self.inverse(z.to(self.dtype))[0]
            return self.codec.to_images(v, quantize=quantize)

    def couplings(self) -> list[MatrixExpCoupling]:
        """Every coupling that can be trained, in order."""
        return [module for module in self.modules() if isinstance(module, MatrixExpCoupling)]

    def fit_terms(self) -> None:
        """Lengthen the couplings' series where the learnt scalars ask for it (after loading)."""
        for coupling in self.couplings():
            coupling.fit_terms()

    def clip_(self) -> None:
        """Keep exponents and ActNorm scales inside their bounds (after an optimiser step)."""
        for module in self.modules():
            if isinstance(module, (ActNorm, MatrixExpCoupling)):
                module.clip_()

    def freeze(self, precision: Precision = "full") -> Flow:
        """A flow for inference: the same map, what can be folded folded, no parameters.

        It is a copy: training this flow further does not change it. With `precision="bf16"` the
        coupling networks run in bfloat16, which is faster where the hardware has it and is **not
        exact**: decoding an encoded image moves pixels by some grey levels.

        Raises:
            ValueError: `precision` is neither "full" nor "bf16".
        """
        if precision not in ("full", "bf16"):
            raise ValueError(f'precision is "full" or "bf16"; got {precision!r}')
        blocks = nn.ModuleList(
            nn.ModuleList(step.freeze(precision) for step in steps) for steps in self._levels()
        )
        return Flow(self.config, blocks, self.codec).eval()

    def __repr__(self) -> str:
        return f"Flow({self.config}, {self.config.parameter_count / 1e6:.2f} M parameters)"


def _new_blocks(config: FlowConfig) -> nn.ModuleList:
    levels = nn.ModuleList()
    channels, (height, width) = config.channels, config.size
    for steps, blocks, hidden in zip(config.steps, config.blocks, config.width, strict=True):
        channels, height, width = 4 * channels, height // 2, width // 2
        levels.append(
            nn.ModuleList(
                Step(
                    ActNorm((channels, height, width), config.max_scale),
                    InvertibleConv1x1(channels),
                    MatrixExpCoupling(
                        channels,
                        hidden,
                        blocks,
                        low_rank_above=config.low_rank_above,
                        rank=config.rank,
                        bound=config.bound,
                    ),
                )
                for _ in range(steps)
            )
        )
        channels //= 2
    return levels


class NoTF32:
    """A context in which cuDNN's convolutions are float32 in full.

    In a compiled graph it does nothing: no graph can hold a global flag, so whoever compiles
    turns TF32 off.
    """

    def __init__(self, device: torch.device) -> None:
        self.guard = device.type == "cuda" and not torch.compiler.is_compiling()

    def __enter__(self) -> None:
        if self.guard:
            cudnn: Any = torch.backends.cudnn
            new = hasattr(cudnn, "conv")  # torch >= 2.9 has a setting for each operator
            self.owner = cudnn.conv if new else cudnn
            self.name = "fp32_precision" if new else "allow_tf32"
            self.before = getattr(self.owner, self.name)
            setattr(self.owner, self.name, "ieee" if new else False)

    def __exit__(self, *exception: object) -> None:
        if self.guard:
            setattr(self.owner, self.name, self.before)


def _check_keys(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    problems = []
    if missing := sorted(set(expected) - set(tensors)):
        problems.append(f"missing {_listed(missing)}")
    if unexpected := sorted(set(tensors) - set(expected)):
        problems.append(f"unexpected {_listed(unexpected)}")
    common = [name for name in expected if name in tensors]
    if misshapen := [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in common
        if tensors[name].shape != expected[name].shape
    ]:
        problems.append(f"misshapen {_listed(misshapen)}")
    if kinds := [
        f"{name} {tensors[name].dtype}" for name in common if not tensors[name].is_floating_point()
    ]:
        problems.append(f"not floating point {_listed(kinds)}")
    if problems:
        raise ValueError("the weights do not fit the flow: " + "; ".join(problems))


def _finite(value: Tensor) -> bool:
    # A sum is not finite if a term is not, and reads the weights once; large ones may overflow.
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def _listed(names: list[str]) -> str:
    return ", ".join(names)
