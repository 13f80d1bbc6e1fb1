"""The autoencoder of a checkpoint on latents: how its file is read, found and copied.

It is one of the tiny family, whose weights are read as safetensors, or a module of the user's own.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..flows.autoencoder import Autoencoder, AutoencoderConfig, weights_sha256
from ..flows.latent_codec import LatentCodec, measure_codec
from ..flows.tiny_autoencoder import TinyAutoencoder, present_names
from ..io.atomic import write_bytes
from ..io.documentation import documentation
from ..io.errors import reading
from ..io.hub_options import HubOptions
from ..io.strict_json import read_json
from ..io.tensors import read_tensors
from ..io.text import public_name
from .manifest import CONFIG, TENSOR_FILES, CheckpointError, read_manifest, reading_checkpoint

AutoencoderSource: TypeAlias = str | os.PathLike[str] | Autoencoder

_SETTINGS = "config.json"  # beside weights that diffusers wrote
_CLASS = "AutoencoderTiny"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_LARGEST = 64 * 2**20  # bytes that are copied; a tiny autoencoder has 5 to 10 MB


def open_autoencoder(source: AutoencoderSource) -> Any:
    """Open an autoencoder in float32, frozen, on the CPU. An object is copied before it is frozen.

    A directory, or a repository on the Hub, holds one safetensors file of the tiny family, or what
    diffusers' `save_pretrained` writes of one. On the Hub this file has the name of the repository,
    as in madebyollin/taef2. Only these files are downloaded and read, and no code is run.

    Raises:
        TypeError: If an object is not an `Autoencoder`.
        ValueError: If its class is another one, or its weights are damaged or do not fit.
        OSError: If the file, directory or repository does not exist or cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        return _build(_read(source), source)
    if not (isinstance(source, nn.Module) and isinstance(source, Autoencoder)):
        attributes = ", ".join(Autoencoder.__annotations__)
        raise TypeError(
            "autoencoder must be a path, a name on the Hub, or a torch.nn.Module with encode, "
            f"decode, {attributes}; got {type(source).__name__}"
        )
    return copy.deepcopy(source).requires_grad_(False).eval()


