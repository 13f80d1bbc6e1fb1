"""The frozen autoencoder of a flow on latents: its record in a checkpoint, and how it is opened.

Its class is one of those of diffusers in `CLASSES`, and it is read from safetensors. diffusers is
imported only when an autoencoder is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..io.manifest import reading
from ..io.strict_json import parse_json

__all__ = [
    "CLASSES",
    "AutoencoderClass",
    "AutoencoderConfig",
    "encode",
    "find_autoencoder",
    "open_autoencoder",
    "reduction",
    "weights_sha256",
]


@dataclass(frozen=True)
class AutoencoderClass:
    """What differs between the autoencoders of diffusers. All map images in [-1, 1].

    Their `config.json` may have a `scaling_factor` and a `shift_factor` with which diffusion models
    standardise latents, z -> (z - shift) * scale. A flow reads neither: its codec measures the mean
    and standard deviation of each channel, which gives the same standardised latents.

    Attributes:
        latents: The latents in the result of `encode`.
        encoder: The setting with one number of channels for each resolution of the encoder.
        decoder: The same for the decoder.
    """

    latents: Callable[[Any], Tensor]
    encoder: str
    decoder: str


_SPLIT = ("encoder_block_out_channels", "decoder_block_out_channels")
CLASSES = {
    "AutoencoderKL": AutoencoderClass(
        lambda output: output.latent_dist.mode(), "block_out_channels", "block_out_channels"
    ),
    # Of Stable Diffusion's latents after their scaling: its own scaling factor is 1. The decoder
    # squashes latents to (-3, 3).
    "AutoencoderTiny": AutoencoderClass(lambda output: output.latents, *_SPLIT),
    "AutoencoderDC": AutoencoderClass(lambda output: output.latent, *_SPLIT),
}
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*.safetensors")
_INDEX = "diffusion_pytorch_model.safetensors.index.json"  # of the shards
# Configurations may come from untrusted files: sizes are bounded before memory is allocated.
_MAX_CONFIG_BYTES = 2**20
_MAX_SIDE = 4096
_MAX_CHANNELS = 512
_MAX_BLOCKS = 8
_LIMITS = {  # smallest and largest values, of single numbers and in lists
    "block_out_channels": (1, 4096),
    "encoder_block_out_channels": (1, 4096),
    "decoder_block_out_channels": (1, 4096),
    "layers_per_block": (1, 8),
    "num_encoder_blocks": (0, 16),
    "num_decoder_blocks": (0, 16),
    "encoder_layers_per_block": (0, 16),
    "decoder_layers_per_block": (0, 16),
    "encoder_qkv_multiscales": (1, 15),
    "decoder_qkv_multiscales": (1, 15),
    "upsampling_scaling_factor": (1, 4),
    "attention_head_dim": (1, 512),
    "latent_channels": (1, _MAX_CHANNELS),
    "in_channels": (1, _MAX_CHANNELS),
    "out_channels": (1, _MAX_CHANNELS),
}
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
_NAMES = {"hub": rf"{_PLAIN}(/{_PLAIN})?", "directory": r"(?!\.{1,2}$)[^/\\\0]{1,255}"}


@dataclass(frozen=True)
class AutoencoderConfig:
    """What a checkpoint records of its frozen autoencoder, and the scale of the latents.

    Attributes:
        kind: "hub" for a repository on the Hub, "directory" for a local one.
        name: The repository, or the name of the directory without its path.
        sha256: Hash of the weights; see `weights_sha256`.
        channels: Image channels.
        image_size: (height, width) of the images.
        mean: Mean of each latent channel over training images.
        std: Standard deviation of each latent channel over training images.
        noise: Width, in standard deviations, of the uniform noise that dequantises latents.

    Raises:
        ValueError: If a value is out of range.
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
        for name, what, pattern in (
            ("kind", "hub or directory", "hub|directory"),
            ("name", f"the name of a {self.kind!r:.40}", _NAMES.get(str(self.kind), "")),
            ("sha256", "64 hexadecimal digits", "[0-9a-f]{64}"),
        ):
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch(pattern, value):
                raise ValueError(f"{name} must be {what}; got {value!r:.99}")
        sizes: tuple[tuple[str, tuple[Any, ...], int, int], ...] = (
            ("image_size", self.image_size, 2, _MAX_SIDE),
            ("channels", (self.channels,), 1, _MAX_CHANNELS),
        )
        for name, values, length, most in sizes:
            if len(values) != length or any(
                type(n) is not int or not 0 < n <= most for n in values
            ):
                raise ValueError(
                    f"{name} must be {length} integers in [1, {most}]; got {str(values)[:80]}"
                )
        if not 1 <= len(self.mean) == len(self.std) <= _MAX_CHANNELS:
            raise ValueError(
                f"mean and std must have one number per channel; got {len(self.mean)} and "
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
        """The record as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> AutoencoderConfig:
        """The record that `to_dict` returned.

        Raises:
            ValueError: If it is not a dictionary, a key is unknown or missing, or a value is out
                of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            raise ValueError(f"autoencoder must have the keys {', '.join(sorted(known))}")
        return cls(**values)


def open_autoencoder(source: str | Path) -> Any:
    """Open an autoencoder from a local directory or a Hub repository: float32, frozen, on the CPU.

    The directory is in the format of diffusers' `save_pretrained`. From a repository only
    `config.json` and safetensors files are downloaded, into the Hub's cache. No other kind of file
    is read, and no code is run.

    Raises:
        ModuleNotFoundError: If diffusers is not installed.
        ValueError: If its class is not in `CLASSES`, or its safetensors do not fit its config.json.
        OSError: If the directory or repository does not exist or cannot be read.
    """
    folder = Path(source).expanduser()
    name = str(source)
    if not folder.is_dir() and (folder.exists() or name.count("/") > 1 or name[:1] in "./~"):
        raise FileNotFoundError(
            f"{name!r} is neither an autoencoder's directory nor a repository name owner/name"
        )
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'flows on latents need diffusers: pip install "nfaug[vae]"'
        ) from error
    if not folder.is_dir():
        folder = fetch_autoencoder(name)
    kind = _check_class(folder, name)
    try:
        found, report = getattr(diffusers, kind).from_pretrained(
            str(folder),
            use_safetensors=True,
            torch_dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name!r} cannot be read as {kind}: {reason}") from None
    if problems := {kind: keys for kind, keys in report.items() if keys}:
        raise ValueError(f"the weights of {name!r} do not fit its config.json: {problems}")
    return found.eval().requires_grad_(False)


