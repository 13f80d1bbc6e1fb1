"""Checkpoints: a directory of safetensors and JSON, written atomically and read strictly."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..flows.codec import Codec
from ..flows.config import FlowConfig
from ..flows.flow import Flow
from ..gaussians.gaussians import ClassGaussians
from ..io.atomic import replace_directory
from ..io.names import (
    CONFIG,
    GAUSSIANS,
    MODEL,
    CheckpointError,
    pca_files,
    refuse_missing,
    tensor_files,
)
from ..io.tensors import (
    MOST_TENSORS,
    Stored,
    read_layout,
    read_tensors,
    refuse_other_bytes,
    sha256_of,
    write_tensors,
)
from ..pca.fit import ClasswisePCA
from ..resolve import BUILTIN, builtin_directory
from .config import CheckpointConfig, dump_config, read_config
from .pca_shards import read_pca, split_pca

__all__ = [
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointError",
    "load",
    "load_flow",
    "refuse_existing",
    "verify",
]

T = TypeVar("T")
SHARD_BYTES = 2**28  # of a file of PCA axes


@dataclass
class Checkpoint:
    """A flow with, where they were fitted, its class gaussians and classwise PCA."""

    flow: Flow
    config: CheckpointConfig
    gaussians: ClassGaussians | None = None
    pca: ClasswisePCA | None = None

    def save(
        self,
        directory: str | Path,
        *,
        overwrite: bool = False,
        shard_bytes: int = SHARD_BYTES,
    ) -> Path:
        """Write the checkpoint; an existing one stays whole until the new one is complete.

        Other files in the directory (a README, pictures, a training log) stay. Figures that are
        not finite are written as null. PCA axes of more than `shard_bytes` (256 MiB) go into
        several files, each of a run of classes.

        Raises:
            FileExistsError: the directory is not empty and `overwrite` is False.
            OSError: it cannot be written, for a full disk or another reason.
            ValueError: the flow is frozen, weights are not finite, or flow, gaussians, PCA and
                configuration do not belong together, so that the checkpoint could not be read
                again.
        """
        path = Path(directory).expanduser()
        refuse_existing(path, overwrite=overwrite)
        _refuse_unreadable(self)
        drop = frozenset(tensor_files(path))
        with replace_directory(path, drop=drop, last=CONFIG) as staged:
            files = {}
            for name, values in self._tensors(shard_bytes):
                files[name] = write_tensors(staged / name, values)
            (staged / CONFIG).write_text(dump_config(self.config, files), encoding="utf-8")
            for name in files:  # safetensors writes what nobody but its owner may read
                shutil.copymode(staged / CONFIG, staged / name)
        return path

    def _tensors(self, shard_bytes: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Each file's name and tensors."""
        yield MODEL, dict(self.flow.state_dict())
        if self.gaussians is not None:
            yield GAUSSIANS, dict(self.gaussians.state_dict())
        if self.pca is not None:
            yield from split_pca(self.pca, shard_bytes).items()

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move everything to a device, in place."""
        for part in (self.flow, self.gaussians, self.pca):
            if part is not None:
                part.to(device)
        return self

    @classmethod
    def load(cls, directory: str | Path, *, autoencoder: str | Path | None = None) -> Checkpoint:
        """Read and check a checkpoint directory.

        What its configuration and the headers of its files say is bounded and compared before
        anything is allocated: memory is that of the files on disk, two or three times over, and no
        code is ever run.

        A flow on latents needs its autoencoder: that of the recorded Hub repository, or the
        recorded directory where it lies in the checkpoint, beside it or in the working directory;
        `autoencoder`, a directory or a repository, is taken instead of either.

        Raises:
            CheckpointError: the directory is no checkpoint, or a file is missing, damaged, from a
                newer format, does not match the configuration, or asks for more than a checkpoint
                may have; or the autoencoder is another.
            FileNotFoundError, OSError: the autoencoder cannot be found, or not be fetched.
            ModuleNotFoundError: it needs diffusers, the extra `vae`.
        """
        path = Path(directory)
        config, files = read_config(path)
        refuse_missing(path, files)
        flow = _flow(path / MODEL, files[MODEL], config.flow, _codec(path, config, autoencoder))
        gaussians, pca = None, None
        if GAUSSIANS in files:
            gaussians = _gaussians(path / GAUSSIANS, files[GAUSSIANS], config)
        if pca_files(files):
            pca = read_pca(path, files, config)
        return cls(flow.eval(), config, gaussians, pca)


def load(
    path_or_repo: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    autoencoder: str | Path | None = None,
) -> Checkpoint:
    """Load a checkpoint: a local directory, a bundled one, or one of the Hugging Face Hub.

    "builtin:NAME" comes with the package; a wrong name is told which ones there are. An existing
    directory is read where it is. Anything of the form "name" or "owner/name" is otherwise taken as
    a Hub repository and fetched into the Hub's cache (`revision`: branch, tag or commit; `token`:
    for the Hub, by default the one that is logged in, False for none).
    `autoencoder` is where that of a flow on latents is, if not where `Checkpoint.load` looks.

    Raises:
        CheckpointError: see `Checkpoint.load`.
        FileNotFoundError: neither a directory nor a possible repository name.
        nfaug.hub.HubError: the repository cannot be read.
    """
    read = partial(Checkpoint.load, autoencoder=autoencoder)
    return _read(read, path_or_repo, revision, token, whole=True)


def load_flow(
    path_or_repo: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    autoencoder: str | Path | None = None,
) -> Flow:
    """Load the flow of a checkpoint alone; of a Hub repository nothing else is fetched.

    Arguments and errors are those of `load`.
    """
    read = partial(_only_flow, autoencoder=autoencoder)
    return _read(read, path_or_repo, revision, token, whole=False)


def verify(directory: str | Path) -> tuple[CheckpointConfig, dict[str, str]]:
    """Check a checkpoint's configuration, and headers and SHA-256 of every tensor file.

    Returns the configuration and {file name: SHA-256}. Nothing large is held in memory.

    Raises:
        CheckpointError: the directory is no checkpoint, its configuration is damaged, unknown or
            from a newer format, or a tensor file is missing, damaged or from another checkpoint.
    """
    path = Path(directory)
    config, files = read_config(path)
    refuse_missing(path, files)
    for name, listed in files.items():
        read_layout(path / name)
        refuse_other_bytes(path / name, sha256_of(path / name), listed)
    return config, files


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse to write into what is not empty, or not a directory.

    Raises:
        FileExistsError: says which.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; a checkpoint is a directory")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise FileExistsError(
            f"{path} is not empty; pass overwrite=True (--overwrite) to replace it"
        )


def _read(
    read: Callable[[Path], T],
    path_or_repo: str | Path,
    revision: str | None,
    token: str | bool | None,
    *,
    whole: bool,
) -> T:
    """Read the directory itself, or the files of a repository in the Hub's cache."""
    name = str(path_or_repo)
    if name.startswith(BUILTIN):
        return read(builtin_directory(name))
    path = Path(path_or_repo).expanduser()
    if path.is_dir():
        return read(path)
    if path.exists() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{name!r} is no checkpoint directory, and no repository name of the form owner/name"
        )
    from ..hub.pull import fetch  # only here: a local checkpoint needs no Hub

    def fetched(*, check: bool) -> Path:
        try:
            return fetch(name, revision=revision, token=token, whole=whole, check=check)
        except OSError as error:  # HubError is one; a mistyped path is the likelier mistake
            raise type(error)(f"there is no directory {name!r}, and {error}") from error

    try:
        return read(fetched(check=False))  # reading hashes each file anyway
    except CheckpointError:
        return read(fetched(check=True))  # what is damaged was fetched again