def open_codec(
    source: AutoencoderSource,
    images: Tensor,
    *,
    noise: float = 1 / 64,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> LatentCodec:
    """Open an autoencoder, and measure the scale of its latents on some images.

    Arguments and errors are those of `open_autoencoder` and `measure_codec`.
    """
    kind, name = _kind_and_name(source)
    autoencoder = open_autoencoder(source).to(device)
    return measure_codec(
        autoencoder, images.to(device), kind=kind, name=name, noise=noise, progress=progress
    )


def _read(source: str | os.PathLike[str], hub: HubOptions | None = None) -> dict[str, Tensor]:
    """The weights in a file, a directory or a repository, in float32, under their present names."""
    path = Path(source).expanduser()
    if not path.exists():
        if path.suffix == ".safetensors":
            raise FileNotFoundError(f"there is no file {str(source)!r}")
        from ..io.hub import download

        names = [_SETTINGS, _WEIGHTS, f"{path.name}.safetensors"]
        found = list(download(str(source), names, hub).values())
        if not found:
            raise FileNotFoundError(f"{str(source)!r} on the Hub has none of {', '.join(names)}")
        path = found[0].parent
    files = [path]
    if path.is_dir():
        _check_class(path / _SETTINGS)
        files = list(path.glob(_WEIGHTS)) or list(path.glob("*.safetensors"))
    if len(files) != 1:
        raise FileNotFoundError(
            f"{path} holds no autoencoder: it needs one safetensors file, or {_SETTINGS} and "
            f"{_WEIGHTS}; it has {len(files)}"
        )
    weights = {}
    for name, value in read_tensors(files[0]).items():
        weights[name] = value.to(torch.float32)
    return present_names(weights)


def _check_class(settings: Path) -> None:
    """Raise ValueError if the settings beside weights are those of another class."""
    if not settings.is_file():
        return
    with reading(settings):
        values = read_json(settings)
        kind = values.get("_class_name")
        if kind != _CLASS or "quantization_config" in values:
            raise ValueError(
                f"{kind!r:.80} is not {_CLASS}, unquantised. Another class is passed as an object: "
                f"see {documentation('how-to/photographs')}"
            )


def _build(weights: dict[str, Tensor], source: str | os.PathLike[str]) -> TinyAutoencoder:
    """A frozen model from its weights."""
    try:
        model = TinyAutoencoder(weights)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{str(source)!r}: the weights do not fit an {_CLASS}: {reason}") from None
    return model.requires_grad_(False).eval()


def _kind_and_name(source: AutoencoderSource) -> tuple[str, str]:
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
        TypeError: See `open_autoencoder`, also for OSError.
    """
    source = given
    if source is None:
        source = _recorded_source(config, near)
    if source is None:
        raise FileNotFoundError(
            f"the flow of {near} needs its autoencoder, the {config.kind} {config.name!r}, which "
            "is not in or beside the checkpoint: put it there, or give it to nfaug.load as "
            "autoencoder= (nfaug fit --autoencoder)"
        )
    if not isinstance(source, str | os.PathLike):
        model = open_autoencoder(source)
        _check_sha256(weights_sha256(model.state_dict()), source, config, near)
        return model
    weights = _read(source, None if hub is None else hub.at(None))
    # Check before the model is built, because the weights may come from a stranger.
    _check_sha256(weights_sha256(weights), source, config, near)
    return _build(weights, source)


def _recorded_source(config: AutoencoderConfig, near: Path) -> str | Path | None:
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
        _, name = _kind_and_name(source)
        raise ValueError(
            f"{name!r} is not the autoencoder of {near}: the SHA-256 of its weights is {sha256}, "
            f"the checkpoint has {config.sha256}; pass the right one as autoencoder= "
            "(nfaug fit --autoencoder)"
        )


def copy_autoencoder(
    record: AutoencoderConfig | None,
    checkpoint: Path,
    *,
    given: str | os.PathLike[str] | None,
    base: str | os.PathLike[str] | None = None,
) -> None:
    """Copy the file of a checkpoint's autoencoder into its directory, under the recorded name.

    `load` finds it there. Nothing is copied of a repository, of a directory, of a file above 64
    MiB, or under the name of a file of the checkpoint.

    Args:
        record: The checkpoint's autoencoder, if any.
        checkpoint: The directory.
        given: The file from which the autoencoder was opened.
        base: The directory of the flow that was fitted, which may hold the file.
    """
    if record is None or record.kind != "file" or record.name in TENSOR_FILES:
        return
    source = None if given is None else Path(given).expanduser()
    if source is None and base is not None:
        found = _recorded_source(record, Path(base).expanduser())
        source = None if found is None else Path(found)
    if source is None or not source.is_file() or source.stat().st_size > _LARGEST:
        return
    copy = checkpoint / record.name
    if not (copy.exists() and copy.samefile(source)):
        write_bytes(copy, source.read_bytes())


def replaced_copy(record: AutoencoderConfig | None, checkpoint: Path) -> frozenset[str]:
    """The name of the autoencoder's file of an existing checkpoint, if the new one has another.

    Args:
        record: The autoencoder of the checkpoint that takes its place, if any.
        checkpoint: The directory, which need not exist.
    """
    try:
        values = read_manifest(checkpoint)
        with reading_checkpoint(checkpoint / CONFIG):
            former = AutoencoderConfig(**values["autoencoder"]) if "autoencoder" in values else None
    except CheckpointError:  # no checkpoint: all files are the user's
        return frozenset()
    if former is None or former.kind != "file" or former.name in TENSOR_FILES:
        return frozenset()
    kept = record is not None and (record.kind, record.name) == ("file", former.name)
    return frozenset() if kept else frozenset({former.name})
