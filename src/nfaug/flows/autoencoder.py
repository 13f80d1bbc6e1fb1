"""The frozen autoencoder of a flow on latents: its record in a checkpoint, and how it is opened.

It is a `TinyAutoencoder`, a class of diffusers (imported only when one is opened), or an object of
the user's own. Weights are read as safetensors.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..io.errors import reading
from ..io.extras import require
from ..io.hub_options import HubOptions
from ..io.strict_json import read_json
from ..io.tensors import read_tensors
from ..io.text import public_name
from .backbone import is_size
from .tiny_autoencoder import TinyAutoencoder, present_names

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "AutoencoderSource",
    "find_autoencoder",
    "name_of",
    "open_autoencoder",
    "recorded_source",
    "weights_sha256",
]


@runtime_checkable
class Autoencoder(Protocol):
    """A `torch.nn.Module` that a flow on latents can use.

    Attributes:
        latent_channels: Channels of the latents.
        factor: Height and width of the images over those of the latents, 2 or more.
        input_range: (lowest, highest) pixel of the images that it encodes and decodes.

    Images have 3 channels, or as many as an attribute `channels` says. Tensors come in torch's
    channels_last memory format: use `reshape`, not `view`.
    """

    latent_channels: int
    factor: int
    input_range: tuple[float, float]

    def encode(self, x: Tensor, /) -> Tensor:
        """Latents (N, latent_channels, H/factor, W/factor) of float32 images (N, C, H, W)."""

    def decode(self, z: Tensor, /) -> Tensor:
        """Images of latents."""


AutoencoderSource: TypeAlias = str | os.PathLike[str] | Autoencoder

_TINY = "AutoencoderTiny"
# The latents in what `encode` of diffusers' classes returns. Their config.json may have a
# scaling_factor and a shift_factor for diffusion models. A flow reads neither: its codec measures
# mean and standard deviation of each channel, to the same effect.
_LATENTS: dict[str, Callable[[Any], Tensor]] = {
    "AutoencoderKL": lambda output: output.latent_dist.mode(),
    _TINY: lambda output: output.latents,
    "AutoencoderDC": lambda output: output.latent,
}
_CONFIG = "config.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
# Attention layers of weights written before diffusers 0.17, such as stabilityai/sd-vae-ft-mse.
_OLD_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# A path is searched near the checkpoint, so that its record is a name without a path.
_PATH = r"[^/\\\0]+"
_NAMES = {  # by kind
    "hub": r"[\w.-]+(/[\w.-]+)?",
    "directory": _PATH,
    "file": _PATH,
    "object": r"\w+",
}
_SHA256 = r"[0-9a-f]{64}"


@dataclass(frozen=True)
class AutoencoderConfig:
    """What a checkpoint records of its frozen autoencoder, and the scale of the latents.

    Attributes:
        kind: "hub" for a repository on the Hub, "directory" or "file" for a local one, "object" for
            one of the user's own.
        name: The repository, the name of the directory or file without its path, or the class.
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
        name_pattern = _NAMES.get(str(self.kind), "")
        valid = {
            "kind": self.kind in list(_NAMES),  # a list, since the kind may have no hash
            "name": re.fullmatch(name_pattern, str(self.name)) is not None,
            "sha256": re.fullmatch(_SHA256, str(self.sha256)) is not None,
            "channels": type(self.channels) is int and self.channels > 0,
            "image_size": is_size(self.image_size),
            "mean": all(math.isfinite(n) for n in self.mean),
            "std": len(self.std) == len(self.mean) and all(0 < n < math.inf for n in self.std),
            "noise": 0 < self.noise <= 1,
        }
        for name, is_valid in valid.items():
            if not is_valid:
                value = getattr(self, name)
                raise ValueError(f"{name} of an autoencoder's record cannot be {value!r:.80}")


