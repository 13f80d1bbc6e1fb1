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
from typing import Any

import torch
from torch import Tensor

from ..io.manifest import reading
from ..io.strict_json import read_json
from ..io.tensors import read_tensors
from .backbone import is_size

__all__ = [
    "CLASSES",
    "AutoencoderConfig",
    "find_autoencoder",
    "open_autoencoder",
    "weights_sha256",
]


# The supported classes, which map images in [-1, 1], and the latents in what `encode` returns.
# Their config.json may have a scaling_factor and a shift_factor for diffusion models. A flow reads
# neither: its codec measures mean and standard deviation of each channel, to the same effect.
CLASSES: dict[str, Callable[[Any], Tensor]] = {
    "AutoencoderKL": lambda output: output.latent_dist.mode(),
    # Of Stable Diffusion's latents after their scaling; the decoder squashes them to (-3, 3).
    "AutoencoderTiny": lambda output: output.latents,
    "AutoencoderDC": lambda output: output.latent,
}
_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
# Attention layers of weights written before diffusers 0.17, such as stabilityai/sd-vae-ft-mse.
_OLD_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# A directory is searched near the checkpoint, so that its record is a name without a path.
_NAMES = {"hub": r"[\w.-]+(/[\w.-]+)?", "directory": r"[^/\\\0]+"}


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
        TypeError: If it has another type.
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
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        good = {
            "kind": self.kind in ("hub", "directory"),
            "name": re.fullmatch(_NAMES.get(str(self.kind), ""), str(self.name)),
            "image_size": is_size(self.image_size),
            "mean": all(math.isfinite(n) for n in self.mean),
            "std": len(self.std) == len(self.mean) and all(0 < n < math.inf for n in self.std),
            "noise": 0 < self.noise <= 1,
        }
        for name, fine in good.items():
            if not fine:
                found = getattr(self, name)
                raise ValueError(f"{name} of an autoencoder's record cannot be {found!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """The record as a dictionary that JSON can hold; `AutoencoderConfig(**values)` reads it."""
        return dataclasses.asdict(self)


def open_autoencoder(source: str | Path) -> Any:
    """Open an autoencoder from a local directory or a Hub repository: float32, frozen, on the CPU.

    The directory is in the format of diffusers' `save_pretrained`. Only its `config.json` and
    `diffusion_pytorch_model.safetensors` are downloaded and read, and no code is run.

    Raises:
        ModuleNotFoundError: If diffusers is not installed.
        ValueError: If its class is not in `CLASSES`, or its safetensors do not fit its config.json.
        OSError: If the directory or repository does not exist or cannot be read.
    """
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'flows on latents need diffusers: pip install "nfaug[vae]"'
        ) from error
    folder, name = Path(source).expanduser(), str(source)
    if not folder.is_dir():
        from ..io.hub import download

        folder = download(name, [_CONFIG, _WEIGHTS])
    settings = _read_settings(folder)
    weights = _read_weights(folder / _WEIGHTS)
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
    if not (folder / _CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds no autoencoder: {_CONFIG} is missing")
    with reading(folder / _CONFIG):
        settings = read_json(folder / _CONFIG)
        kind = settings.get("_class_name")
        if kind not in [*CLASSES] or "quantization_config" in settings:
            raise ValueError(f"{kind!r:.80} is not one of {', '.join(CLASSES)}, unquantised")
    return settings


def _read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file in float32, under the present names."""
    return {
        _OLD_NAME.sub(lambda old: f"{old[1]}.{_NEW_NAMES[old[2]]}.", name): value.to(torch.float32)
        for name, value in read_tensors(file).items()
    }


def weights_sha256(autoencoder: Any) -> str:
    """The SHA-256 of the sorted names, the shapes and the float32 values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(autoencoder.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}\0".encode())
        digest.update(value.detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def find_autoencoder(
    config: AutoencoderConfig, *, near: Path, given: str | Path | None = None
) -> Any:
    """Open the autoencoder that a checkpoint was trained with.

    Args:
        config: The checkpoint's record.
        near: The checkpoint's directory. A recorded directory is searched in it and beside it.
        given: A directory or repository to use instead.

    Raises:
        FileNotFoundError: If a recorded directory is in neither place.
        ValueError: If its weights are not those that the checkpoint was trained with.
        ModuleNotFoundError: See `open_autoencoder`, also for OSError.
    """
    source = given or (config.name if config.kind == "hub" else None)
    if source is None:
        places = [folder / config.name for folder in (near, near.parent)]
        source = next((place for place in places if (place / _CONFIG).is_file()), None)
    if source is None:
        raise FileNotFoundError(
            f"the flow of {near} needs the autoencoder in the directory {config.name!r}, which is "
            "neither in the checkpoint nor beside it: pass its path as autoencoder= (--autoencoder)"
        )
    found = open_autoencoder(source)
    if (sha256 := weights_sha256(found)) != config.sha256:
        raise ValueError(
            f"{str(source)!r} is not the autoencoder of {near}: the SHA-256 of its weights is "
            f"{sha256}, the checkpoint has {config.sha256}; pass the right one as autoencoder= "
            "(--autoencoder)"
        )
    return found
