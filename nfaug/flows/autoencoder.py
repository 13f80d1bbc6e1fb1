"""The frozen autoencoder of a flow on latents: its record in a checkpoint, and how it is opened.

It is always diffusers' `AutoencoderKL`, read from safetensors. diffusers is imported only when an
autoencoder is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..io.manifest import reading
from ..io.strict_json import parse_json
from ..io.tensors import LARGEST_HEADER

__all__ = [
    "AutoencoderConfig",
    "find_autoencoder",
    "open_autoencoder",
    "weights_sha256",
]

_CLASS = "AutoencoderKL"
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*.safetensors")
_INDEX = "diffusion_pytorch_model.safetensors.index.json"  # of the shards
# Configurations may come from untrusted files: sizes are bounded before memory is allocated.
_MAX_CONFIG_BYTES = 2**20
_MAX_SIDE = 4096
_MAX_CHANNELS = 256
_MAX_BLOCKS = 8
_LIMITS = {
    "block_out_channels": 4096,
    "layers_per_block": 8,
    "latent_channels": _MAX_CHANNELS,
    "in_channels": _MAX_CHANNELS,
    "out_channels": _MAX_CHANNELS,
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

    The directory is in the format of `AutoencoderKL.save_pretrained`. From a repository only
    `config.json` and safetensors files are downloaded, into the Hub's cache. No other kind of file
    is read, and no code is run.

    Raises:
        ModuleNotFoundError: If diffusers is not installed.
        ValueError: If it is not an `AutoencoderKL`, or its safetensors do not fit its config.json.
        OSError: If the directory or repository does not exist or cannot be read.
    """
    folder = Path(source).expanduser()
    name = str(source)
    if not folder.is_dir() and (folder.exists() or name.count("/") > 1 or name[:1] in "./~"):
        raise FileNotFoundError(
            f"{name!r} is neither an autoencoder's directory nor a repository name owner/name"
        )
    try:
        from diffusers import AutoencoderKL
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'flows on latents need diffusers: pip install "nfaug[vae]"'
        ) from error
    if not folder.is_dir():
        folder = fetch_autoencoder(name)
    _check_class(folder, name)
    try:
        found, report = AutoencoderKL.from_pretrained(
            str(folder),
            use_safetensors=True,
            torch_dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name!r} cannot be read as {_CLASS}: {reason}") from None
    if problems := {kind: keys for kind, keys in report.items() if keys}:
        raise ValueError(f"the weights of {name!r} do not fit its config.json: {problems}")
    return found.eval().requires_grad_(False)


def fetch_autoencoder(repo_id: str) -> Path:
    """Download a repository's files into the Hub's cache and return their directory.

    `config.json` comes first, and the weights may have at most the size that it implies.

    Raises:
        ValueError: It is not an `AutoencoderKL`, or a file is too large.
        OSError: The repository cannot be read.
    """
    from ..hub.fetch import Source

    source = Source(repo_id)
    most = _MAX_CONFIG_BYTES

    def within(sizes: Mapping[str, int]) -> list[str]:
        index = sizes.get(_INDEX, 0)
        if (size := sum(sizes.values()) - index) > most or index > _MAX_CONFIG_BYTES:
            raise ValueError(f"the files of {repo_id!r} have {size} bytes; at most {most} are read")
        return list(sizes)

    folder = source.download(["config.json"], within, needed=["config.json"])
    _check_class(folder, repo_id)
    most = _largest_weights(folder)
    return source.download([*_WEIGHTS, _INDEX], within, revision=folder.name)


def _largest_weights(folder: Path) -> int:
    """Bytes of the weights of this configuration in float64, and of the headers of shards."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        model = AutoencoderKL.from_config(AutoencoderKL.load_config(folder, local_files_only=True))
    return 2 * LARGEST_HEADER + 8 * sum(value.numel() for value in model.state_dict().values())


def _check_class(folder: Path, name: str) -> None:
    """Raise ValueError if `config.json` has another class or too large sizes."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{name!r} holds no autoencoder: config.json is missing")
    if file.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"{file} is longer than {_MAX_CONFIG_BYTES} bytes")
    with reading(file):
        values = parse_json(file.read_bytes())
    kind = values.get("_class_name") if isinstance(values, dict) else None
    if kind != _CLASS or "quantization_config" in values:
        raise ValueError(
            f"the autoencoder must be diffusers' {_CLASS}, unquantised; {name!r} is {kind!r:.80}"
        )
    for key, most in _LIMITS.items():
        value = values.get(key, 1)
        sizes = value if key == "block_out_channels" and isinstance(value, list) else [value]
        if len(sizes) > _MAX_BLOCKS or any(type(n) is not int or not 0 < n <= most for n in sizes):
            raise ValueError(
                f"{key} of the autoencoder {name!r} must be integers in [1, {most}]; got "
                f"{str(value)[:80]}"
            )


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
