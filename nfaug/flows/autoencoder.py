"""The frozen autoencoder of a flow on latents: its record in a checkpoint, and how it is opened.

Its class is one of those of diffusers in `CLASSES`, and its weights are read as safetensors by this
module. diffusers is imported only when an autoencoder is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..io.manifest import reading
from ..io.strict_json import read_json
from .backbone import is_size

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


class AutoencoderClass(NamedTuple):
    """What differs between the autoencoders of diffusers. All map images in [-1, 1].

    Attributes:
        latents: The latents in the result of `encode`.
        encoder: The setting with one number of channels for each resolution of the encoder.
        decoder: The same for the decoder.
    """

    latents: Callable[[Any], Tensor]
    encoder: str
    decoder: str


# Their config.json may have a scaling_factor and a shift_factor for diffusion models. A flow reads
# neither: its codec measures mean and standard deviation of each channel, to the same effect.
_SPLIT = ("encoder_block_out_channels", "decoder_block_out_channels")
CLASSES = {
    "AutoencoderKL": AutoencoderClass(
        lambda output: output.latent_dist.mode(), "block_out_channels", "block_out_channels"
    ),
    # Of Stable Diffusion's latents after their scaling; the decoder squashes them to (-3, 3).
    "AutoencoderTiny": AutoencoderClass(lambda output: output.latents, *_SPLIT),
    "AutoencoderDC": AutoencoderClass(lambda output: output.latent, *_SPLIT),
}
_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"  # of weights in several files
_SHARD = re.compile(r"diffusion_pytorch_model-[\w.-]+\.safetensors")
_MOST_PIXELS = 4096  # along a side of an image
# Attention layers of weights written before diffusers 0.17, such as stabilityai/sd-vae-ft-mse.
_OLD_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
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
            if isinstance(value := getattr(self, name), list):  # JSON has lists
                object.__setattr__(self, name, tuple(value))
        good = {
            "kind": self.kind in ("hub", "directory"),
            "name": re.fullmatch(_NAMES.get(str(self.kind), ""), str(self.name)),
            "image_size": is_size(self.image_size) and max(self.image_size) <= _MOST_PIXELS,
            "mean": _numbers(self.mean),
            "std": _numbers(self.std) and len(self.std) == len(self.mean) and min(self.std) > 0,
            "noise": _numbers((self.noise,)) and 0 < self.noise <= 1,
        }
        for name, fine in good.items():
            if not fine:
                found = str(getattr(self, name))[:80]
                raise ValueError(f"{name} of an autoencoder's record cannot be {found!r}")

    def to_dict(self) -> dict[str, Any]:
        """The record as a dictionary that JSON can hold; `AutoencoderConfig(**values)` reads it."""
        return dataclasses.asdict(self)


def _numbers(values: Any) -> bool:
    """Whether a value is a tuple of finite numbers, at least one."""
    if not isinstance(values, tuple) or not values:
        return False
    return all(type(n) in (int, float) and math.isfinite(n) for n in values)


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
    folder, name = Path(source).expanduser(), str(source)
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
        from ..io.hub import download

        patterns = [_CONFIG, _WEIGHTS, _INDEX, "diffusion_pytorch_model-*.safetensors"]
        folder = download(name, patterns)
    settings = _read_settings(folder)
    weights = _read_weights(folder)
    try:
        with torch.device("meta"):  # weights that are about to be loaded are not initialised
            model = getattr(diffusers, settings["_class_name"]).from_config(settings)
        model.load_state_dict(weights, assign=True)
    except Exception as error:  # diffusers has no type for settings that make no sense
        reason = " ".join(str(error).split())[:1000]
        raise ValueError(f"{name!r}: {_CONFIG} and weights do not fit: {reason}") from None
    return model.eval().requires_grad_(False)


def _read_settings(folder: Path) -> dict[str, Any]:
    """The settings in `config.json`, whose "_class_name" is a key of `CLASSES`."""
    file = folder / _CONFIG
    if not file.is_file():
        raise ValueError(f"{folder} holds no autoencoder: {_CONFIG} is missing")
    with reading(file):
        settings = read_json(file)
        kind = settings.get("_class_name")
        if kind not in [*CLASSES] or "quantization_config" in settings:
            raise ValueError(f"{kind!r:.80} is not one of {', '.join(CLASSES)}, unquantised")
        for key, value in settings.items():
            _check_setting(key, value, 16 if re.search("layers|num_.*_blocks", key) else 4096)
    return settings


def _check_setting(name: str, value: Any, most: int) -> None:
    """Refuse numbers of which an autoencoder would be built for hours."""
    items = value if isinstance(value, list) else [value]
    if len(items) > 16 or any(type(n) in (int, float) and abs(n) > most for n in items):
        raise ValueError(f"{name} goes up to {most}; got {str(value)[:80]}")
    for item in items:
        if isinstance(item, list):
            _check_setting(name, item, most)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors in float32, from one safetensors file or from those that the index names."""
    names = [_WEIGHTS]
    if (folder / _INDEX).is_file():
        with reading(folder / _INDEX):
            files = read_json(folder / _INDEX).get("weight_map")
            names = sorted({*map(str, files.values())}) if isinstance(files, dict) else []
            if bad := [name for name in names if name != _WEIGHTS and not _SHARD.fullmatch(name)]:
                raise ValueError(f"only safetensors files are read; it names {bad[0]!r:.80}")
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}")
        try:
            tensors |= load_file(folder / name)
        except SafetensorError as error:
            raise ValueError(f"{folder / name} cannot be read: {error}") from None
    return {
        _OLD_NAME.sub(lambda old: f"{old[1]}.{_NEW_NAMES[old[2]]}.", name): value.to(torch.float32)
        for name, value in tensors.items()
    }


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
        source = next((place for place in places if (place / _CONFIG).is_file()), None)
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