def open_autoencoder(source: AutoencoderSource) -> Any:
    """Open an autoencoder in float32, frozen, on the CPU. An object is copied before it is frozen.

    A directory, or a repository on the Hub, holds what diffusers' `save_pretrained` writes, or one
    safetensors file of the tiny family. On the Hub this file has the name of the repository, as in
    madebyollin/taef2. Only these files are downloaded and read, and no code is run.

    Raises:
        TypeError: If an object is not an `Autoencoder`.
        ModuleNotFoundError: If it needs diffusers, which is not installed.
        ValueError: If its class is not a known one, or its weights are damaged or do not fit.
        OSError: If the file, directory or repository does not exist or cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        return _build(_read(source), str(source))
    model: Any = source
    if type(source).__name__ in _LATENTS:
        model = _Diffusers(source)
    if not (isinstance(model, nn.Module) and isinstance(model, Autoencoder)):
        attributes = ", ".join(Autoencoder.__annotations__)
        raise TypeError(
            "autoencoder must be a path, a name on the Hub, or a torch.nn.Module with encode, "
            f"decode, {attributes}; got {type(model).__name__}"
        )
    return copy.deepcopy(model).requires_grad_(False).eval()


class _Files(NamedTuple):
    """The contents of an autoencoder's files: its settings, the name of its class, its weights."""

    settings: dict[str, Any]
    kind: str
    weights: dict[str, Tensor]


def _read(source: str | os.PathLike[str], hub: HubOptions | None = None) -> _Files:
    """Read a file, a directory or a repository, without building a model."""
    path = Path(source).expanduser()
    if not path.exists():
        if path.suffix == ".safetensors":
            raise FileNotFoundError(f"there is no file {str(source)!r}")
        from ..io.hub import download

        path = download(str(source), [_CONFIG, _WEIGHTS, f"{path.name}.safetensors"], hub)
    settings: dict[str, Any] = {}
    if (path / _CONFIG).is_file():
        settings = _read_settings(path)
    kind = settings.get("_class_name", _TINY)
    weights = _read_weights(path)
    if kind == _TINY:
        weights = present_names(weights)
    return _Files(settings, kind, weights)


def _build(files: _Files, name: str) -> Any:
    """Build a frozen model from its files; `name` is that of the autoencoder, for errors."""
    kind = files.kind
    if kind != _TINY:
        require("diffusers")
    try:
        if kind == _TINY:
            model: Any = TinyAutoencoder(files.weights)
        else:
            model = _from_diffusers(files.settings, files.weights)
    except Exception as error:  # diffusers raises any type for settings that make no sense
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{name!r}: the weights do not fit an {kind}: {reason}") from None
    return model.requires_grad_(False).eval()


