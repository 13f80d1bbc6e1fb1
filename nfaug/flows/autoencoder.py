"""Opening a frozen autoencoder: diffusers' `AutoencoderKL`, from safetensors alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from .autoencoder_config import AutoencoderConfig

__all__ = ["fetch_autoencoder", "find_autoencoder", "open_autoencoder", "weights_sha256"]

_CLASS = "AutoencoderKL"
_FILES = (
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model-*.safetensors",  # shards, and their index
    "diffusion_pytorch_model.safetensors.index.json",
)
_LARGEST_CONFIG = 2**20  # bytes
# It may be a stranger's: what it asks for is bounded before it is allocated.
_LARGEST = {
    "block_out_channels": 4096,
    "layers_per_block": 8,
    "latent_channels": 256,
    "in_channels": 256,
    "out_channels": 256,
}
_MOST_BLOCKS = 8


def open_autoencoder(source: str | Path) -> Any:
    """The autoencoder of a local directory or a Hub repository: float32, frozen, on the CPU.

    A directory is one that `AutoencoderKL.save_pretrained` writes. Of a repository `config.json`
    and the safetensors of such a directory are fetched, into the Hub's cache; no other kind of file
    is ever read, and no code.

    Raises:
        ModuleNotFoundError: diffusers is not installed.
        ValueError: it is no `AutoencoderKL`, or has no safetensors that fit it.
        OSError: there is no such directory or repository, or it cannot be read.
    """
    folder = Path(source).expanduser()
    name = str(source)
    if not folder.is_dir() and (folder.exists() or name.count("/") > 1 or name[:1] in "./~"):
        raise FileNotFoundError(
            f"{name!r} is no directory of an autoencoder, and no repository name of the form "
            "owner/name"
        )
    try:
        from diffusers import AutoencoderKL
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'a flow on latents needs diffusers: pip install "nfaug[vae]"'
        ) from error
    folder = folder if folder.is_dir() else fetch_autoencoder(name)
    _refuse_other_class(folder, name)
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
        raise ValueError(f"{name!r} is no readable {_CLASS}: {reason}") from None
    if problems := {kind: keys for kind, keys in report.items() if keys}:
        raise ValueError(f"the weights of {name!r} do not fit its config.json: {problems}")
    return found.eval().requires_grad_(False)


def fetch_autoencoder(repo_id: str) -> Path:
    """The directory of a repository's files in the Hub's cache."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo_id, allow_patterns=list(_FILES)))


def _refuse_other_class(folder: Path, name: str) -> None:
    """Judge a `config.json` before diffusers follows it."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{name!r} holds no autoencoder: it has no config.json")
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            raise ValueError("it is too long")
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON and of Unicode, too
        raise ValueError(f"{file} is no configuration of an autoencoder: {error}") from None
    kind = values.get("_class_name") if isinstance(values, dict) else None
    if kind != _CLASS or "quantization_config" in values:
        raise ValueError(
            f"an autoencoder must be diffusers' {_CLASS}, not quantised; {name!r} is {kind!r:.80}"
        )
    for key, most in _LARGEST.items():
        value = values.get(key, 1)
        sizes = value if key == "block_out_channels" and isinstance(value, list) else [value]
        if len(sizes) > _MOST_BLOCKS or any(type(n) is not int or not 0 < n <= most for n in sizes):
            raise ValueError(
                f"{key} of the autoencoder {name!r} must be whole numbers up to {most}; got "
                f"{str(value)[:80]}"
            )


def weights_sha256(autoencoder: Any) -> str:
    """SHA-256, in hexadecimal, of the names, shapes and float32 values of all weights, by name.

    It does not depend on how the weights are cut into files.
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
    """The autoencoder that a checkpoint was trained with.

    `given` if there is one; otherwise the recorded repository, or the recorded directory beside the
    checkpoint `near`, in it, or in the working directory.

    Raises:
        FileNotFoundError: a recorded directory is in none of these places.
        ValueError: the weights are not those that the checkpoint was trained with.
        ModuleNotFoundError, OSError: see `open_autoencoder`.
    """
    source = given
    if source is None and config.kind == "hub":
        source = config.name
    if source is None:
        places = [folder / config.name for folder in (near, near.parent, Path())]
        source = next((place for place in places if (place / "config.json").is_file()), None)
    if source is None:
        raise FileNotFoundError(
            f"the flow of {near} works on the latents of an autoencoder in a directory "
            f"{config.name!r}, which is neither in the checkpoint, nor beside it, nor in the "
            "working directory: say where it is with autoencoder= (--autoencoder)"
        )
    found = open_autoencoder(source)
    if (sha256 := weights_sha256(found)) != config.sha256:
        raise ValueError(
            f"{str(source)!r} is another autoencoder than that of {near}: the SHA-256 of its "
            f"weights is {sha256}, the checkpoint says {config.sha256}; give the right one with "
            "autoencoder= (--autoencoder)"
        )
    return found