def _only_flow(path: Path, *, autoencoder: str | Path | None = None) -> Flow:
    config, files = read_config(path)
    refuse_missing(path, [MODEL])
    codec = _codec(path, config, autoencoder)
    return _flow(path / MODEL, files[MODEL], config.flow, codec).eval()


def _refuse_unreadable(checkpoint: Checkpoint) -> None:
    """Before anything is written: what `load` would refuse must not replace a good checkpoint."""
    flow, config = checkpoint.flow, checkpoint.config
    if flow.frozen:
        raise ValueError(
            "a frozen flow cannot be saved, its weights are folded: save the flow it was made from"
        )
    if flow.config != config.flow:
        raise ValueError(f"the flow is {flow.config}, but the configuration says {config.flow}")
    if flow.codec.record != config.autoencoder:
        raise ValueError(
            f"the flow's autoencoder is {flow.codec.record}, but the configuration says "
            f"{config.autoencoder}"
        )
    if (number := len(flow.state_dict())) > MOST_TENSORS:
        raise ValueError(f"the flow has {number} tensors; at most {MOST_TENSORS} could be read")
    classes = len(config.class_names)
    for part, expected in ((checkpoint.gaussians, classes or 1), (checkpoint.pca, classes)):
        if part is not None and (part.num_classes, part.dim) != (expected, flow.config.dim):
            raise ValueError(
                f"{type(part).__name__} is of {part.num_classes} classes in {part.dim} dimensions; "
                f"the checkpoint has {classes} class names and {flow.config.dim} dimensions"
            )
    dump_config(config, {})  # says what is wrong with names and values
    bad = [name for name, value in flow.state_dict().items() if not bool(value.isfinite().all())]
    if bad:
        raise ValueError(f"the flow's weights hold NaN or infinity in {', '.join(bad[:5])}")


