"""`Checkpoint`: a flow with its class Gaussians and classwise PCA, and `load`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classes.fixed_point.config import read_record
from ..classes.gaussians import ClassGaussians
from ..classes.pca import ClasswisePCA
from ..data.classes import unique_names
from ..flows.autoencoder import AutoencoderConfig
from ..flows.codec import Codec
from ..flows.config import FlowConfig
from ..flows.flow import Flow, check_finite
from ..flows.latent_codec import LatentCodec, UnopenedCodec
from ..io.atomic import check_output, replace_directory
from ..io.hub_options import HubOptions
from ..io.lock import lock_output
from ..io.numbers import check_whole
from ..io.progress import progress_bar
from ..io.tensors import read_tensors, write_tensors
from .autoencoder import AutoencoderSource, find_autoencoder, replaced_copy
from .manifest import (
    CONFIG,
    GAUSSIANS,
    MODEL,
    PCA,
    PICTURE,
    TENSOR_FILES,
    check_replaceable,
    dump_manifest,
    read_manifest,
    reading_checkpoint,
)
from .resolve import resolve

_BATCH = 256  # images that `sample_images` decodes at once
_BATCH_ON_CPU = 16  # where a small batch is as fast, and the bar moves sooner
_GAUSSIANS_TENSORS = ("counts", "means", "variances")
_REPLACED = frozenset(TENSOR_FILES) | {PICTURE}  # files that `save` does not keep


@dataclass(frozen=True)
class CheckpointConfig:
    """What `config.json` says besides versions and hashes.

    Attributes:
        flow: Shape of the flow.
        classes: Names in label order; empty for a flow without classes.
        preprocessing: What was done to images before the flow saw them.
        gaussians: The last fit to classes, and the settings of the class Gaussians if it found
            any.
        training: Summary of the training run.
        metrics: Figures measured on held-out data.
        autoencoder: The autoencoder in whose latent space the flow works; None for pixels.
    """

    flow: FlowConfig
    classes: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)
    gaussians: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    autoencoder: AutoencoderConfig | None = None

    @classmethod
    def from_manifest(cls, directory: Path, manifest: Mapping[str, Any]) -> CheckpointConfig:
        """Return the configuration of `read_manifest(directory)`.

        Raises:
            CheckpointError: The flow or the autoencoder has an unknown or impossible value.
        """
        file = directory / CONFIG
        with reading_checkpoint(f"{file}: flow"):
            flow = FlowConfig.from_dict(manifest["flow"])
        autoencoder = None
        if "autoencoder" in manifest:
            with reading_checkpoint(f"{file}: autoencoder"):
                autoencoder = AutoencoderConfig(**manifest["autoencoder"])
        return cls(
            flow,
            # Names that an earlier version wrote may have accents as a Mac stores them.
            classes=tuple(unique_names(manifest["class_names"])),
            preprocessing=manifest["preprocessing"],
            gaussians=read_record(manifest["gaussians"]),
            training=manifest["training"],
            metrics=manifest["metrics"],
            autoencoder=autoencoder,
        )

    def to_json(self, files: Mapping[str, str]) -> str:
        """Return the text of `config.json`; `files` maps tensor files to their SHA-256.

        Raises:
            TypeError: A value has a type that JSON lacks.
            ValueError: Class names are not distinct, or the text is too long.
        """
        values = dict(vars(self))
        values["flow"] = self.flow.to_dict()
        values["class_names"] = values.pop("classes")
        del values["autoencoder"]
        if self.autoencoder is not None:
            values["autoencoder"] = asdict(self.autoencoder)
        return dump_manifest(values, files)


@dataclass
class Checkpoint:
    """A flow with its configuration and, where fitted, class Gaussians and axes of each class.

    On disk it is a folder of safetensors files and a `config.json`, which names the SHA-256 of each
    tensor file, so that damage is found. The text of `config.json` may be edited, for example to
    correct the name of a class.

    Args:
        flow: The flow; for the modes pixels and autoencoder it has no weights.
        config: Its shape, class names, training summary and figures.
        gaussians: A Gaussian per class, in latent space: from a training, or from a fit with
            `gaussians=True`.
        pca: The axes of each class in latent space, with the memory if there is one.
        source: Where the order of the classes comes from, if not from a dataset in memory: the name
            of what was loaded, or of the data that were fitted.

    Example:
        >>> import nfaug
        >>> checkpoint = nfaug.load("builtin:rgb32")
        >>> checkpoint.config.classes[:2]
        ('airplane', 'automobile')
        >>> checkpoint.sample(4, "automobile").shape
        torch.Size([4, 3, 32, 32])
    """

    flow: Flow
    config: CheckpointConfig = field(repr=False)
    gaussians: ClassGaussians | None = None
    pca: ClasswisePCA | None = None
    source: str = field(default="", repr=False)

    def save(self, out: str | Path, *, overwrite: bool = False) -> Path:
        """Write the checkpoint atomically into a folder.

        An existing checkpoint stays whole until the new one is complete. Other files in the
        folder (a README, a training log) stay, except `samples.png`, a picture of the existing one,
        and the file of its autoencoder, if the new one has another. Figures that are not finite are
        written as null.

        Args:
            out: The folder.
            overwrite: Replace a checkpoint in it.

        Returns:
            The path of the folder.

        Raises:
            FileExistsError: The folder is not empty and `overwrite` is False, or its `config.json`
                is that of another program.
            OSError: Another process writes to the folder, or it cannot be written, for example
                because the disk is full.
            ValueError: The flow is frozen, weights are not finite, or the parts do not match, so
                that the checkpoint could not be read again.

        Example:
            >>> import tempfile
            >>> folder = checkpoint.save(tempfile.mkdtemp())
            >>> sorted(file.name for file in folder.iterdir())[0]
            'config.json'
        """
        path = Path(out).expanduser()
        with lock_output(path):
            check_output(path, overwrite=overwrite)
            check_replaceable(path)
            self._check_readable()
            dropped = frozenset[str]()
            if (path / CONFIG).exists():
                dropped = _REPLACED | replaced_copy(self.config.autoencoder, path)
            with replace_directory(path, drop=dropped) as staged:
                hashes = {}
                for name, tensors in self._tensors().items():
                    hashes[name] = write_tensors(staged / name, tensors)
                (staged / CONFIG).write_text(self.config.to_json(hashes), encoding="utf-8")
                for name in hashes:  # safetensors makes files that only their owner can read
                    shutil.copymode(staged / CONFIG, staged / name)
        return path

    def _tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors of each file."""
        tensors: dict[str, Mapping[str, Tensor]] = {MODEL: self.flow.state_dict()}
        if self.gaussians is not None:
            tensors[GAUSSIANS] = self.gaussians.state_dict()
        if self.pca is not None:
            tensors[PCA] = self.pca.tensors()
        return tensors

    def _check_readable(self) -> None:
        """Raise ValueError for what `read_checkpoint` would refuse, before anything is written."""
        flow = self.flow
        config = self.config
        if flow.frozen:
            raise ValueError("a frozen flow has no weights: save the flow that it was made from")
        if (flow.config, flow.codec.record) != (config.flow, config.autoencoder):
            raise ValueError(
                f"the flow is {flow.config} with the autoencoder {flow.codec.record}, "
                f"but the configuration says {config.flow} with {config.autoencoder}"
            )
        _check_classes(config, self.gaussians)
        _check_classes(config, self.pca)
        config.to_json({})  # raises for bad names and values
        check_finite(flow.state_dict())
        if self.pca is not None:
            ClasswisePCA.from_tensors(self.pca.tensors())  # raises for types and values

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move all parts to a device, in place.

        Args:
            device: The device, such as "cuda".

        Returns:
            This checkpoint.
        """
        for part in (self.flow, self.gaussians, self.pca):
            if part is not None:
                part.to(device)
        return self

    def sample(
        self,
        n: int = 1,
        label: int | str | None = None,
        *,
        temperature: float = 0.7,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw random images from the class Gaussians: z ~ N(mu_y, T^2 sigma_y^2), x = f^-1(z).

        Samples are no variants: NFA does not need them.

        Args:
            n: Number of images.
            label: Their class, as an index or a name; None for random classes.
            temperature: T, which scales the standard deviations.
            generator: Source of random numbers.

        Returns:
            uint8 images (n, C, H, W).

        Raises:
            ValueError: There are no class Gaussians, the class is unknown, or `n` is not a whole
                number above 0.

        Example:
            >>> checkpoint.sample(2).shape
            torch.Size([2, 3, 32, 32])
        """
        if self.gaussians is None:
            raise ValueError(
                "this checkpoint has no class Gaussians; nfaug.fit(..., gaussians=True) finds them"
            )
        n = check_whole("n", n)
        classes = self.gaussians.num_classes
        if label is None:
            device = None if generator is None else generator.device
            labels = torch.randint(classes, (n,), generator=generator, device=device)
        else:
            labels = torch.full((n,), self._label(label, classes))
        return sample_images(
            self.flow, self.gaussians, labels, temperature=temperature, generator=generator
        )

    def _label(self, name_or_label: int | str, classes: int) -> int:
        """The label of a class, given by its name or by the label itself."""
        names = self.config.classes
        if isinstance(name_or_label, str):
            if name_or_label in names:
                return names.index(name_or_label)
        elif name_or_label in range(classes):
            return name_or_label
        raise ValueError(
            f"there is no class {name_or_label!r}; there are {classes}: {', '.join(names[:20])}"
        )