def fetch_autoencoder(repo_id: str) -> Path:
    """Download a repository's files into the Hub's cache and return their directory.

    Raises:
        OSError: The repository cannot be read.
    """
    from ..io.hub import download

    return download(repo_id, ["config.json", *_WEIGHTS, _INDEX])


def _check_class(folder: Path, name: str) -> str:
    """The class of an autoencoder, a key of `CLASSES`, after a check of its `config.json`.

    Raises:
        ValueError: The class is another one, or a size is too large.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{name!r} holds no autoencoder: config.json is missing")
    if file.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"{file} is longer than {_MAX_CONFIG_BYTES} bytes")
    with reading(file):
        values = parse_json(file.read_bytes())
    kind = values.get("_class_name") if isinstance(values, dict) else None
    if kind not in CLASSES or "quantization_config" in values:
        raise ValueError(
            f"the autoencoder must be one of diffusers' {', '.join(CLASSES)}, unquantised; "
            f"{name!r} is {kind!r:.80}"
        )
    for key, (least, most) in _LIMITS.items():
        if key in values and not _within(values[key], least, most):
            raise ValueError(
                f"{key} of the autoencoder {name!r} must be integers in [{least}, {most}]; got "
                f"{str(values[key])[:80]}"
            )
    return str(kind)


def _within(value: Any, least: int, most: int, depth: int = 2) -> bool:
    """Whether a value is an integer in a range, or a short list of such values or of lists."""
    if isinstance(value, list) and depth:
        return len(value) <= _MAX_BLOCKS and all(_within(x, least, most, depth - 1) for x in value)
    return type(value) is int and least <= value <= most


def encode(autoencoder: Any, images: Tensor) -> Tensor:
    """Latents of images in [-1, 1]; the mode, if the autoencoder has a distribution of them."""
    return CLASSES[type(autoencoder).__name__].latents(autoencoder.encode(images))


def reduction(autoencoder: Any) -> int:
    """Pixels of an image per position of its latents, along each side.

    Raises:
        ValueError: If decoded images have another size than those that were encoded.
    """
    entry, config = CLASSES[type(autoencoder).__name__], autoencoder.config
    factor = 2 ** (len(config[entry.encoder]) - 1)
    enlarged = config.get("upsampling_scaling_factor", 2) ** (len(config[entry.decoder]) - 1)
    if factor != enlarged:
        raise ValueError(
            f"the autoencoder reduces images by a factor of {factor} and enlarges latents by "
            f"{enlarged}; the factors must be equal"
        )
    return factor


def weights_sha256(autoencoder: Any) -> str:
    """Return the SHA-256 of the names, shapes and float32 values of all weights, in hexadecimal.

    Weights are sorted by name, so the hash does not depend on how they are split into files.
    """
    digest = hashlib.sha256()
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}\0".encode())
        flat = value.detach().to("cpu", torch.float32).contiguous()
        digest.update(memoryview(flat.numpy()).cast("B") if flat.numel() else b"")
    return digest.hexdigest()


def find_autoencoder(
    config: AutoencoderConfig, *, near: Path, given: str | Path | None = None
) -> Any:
    """Open the autoencoder that a checkpoint was trained with.

    Args:
        config: The checkpoint's record.
        near: The checkpoint's directory. A recorded directory is searched in it, beside it and in
            the working directory.
        given: A directory or repository to use instead.

    Raises:
        FileNotFoundError: If a recorded directory is in none of these places.
        ValueError: If its weights are not those that the checkpoint was trained with.
        ModuleNotFoundError: See `open_autoencoder`, also for OSError.
    """
    source = given
    if source is None and config.kind == "hub":
        source = config.name
    if source is None:
        places = [folder / config.name for folder in (near, near.parent, Path())]
        source = next((place for place in places if (place / "config.json").is_file()), None)
    if source is None:
        raise FileNotFoundError(
            f"the flow of {near} needs the autoencoder in the directory {config.name!r}, which is "
            "not in the checkpoint, beside it or in the working directory: pass its path as "
            "autoencoder= (--autoencoder)"
        )
    found = open_autoencoder(source)
    if (sha256 := weights_sha256(found)) != config.sha256:
        raise ValueError(
            f"{str(source)!r} is not the autoencoder of {near}: the SHA-256 of its weights is "
            f"{sha256}, the checkpoint has {config.sha256}; pass the right one as autoencoder= "
            "(--autoencoder)"
        )
    return found
