"""Checkpoints: a directory of safetensors and JSON, written atomically and read strictly."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from .atomic import replace_directory
from .checkpoint_config import (
    CONFIG,
    GAUSSIANS,
    MODEL,
    PCA,
    CheckpointConfig,
    CheckpointError,
    dump_config,
    sha256_of,
    verify,
)
from .flow import Flow
from .flow_config import FlowConfig
from .gaussians import ClassGaussians
from .pca import ClasswisePCA

__all__ = [
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointError",
    "load",
    "refuse_existing",
    "verify",
]


@dataclass
class Checkpoint:
    """A flow with, where they were fitted, its class gaussians and classwise PCA."""

    flow: Flow
    config: CheckpointConfig
    gaussians: ClassGaussians | None = None
    pca: ClasswisePCA | None = None

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write the checkpoint; an existing one stays whole until the new one is complete.

        Other files in the directory (a README, pictures, a training log) stay. Figures that are
        not finite are written as null.

        Raises:
            FileExistsError: the directory is not empty and `overwrite` is False.
            ValueError: the flow is frozen, weights are not finite, or flow, gaussians and PCA do
                not belong together, so that the checkpoint could not be read again.
        """
        path = Path(directory).expanduser()
        refuse_existing(path, overwrite=overwrite)
        _refuse_unreadable(self)
        tensors: dict[str, dict[str, Tensor]] = {MODEL: dict(self.flow.state_dict())}
        if self.gaussians is not None:
            tensors[GAUSSIANS] = dict(self.gaussians.state_dict())
        if self.pca is not None:
            tensors[PCA] = self.pca.tensors()
        with replace_directory(path, drop=frozenset({GAUSSIANS, PCA}), last=CONFIG) as staged:
            files = {}
            for name, values in tensors.items():
                values = {key: value.detach().cpu().contiguous() for key, value in values.items()}
                save_file(values, staged / name, metadata={"format": "pt"})
                files[name] = sha256_of(staged / name)
            (staged / CONFIG).write_text(dump_config(self.config, files), encoding="utf-8")
            for name in files:  # safetensors writes what nobody but its owner may read
                shutil.copymode(staged / CONFIG, staged / name)
        return path

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move everything to a device, in place."""
        for part in (self.flow, self.gaussians, self.pca):
            if part is not None:
                part.to(device)
        return self

    @classmethod
    def load(cls, directory: str | Path) -> Checkpoint:
        """Read and check a checkpoint directory.

        Raises:
            CheckpointError: the directory is no checkpoint, or a file is missing, damaged, from a
                newer format, or does not match the configuration.
        """
        path = Path(directory)
        config, files = verify(path)
        flow = _flow(path / MODEL, config.flow)
        gaussians = _gaussians(path / GAUSSIANS, config) if GAUSSIANS in files else None
        pca = _pca(path / PCA, config) if PCA in files else None
        return cls(flow.eval(), config, gaussians, pca)


def load(path_or_repo: str | Path, *, revision: str | None = None) -> Checkpoint:
    """Load a checkpoint from a local directory or from the Hugging Face Hub.

    An existing directory is read where it is. Anything of the form "name" or "owner/name" is
    otherwise taken as a Hub repository and fetched into the Hub's cache (`revision`: branch, tag
    or commit).

    Raises:
        CheckpointError: see `Checkpoint.load`.
        FileNotFoundError: neither a directory nor a possible repository name.
        nfaug.hub.HubError: the repository cannot be read.
    """
    path = Path(path_or_repo).expanduser()
    if path.is_dir():
        return Checkpoint.load(path)
    name = str(path_or_repo)
    if path.exists() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"{name!r} is no checkpoint directory, and no repository name of the form owner/name"
        )
    from .hub.pull import pull  # only here: a local checkpoint needs no Hub

    try:
        folder = pull(name, revision=revision)
    except OSError as error:  # HubError is one; a mistyped path is the likelier mistake
        raise type(error)(f"there is no directory {name!r}, and {error}") from error
    return Checkpoint.load(folder)


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


def _refuse_unreadable(checkpoint: Checkpoint) -> None:
    """Before anything is written: what `load` would refuse must not replace a good checkpoint."""
    flow, config = checkpoint.flow, checkpoint.config
    if next(flow.parameters(), None) is None:
        raise ValueError(
            "a frozen flow cannot be saved, its weights are folded: save the flow it was made from"
        )
    if flow.config != config.flow:
        raise ValueError(f"the flow is {flow.config}, but the configuration says {config.flow}")
    if len(set(config.class_names)) != len(config.class_names):
        raise ValueError(f"class_names must be distinct; got {list(config.class_names)}")
    classes = len(config.class_names)
    for part, expected in ((checkpoint.gaussians, classes or 1), (checkpoint.pca, classes)):
        if part is not None and (part.num_classes, part.dim) != (expected, flow.config.dim):
            raise ValueError(
                f"{type(part).__name__} is of {part.num_classes} classes in {part.dim} dimensions; "
                f"the checkpoint has {classes} class names and {flow.config.dim} dimensions"
            )
    bad = [name for name, value in flow.state_dict().items() if not bool(value.isfinite().all())]
    if bad:
        raise ValueError(f"the flow's weights hold NaN or infinity in {', '.join(bad[:5])}")


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(file.read_bytes())
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from None


def _flow(file: Path, config: FlowConfig) -> Flow:
    try:
        with safe_open(file, "pt") as opened:
            found = len(list(opened.keys()))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from None
    expected = sum(
        steps * (12 + 9 * blocks) for steps, blocks in zip(config.steps, config.blocks, strict=True)
    )
    # Names are compared one by one later, but not before modules are built for a small file of
    # which a stranger's configuration says that it is a hundred thousand tensors.
    if expected > 2 * found + 1000:
        raise CheckpointError(
            f"{file} holds {found} tensors; the flow in {CONFIG} has {expected}: the two do not "
            "belong together"
        )
    try:
        return Flow.from_tensors(config, _read(file))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _gaussians(file: Path, config: CheckpointConfig) -> ClassGaussians:
    tensors = _read(file)
    classes = len(config.class_names) or 1  # a flow without classes has one gaussian
    expected = {
        "means": (classes, config.flow.dim),
        "variances": (classes, config.flow.dim),
        "counts": (classes,),
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise CheckpointError(
            f"{file} holds {found}; {classes} classes of a {config.flow.dim}-dimensional flow "
            f"need {expected}"
        )
    try:
        return ClassGaussians(**tensors)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _pca(file: Path, config: CheckpointConfig) -> ClasswisePCA:
    try:
        pca = ClasswisePCA.from_tensors(_read(file))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    if (pca.num_classes, pca.dim) != (len(config.class_names), config.flow.dim):
        raise CheckpointError(
            f"{file} is of {pca.num_classes} classes in {pca.dim} dimensions; {CONFIG} says "
            f"{len(config.class_names)} and {config.flow.dim}"
        )
    return pca