def load(
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    autoencoder: AutoencoderSource | None = None,
    gaussians: bool = True,
) -> Checkpoint:
    """Load a checkpoint: a bundled one, a local folder or a repository of the Hub.

    Files are read strictly: their SHA-256 must be those in `config.json`, and one error lists every
    missing, unexpected and misshapen weight. No code from the checkpoint is ever run. The axes of
    more than 64 classes are mapped: the processes of a machine share them, and their file may be
    replaced, as `save` does, but not changed in place. For a dataset of your own, compare its
    classes with those of the checkpoint: `NFAugment(...).check_classes(dataset)`.

    Args:
        checkpoint: "builtin:NAME", an existing folder, or "owner/name", which is downloaded into
            the cache of the Hub. "owner/name@v1" is the revision v1. timm's "hf_hub:owner/name"
            and the address of the page on the Hub are understood.
        revision: Branch, tag or commit of the repository.
        token: Access token of the Hub; None for the one that is logged in, False for none.
        cache_dir: Folder of the cache; None for that of huggingface_hub (HF_HUB_CACHE).
        local_files_only: Read the cache and send no request.
        force_download: Download files that are in the cache once more.
        autoencoder: The autoencoder of a checkpoint on latents, or its file, folder or repository.
            By default the recorded repository is used, or the recorded file or folder if it lies in
            the checkpoint or beside it. One of your own must be passed.
        gaussians: Whether the class Gaussians are read, if there are any. `NFAugment`, a fit and a
            bank do not use them. A checkpoint without them is also saved without them.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        CheckpointError: The folder is not a checkpoint; a file is missing, damaged, of a newer
            format or inconsistent with the configuration; or the autoencoder is not the recorded
            one. The message names the file.
        FileNotFoundError: This is neither a folder nor a possible repository name, or the
            autoencoder cannot be found.
        nfaug.hub.HubError: The repository cannot be read.
        ValueError: `checkpoint` and `revision` name two revisions.

    Example:
        >>> import nfaug
        >>> checkpoint = nfaug.load("builtin:fashion-mnist")
        >>> checkpoint.flow.config.image_size
        (28, 28)
    """
    options = HubOptions(revision, token, cache_dir, local_files_only, force_download)
    folder = resolve(checkpoint, options)
    loaded = read_checkpoint(folder, autoencoder=autoencoder, hub=options, with_gaussians=gaussians)
    loaded.source = str(checkpoint)
    return loaded