def _codec(path: Path, config: CheckpointConfig, given: str | Path | None) -> Codec | None:
    """The codec of a flow on latents, None for pixels."""
    if config.autoencoder is None:
        if given is not None:
            raise ValueError(f"{path} holds a flow on pixels, which needs no autoencoder")
        return None
    from ..flows.latent_codec import codec_of  # only here: pixels need no autoencoder

    try:
        return codec_of(config.autoencoder, config.flow, near=path, given=given)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _flow(file: Path, sha256: str, config: FlowConfig, codec: Codec | None) -> Flow:
    layout = read_layout(file)
    # Names and shapes are compared one by one later, but not before modules are built for a small
    # file of which a stranger's configuration says that it is a hundred thousand tensors, or a
    # file of terabytes is read for a small flow.
    _refuse_other_size(file, "tensors", len(layout), config.tensor_count, 1000)
    values = sum(stored.numel for stored in layout.values())
    _refuse_other_size(file, "values", values, config.parameter_count, 10**6)
    try:
        return Flow.from_tensors(config, read_tensors(file, sha256), codec)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _refuse_other_size(file: Path, what: str, found: int, expected: int, slack: int) -> None:
    if found > 2 * expected + slack or expected > 2 * found + slack:
        raise CheckpointError(
            f"{file} holds {found} {what}; the flow in {CONFIG} has {expected}: the two do not "
            "belong together"
        )


def _gaussians(file: Path, sha256: str, config: CheckpointConfig) -> ClassGaussians:
    found = read_layout(file)
    classes = len(config.class_names) or 1  # a flow without classes has one gaussian
    each = Stored(torch.float32, (classes, config.flow.dim))
    expected = {"means": each, "variances": each, "counts": Stored(torch.int64, (classes,))}
    if found != expected:
        raise CheckpointError(
            f"{file} is damaged or from another checkpoint: it holds {_shown(found)}; {classes} "
            f"classes of a {config.flow.dim}-dimensional flow need {_shown(expected)}"
        )
    try:
        return ClassGaussians(**read_tensors(file, sha256))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _shown(layout: dict[str, Stored]) -> str:
    shown = [f"{name} {dtype} {shape}" for name, (dtype, shape) in sorted(layout.items())[:9]]
    return ", ".join(shown) or "nothing"