class _Diffusers(nn.Module):
    """An autoencoder of diffusers as an `Autoencoder`; its state dict has diffusers' names."""

    input_range = (-1.0, 1.0)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        settings = model.config
        widths = settings.get("block_out_channels") or settings["encoder_block_out_channels"]
        self.factor = 2 ** (len(widths) - 1)  # the resolution is halved between blocks
        self.channels = settings.in_channels
        self.latent_channels = settings.latent_channels

    def encode(self, x: Tensor) -> Tensor:
        get_latents = _LATENTS[type(self.model).__name__]
        return get_latents(self.model.encode(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.model.decode(z).sample

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return self.model.state_dict(*args, **options)


def _from_diffusers(settings: dict[str, Any], weights: Mapping[str, Tensor]) -> _Diffusers:
    import diffusers

    model_class = getattr(diffusers, settings["_class_name"])
    # On "meta", weights that are about to be loaded are not initialised.
    with torch.device("meta"), _limit_parameters(len(weights)):
        model = model_class.from_config(settings)
    model.load_state_dict(weights, assign=True)
    return _Diffusers(model)


@contextlib.contextmanager
def _limit_parameters(limit: int) -> Iterator[None]:
    """Raise ValueError when a model that is being built gets more than `limit` parameters.

    Settings may come from a stranger. A large number of layers must not keep this process busy.
    """
    thread = threading.get_ident()
    parameters = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal parameters
        if threading.get_ident() != thread:  # torch calls this for models of other threads, too
            return
        parameters += 1
        if parameters > limit:
            raise ValueError(f"its settings make more layers than the {limit} tensors hold")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _read_settings(folder: Path) -> dict[str, Any]:
    """The settings in `config.json`, whose "_class_name" is a key of `_LATENTS`."""
    with reading(folder / _CONFIG):
        settings = read_json(folder / _CONFIG)
        kind = settings.get("_class_name")
        # A list, since the value may have no hash.
        if kind not in list(_LATENTS) or "quantization_config" in settings:
            raise ValueError(f"{kind!r:.80} is not one of {', '.join(_LATENTS)}, unquantised")
    return settings


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file or a folder, in float32, under the present names of layers."""
    if path.is_file():
        files = [path]
    else:
        files = list(path.glob(_WEIGHTS)) or list(path.glob("*.safetensors"))
    if len(files) != 1:
        raise FileNotFoundError(
            f"{path} holds no autoencoder: it needs {_CONFIG} and {_WEIGHTS}, or one safetensors "
            f"file; it has {len(files)}"
        )
    weights: dict[str, Tensor] = {}
    for name, value in read_tensors(files[0]).items():
        weights[_OLD_NAME.sub(_new_name, name)] = value.to(torch.float32)
    return weights


def _new_name(old_name: re.Match[str]) -> str:
    return f"{old_name[1]}.{_NEW_NAMES[old_name[2]]}."


def name_of(source: AutoencoderSource) -> tuple[str, str]:
    """The kind and the name of an autoencoder in a checkpoint's record."""
    if not isinstance(source, str | os.PathLike):
        return "object", type(source).__name__
    path = Path(source).expanduser()
    if path.is_dir():
        kind = "directory"
    elif path.is_file():
        kind = "file"
    else:
        kind = "hub"
    return kind, public_name(source)


def weights_sha256(autoencoder: Any) -> str:
    """The SHA-256 of the sorted names, the shapes and the float32 values of all weights."""
    return _tensors_sha256(autoencoder.state_dict())


def _tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}{tuple(value.shape)}\0".encode())
        digest.update(value.detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def find_autoencoder(
    config: AutoencoderConfig,
    *,
    near: Path,
    given: AutoencoderSource | None = None,
    hub: HubOptions | None = None,
) -> Any:
    """Open the autoencoder that a checkpoint was trained with.

    Args:
        config: The checkpoint's record.
        near: The checkpoint's directory. A recorded path is searched in it and beside it.
        given: An autoencoder, its path or its repository, to use instead.
        hub: How a repository is read, but for the revision: it is the checkpoint's.

    Raises:
        FileNotFoundError: If a recorded path is in neither place, or an object is not given.
        ValueError: If its weights are not those that the checkpoint was trained with.
        ModuleNotFoundError: See `open_autoencoder`, also for OSError and TypeError.
    """
    source = given
    if source is None:
        source = recorded_source(config, near)
    if source is None:
        raise FileNotFoundError(
            f"the flow of {near} needs its autoencoder, the {config.kind} {config.name!r}, which "
            "is not in or beside the checkpoint: put it there, or pass autoencoder= (--autoencoder)"
        )
    if not isinstance(source, str | os.PathLike):
        model = open_autoencoder(source)
        _check_sha256(weights_sha256(model), source, config, near)
        return model
    files = _read(source, None if hub is None else hub.at(None))
    # Check before the model is built, because settings and weights may come from a stranger.
    _check_sha256(_tensors_sha256(files.weights), source, config, near)
    return _build(files, str(source))


def recorded_source(config: AutoencoderConfig, near: Path) -> str | Path | None:
    """The repository of the record, or its path in or beside the checkpoint `near`, if any."""
    if config.kind == "hub":
        return config.name
    for folder in (near, near.parent):
        path = folder / config.name
        if path.exists():
            return path
    return None


def _check_sha256(
    sha256: str, source: AutoencoderSource, config: AutoencoderConfig, near: Path
) -> None:
    if sha256 != config.sha256:
        _, name = name_of(source)
        raise ValueError(
            f"{name!r} is not the autoencoder of {near}: the SHA-256 of its weights is {sha256}, "
            f"the checkpoint has {config.sha256}; pass the right one as autoencoder= "
            "(--autoencoder)"
        )