def read_checkpoint(
    directory: Path,
    *,
    autoencoder: AutoencoderSource | None = None,
    hub: HubOptions | None = None,
    on_latents: bool = True,
    with_gaussians: bool = True,
) -> Checkpoint:
    """Read and check a checkpoint directory; see `load`.

    `hub` says how an autoencoder is read from a repository; its revision is the checkpoint's alone.

    Without `on_latents` the autoencoder of a flow on latents is not opened: the flow can be
    checked and saved, but neither encode nor decode images. Without `with_gaussians` their file is
    not opened.
    """
    manifest = read_manifest(directory)
    files: Mapping[str, str] = manifest["files"]
    config = CheckpointConfig.from_manifest(directory, manifest)
    if config.autoencoder is None and autoencoder is not None:
        raise ValueError(f"{directory} holds a flow on pixels, which needs no autoencoder")
    codec: Codec | None = None
    if config.autoencoder is not None and not on_latents:
        codec = UnopenedCodec(config.flow, config.autoencoder)
    elif config.autoencoder is not None:
        with reading_checkpoint(directory):
            opened = find_autoencoder(
                config.autoencoder, near=directory, given=autoencoder, hub=hub
            )
            codec = LatentCodec(opened, config.autoencoder).for_flow(config.flow)
    with reading_checkpoint(directory / MODEL, longest=10_000):
        tensors = read_tensors(directory / MODEL, files[MODEL])
        flow = Flow.from_tensors(config.flow, tensors, codec)
    gaussians = None
    if with_gaussians and GAUSSIANS in files:
        with reading_checkpoint(directory / GAUSSIANS):
            tensors = read_tensors(directory / GAUSSIANS, files[GAUSSIANS])
            if sorted(tensors) != list(_GAUSSIANS_TENSORS):
                raise ValueError(f"it must hold {list(_GAUSSIANS_TENSORS)}; got {sorted(tensors)}")
            gaussians = ClassGaussians(**tensors)
            _check_classes(config, gaussians)
    pca = None
    if PCA in files:
        with reading_checkpoint(directory / PCA):
            pca = ClasswisePCA.from_tensors(read_tensors(directory / PCA, files[PCA]))
            _check_classes(config, pca)
    return Checkpoint(flow.eval(), config, gaussians, pca)


