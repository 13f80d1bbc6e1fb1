"""What the explorer shows, as functions of a flow, images and settings: no user interface."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..augment.box import at_its_place, seen_part
from ..augment.config import MixConfig
from ..augment.engine import Engine
from ..augment.open_engine import engine_of
from ..augment.transform import NFAugment
from ..checkpoint.checkpoint import Checkpoint
from ..data.choose import choose_of_class
from ..data.decode import decode_image
from ..data.images import LabelledImages
from ..data.preprocess import Preprocess, resize_levels
from ..fitting.checkpoints import open_fitted
from ..fitting.opening import load_base
from ..io.numbers import as_size
from ..io.text import printable

_PARTNERS = 8  # images of the class to mix with, if the checkpoint has no memory
_TEMPERATURE = 0.8  # of samples


@dataclass(frozen=True, eq=False)  # hashed by identity, for the cache of `class_images`
class OpenFlow:
    """A flow to explore: a checkpoint with PCA axes, and images of its classes.

    Attributes:
        checkpoint: The checkpoint.
        engine: Its engine, which `NFAugment`s of any settings can share.
        size: (height, width) of the images that are shown; NFA works at the flow's size.
        dataset: The images, at this size; None for samples of the flow.
    """

    checkpoint: Checkpoint
    engine: Engine
    size: tuple[int, int]
    dataset: LabelledImages | None = None


def open_flow(
    source: str,
    data: str | None = None,
    *,
    autoencoder: str | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> OpenFlow:
    """Load a flow and the dataset whose images are shown; see `nfaug.fit` for the arguments.

    With data, this is `nfaug.fitting.open_fitted`, which fits a flow of other classes first.
    Samples are shown at `image_size`, by default the flow's size.

    Raises:
        ValueError: There are no data, and the flow has no axes or no class Gaussians; or the data
            do not fit.
        OSError: The flow or the data do not exist or cannot be read.
    """
    base = load_base(source, autoencoder, gaussians=True)
    if data is None:
        if base.pca is None or base.gaussians is None:
            missing = "is not fitted to classes" if base.pca is None else "has no class Gaussians"
            raise ValueError(
                f"{source!r} {missing}, so that there are no images of classes to show: pass some "
                "with --data, or fit it first (nfaug fit --gaussians data)"
            )
        size = base.flow.codec.image_size if image_size is None else as_size(image_size)
        return OpenFlow(base, engine_of(base), size)
    base, dataset = open_fitted(base, data, image_size=image_size, autoencoder=autoencoder)
    return OpenFlow(base, engine_of(base), dataset.image_size, dataset)


def read_picture(file: str | Path, flow: OpenFlow) -> Tensor:
    """Read an image file as uint8 (1, C, H, W), at the size of the images that are shown.

    Raises:
        ValueError: The file is not an image that can be read, or it is too large.
    """
    path = Path(file)
    name = printable(path.name, longest=60)
    image = decode_image(path.read_bytes(), name)
    return Preprocess(flow.checkpoint.flow.codec.channels, flow.size)(image, name)[None]


@functools.lru_cache(maxsize=4)
def class_images(flow: OpenFlow, label: int, number: int, *, seed: int = 0) -> Tensor:
    """Images of a class, uint8 (number, C, H, W): of the dataset, or samples of the flow.

    `seed` chooses them; of a class with fewer images there are fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    dataset = flow.dataset
    if dataset is None:
        samples = flow.checkpoint.sample(
            number, label, temperature=_TEMPERATURE, generator=generator
        )
        return resize_levels(samples, flow.size)
    chosen = choose_of_class(dataset.targets, label, number, generator)
    return torch.stack([dataset.image(index) for index in chosen.tolist()])


class Comparison(NamedTuple):
    """What NFA makes of an image.

    Attributes:
        decoded: The part of the image that the flow sees, encoded and decoded, at its place in
            uint8 (1, C, H, W).
        exact: Whether it is that part bit for bit, at the flow's size.
        variants: The n variants, uint8 (n, C, H, W).
        differences: Their differences to the image, drawn around mid-grey, uint8 (n, C, H, W).
        changed: Whether each variant differs from the image.
        radius: The smallest `gate` that lets the image through.
    """

    decoded: Tensor
    exact: bool
    variants: Tensor
    differences: Tensor
    changed: list[bool]
    radius: float


@torch.no_grad()
def compare(
    flow: OpenFlow, image: Tensor, label: int, config: MixConfig, *, n: int = 6, seed: int = 0
) -> Comparison:
    """The n variants that NFA makes of an image (1, C, H, W) in training, with p = 1.

    Partners come from the memory, or else from `class_images`. The same seed gives the same
    partners and weights at every strength.
    """
    nfa = NFAugment(flow.engine, config=dataclasses.replace(config, p=1.0))
    batch = image
    if config.needs_batch(has_memory=flow.engine.has_memory):
        others = class_images(flow, label, _PARTNERS, seed=seed + 1)
        others = others[(others != image).flatten(1).any(1)]
        batch = torch.cat([image, others])
    labels = torch.full((len(batch),), label)
    draws = [torch.Generator().manual_seed(n * seed + i) for i in range(n)]
    # The image is the first of each batch.
    variants = torch.cat([images[:1] for images in nfa.variants(batch, labels, draws)])
    frozen, pca = flow.engine.on(image.device)
    seen = seen_part(image, frozen.codec.image_size)
    z = frozen.latents(seen)
    decoded = frozen.decode(z)
    distance, energy = pca.scores(z, torch.tensor([label]))
    distance_ratio = distance / pca.gate_distance[label]
    energy_ratio = energy / pca.gate_energy[label]
    radius = torch.maximum(distance_ratio, energy_ratio).sqrt()
    return Comparison(
        decoded=at_its_place(decoded, image),
        exact=torch.equal(decoded, seen),
        variants=variants,
        differences=(variants.float() - image + 128).clamp(0, 255).to(torch.uint8),
        changed=(variants != image).flatten(1).any(1).tolist(),
        radius=float(radius),
    )
