"""`Checkpoint`: a flow with its class gaussians and classwise PCA, and `load`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..classes.gaussians import ClassGaussians
from ..classes.pca_fit import ClasswisePCA
from ..flows.autoencoder import AutoencoderSource
from ..flows.flow import Flow
from ..io.lock import lock_output
from ..io.manifest import CheckpointError
from ..io.resolve import read_resolved
from .config import CheckpointConfig
from .directory import read_parts, write_parts

__all__ = ["Checkpoint", "CheckpointConfig", "CheckpointError", "load", "sample_images"]

_BATCH = 256  # images that `sample_images` decodes at once


@dataclass
class Checkpoint:
    """A flow with its configuration and, where fitted, class gaussians and classwise PCA.

    On disk it is a directory of safetensors files and a `config.json`. The file names the SHA-256
    of each tensor file, so damage is found; its own text may be edited, to correct a class name
    for example.

    Args:
        flow: The flow.
        config: Its shape, class names, training summary and figures.
        gaussians: A gaussian per class in latent space.
        pca: Axes per class in latent space, with the memory of partners if there is one.

    >>> import nfaug
    >>> checkpoint = nfaug.load("builtin:rgb32")
    >>> checkpoint.config.class_names[:2]
    ('airplane', 'automobile')
    >>> checkpoint.sample("automobile", 4).shape
    torch.Size([4, 3, 32, 32])
    """

    flow: Flow
    config: CheckpointConfig
    gaussians: ClassGaussians | None = None
    pca: ClasswisePCA | None = None

    def __repr__(self) -> str:
        flow = self.config.flow
        shape = " x ".join(map(str, flow.shape))
        return (
            f"Checkpoint({flow.backbone.name} {shape}, {flow.parameter_count / 1e6:.2f} M "
            f"parameters, {len(self.config.class_names)} classes, {self.gaussians}, {self.pca})"
        )

    def save(
        self,
        directory: str | Path,
        *,
        overwrite: bool = False,
    ) -> Path:
        """Write the checkpoint atomically and return its directory.

        An existing checkpoint stays whole until the new one is complete. Other files in the
        directory (a README, a training log) stay, except `samples.png`, a picture of the existing
        one. Figures that are not finite are written as null.

        Raises:
            FileExistsError: The directory is not empty and `overwrite` is False.
            OSError: Another process writes to the directory, or it cannot be written, for example
                because the disk is full.
            ValueError: The flow is frozen, weights are not finite, or the parts do not match, so
                that the checkpoint could not be read again.
        """
        parts = (self.flow, self.config, self.gaussians, self.pca)
        with lock_output(Path(directory)):
            return write_parts(directory, parts, overwrite=overwrite)

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move all parts to a device, in place."""
        for part in (self.flow, self.gaussians, self.pca):
            if part is not None:
                part.to(device)
        return self

    def sample(
        self,
        label_or_n: int | str = 1,
        n: int | None = None,
        *,
        temperature: float = 0.7,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw new images from the class gaussians: z ~ N(mu_y, T^2 sigma_y^2), x = f^-1(z).

        `sample("cat", 8)` and `sample(3, 8)` draw 8 images of one class. `sample(8)` draws 8 images
        of random classes.

        Args:
            label_or_n: A class name; with `n` also a class index; without `n` the number of images.
            n: Number of images of that class; 1 for a class name.
            temperature: T, which scales the standard deviations.
            generator: Source of random numbers.

        Returns:
            uint8 images, shape (n, C, H, W).

        Raises:
            ValueError: There are no class gaussians, the class is unknown, or `n` is below 1.
        """
        if self.gaussians is None:
            raise ValueError("this checkpoint has no class gaussians; fit them with nfaug.fit")
        count = 1 if n is None and isinstance(label_or_n, str) else label_or_n if n is None else n
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"the number of images must be a whole number above 0; got {count!r}")
        if isinstance(label_or_n, int) and n is None:
            device = None if generator is None else generator.device
            classes = self.gaussians.num_classes
            labels = torch.randint(classes, (count,), generator=generator, device=device)
        else:
            labels = torch.full((count,), self._label(label_or_n))
        return sample_images(
            self.flow, self.gaussians, labels, temperature=temperature, generator=generator
        )

    def _label(self, label: int | str) -> int:
        assert self.gaussians is not None
        names = self.config.class_names
        if isinstance(label, str):
            if label not in names:
                raise ValueError(
                    f"there is no class {label!r}; classes are {', '.join(names[:20])}"
                )
            return names.index(label)
        if not 0 <= label < self.gaussians.num_classes:
            raise ValueError(f"there is no class {label}; there are {self.gaussians.num_classes}")
        return label


def load(
    path_or_repo: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    autoencoder: AutoencoderSource | None = None,
) -> Checkpoint:
    """Load a checkpoint: a bundled flow, a local directory or a repository of the Hub.

    Files are read strictly: their SHA-256 must be those in `config.json`, and one error lists every
    missing, unexpected and misshapen weight. No code from the checkpoint is ever run.

    Args:
        path_or_repo: "builtin:NAME", an existing directory, or "owner/name", which is downloaded
            into the cache of the Hub.
        revision: Branch, tag or commit of the repository.
        token: Access token of the Hub; None for the one that is logged in, False for none.
        autoencoder: The autoencoder of a flow on latents, or its file, directory or repository.
            By default the recorded repository is used, or the recorded file or directory if it
            lies in the checkpoint or beside it. One of your own must be passed.

    Raises:
        CheckpointError: The directory is not a checkpoint; a file is missing, damaged, of a
            newer format or inconsistent with the configuration; or the autoencoder is not the
            recorded one. The message names the file.
        FileNotFoundError: This is neither a directory nor a possible repository name, or the
            autoencoder cannot be found.
        nfaug.hub.HubError: The repository cannot be read.
        ModuleNotFoundError: The autoencoder needs diffusers (the extra `vae`).

    >>> import nfaug
    >>> checkpoint = nfaug.load("builtin:fashion-mnist")
    >>> checkpoint.flow.config.image_size
    (28, 28)
    """
    read = partial(read_parts, autoencoder=autoencoder)
    return Checkpoint(*read_resolved(read, path_or_repo, revision=revision, token=token))


@torch.no_grad()
def sample_images(
    flow: Flow,
    gaussians: ClassGaussians,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Images (N, C, H, W), uint8, of z ~ N(mu_y, T^2 Sigma_y) with labels y (N,), temperature T."""
    frozen, images = flow.freeze(), []
    for part in labels.to(flow.device).split(_BATCH):
        z = gaussians.sample(part, temperature=temperature, generator=generator)
        images.append(frozen.decode(z.unflatten(1, flow.config.shape)))
    return torch.cat(images)