def _check_classes(config: CheckpointConfig, part: ClassGaussians | ClasswisePCA | None) -> None:
    """Raise ValueError if the Gaussians or the PCA have other classes or another dimension."""
    if part is None:
        return
    classes = len(config.classes)
    dim = config.flow.dim
    expected = classes
    if classes == 0 and isinstance(part, ClassGaussians):
        expected = 1  # a flow without classes has one Gaussian
    if part.num_classes != expected or part.dim != dim:
        raise ValueError(
            f"{type(part).__name__} has {part.num_classes} classes in {part.dim} dimensions; "
            f"the checkpoint has {classes} class names and {dim} dimensions"
        )


@torch.no_grad()
def sample_images(
    flow: Flow,
    gaussians: ClassGaussians,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """Images (N, C, H, W), uint8, of z ~ N(mu_y, T^2 Sigma_y) with labels y (N,), temperature T.

    `progress` shows a bar.
    """
    frozen = flow.freeze()
    at_once = _BATCH_ON_CPU if flow.device.type == "cpu" else _BATCH
    decoded = []
    with progress_bar(len(labels), "samples", "image", shown=progress) as bar:
        for batch in labels.to(flow.device).split(_BATCH):
            z = gaussians.sample(batch, temperature=temperature, generator=generator)
            for part in z.unflatten(1, flow.config.shape).split(at_once):
                decoded.append(frozen.decode(part))
                bar.update(len(part))
    return torch.cat(decoded)
