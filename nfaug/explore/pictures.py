"""What the explorer shows, as functions of a flow, images and settings: no user interface."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..augment.pixels import resize_levels
from ..augment.preview import sample_images
from ..augment.settings import MixSettings
from ..augment.transform import NFAugment
from ..checkpoint.checkpoint import Checkpoint
from ..classes.pca import ClasswisePCA
from ..data.decode import decode_image
from ..data.images import LabelledImages
from ..data.preprocess import Preprocess
from ..fitting import fit, load_base, open_images
from ..flows.flow import Flow
from ..io.text import printable

__all__ = [
    "Comparison",
    "OpenFlow",
    "class_images",
    "compare",
    "open_flow",
    "path_between",
    "read_picture",
    "walk_axis",
]

_PARTNERS = 8  # images of the class to mix with, if the checkpoint has no memory
_FITTED, _RANK = 100, 64  # images and axes per class, if the flow has to be fitted first
_TEMPERATURE = 0.8  # of samples


@dataclass(frozen=True, eq=False)  # hashed by identity, for the cache of `class_images`
class OpenFlow:
    """A flow that is ready to be looked at: a checkpoint with PCA axes, and images of its classes.

    Without `dataset` the images are samples of the flow.
    """

    checkpoint: Checkpoint
    dataset: LabelledImages | None = None

    @functools.cached_property
    def engine(self) -> Any:
        """The engine of `NFAugment`, which settings can share."""
        return NFAugment(self.checkpoint).engine

    @functools.cached_property
    def frozen(self) -> Flow:
        """The flow, for encoding and decoding."""
        return self.checkpoint.flow.freeze()

    @property
    def pca(self) -> ClasswisePCA:
        """The axes of the classes."""
        assert self.checkpoint.pca is not None
        return self.checkpoint.pca

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.checkpoint.config.class_names

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the flow's images."""
        return self.checkpoint.flow.codec.image_size

    def encode(self, images: Tensor) -> Tensor:
        """Latents of uint8 images of any size."""
        return self.frozen.encode(_resized(images, self.size))[0]


def open_flow(
    source: str,
    data: str | None = None,
    *,
    autoencoder: str | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> OpenFlow:
    """Load a flow and the data set whose images are shown; see `nfaug.fit` for the arguments.

    A flow without axes, or of other classes than those of the data, is fitted to up to 100 images
    of each class. `image_size` is for flows of any size.

    Raises:
        ValueError: The flow has no axes and there are no data, or the data do not fit.
        OSError: The flow or the data do not exist or cannot be read.
    """
    base = load_base(source, autoencoder)
    if data is None:
        if base.pca is None or base.gaussians is None:
            raise ValueError(
                f"{source!r} is not fitted to classes: pass images with --data, or fit it first "
                "(nfaug fit)"
            )
        return OpenFlow(base)
    dataset = open_images(base.flow, data, image_size=image_size if base.flow.shape_free else None)
    if base.pca is None or tuple(dataset.classes) != base.config.class_names:
        smallest = int(torch.bincount(dataset.targets).min())
        rank = max(1, min(_RANK, smallest - 1))
        base = fit(base, dataset, autoencoder=autoencoder, rank=rank, max_per_class=_FITTED)
    return OpenFlow(base, dataset)


def read_picture(file: str | Path, flow: OpenFlow, side: int | None = None) -> Tensor:
    """Read an image file as uint8 (1, C, side, side); without `side` at the flow's size.

    Raises:
        ValueError: The file is not an image that can be read, or it is too large.
    """
    path = Path(file)
    name = printable(path.name, longest=60)
    image = decode_image(path.read_bytes(), name)
    result = flow.size if side is None else (side, side)
    return Preprocess(flow.checkpoint.flow.codec.channels, result)(image, name)[None]


@functools.lru_cache(maxsize=64)
def class_images(
    flow: OpenFlow, label: int, number: int, *, seed: int = 0, size: tuple[int, int] | None = None
) -> Tensor:
    """Images of a class, uint8 (number, C, H, W): of the data set, or samples of the flow.

    `seed` chooses them; a class with fewer images repeats them. By default they have the flow's
    size.
    """
    size = size or flow.size
    generator = torch.Generator().manual_seed(seed)
    if (data := flow.dataset) is not None:
        rows = (data.targets == label).nonzero().flatten()
        order = rows[torch.randperm(len(rows), generator=generator)]
        order = order.repeat(math.ceil(number / len(order)))[:number]
        preprocess = dataclasses.replace(data.preprocess, image_size=size, resize=True)
        at_size = LabelledImages(data.reader, preprocess, data.indices[order])
        return torch.stack([at_size.image(index) for index in range(number)])
    gaussians, labels = flow.checkpoint.gaussians, torch.full((number,), label)
    assert gaussians is not None
    options: dict[str, Any] = {"temperature": _TEMPERATURE, "generator": generator}
    return _resized(sample_images(flow.checkpoint.flow, gaussians, labels, **options), size)


class Comparison(NamedTuple):
    """What NFA makes of an image, all uint8: the image decoded, n variants and their differences.

    `differences` are drawn around mid-grey; `changed` says which variants differ from the image;
    `radius` is the smallest `gate` that lets the image through.
    """

    decoded: Tensor
    variants: Tensor
    differences: Tensor
    changed: list[bool]
    radius: float


@torch.no_grad()
def compare(
    flow: OpenFlow, image: Tensor, label: int, settings: MixSettings, *, n: int = 6, seed: int = 0
) -> Comparison:
    """The n variants that NFA makes of an image (1, C, H, W) of any size in training, with p = 1.

    Partners come from the memory, or else from `class_images`. The same seed gives the same
    partners and weights at every strength.
    """
    nfa = NFAugment(flow.engine, settings=dataclasses.replace(settings, p=1.0))
    batch = image
    if not (flow.pca.has_memory and settings.partners in ("auto", "memory")):
        others = class_images(flow, label, _PARTNERS, seed=seed + 1, size=_size(image))
        batch = torch.cat([image, others[(others != image).flatten(1).any(1)]])
    draws = [torch.Generator().manual_seed(n * seed + i) for i in range(n)]
    made = [one[:1] for one in nfa.variants(batch, torch.full((len(batch),), label), draws)]
    variants, z = torch.cat(made), flow.encode(image)
    distance, energy = flow.pca.scores(z, torch.tensor([label]))
    ratios = distance / flow.pca.gate_distance[label], energy / flow.pca.gate_energy[label]
    return Comparison(
        _resized(flow.frozen.decode(z), _size(image)),
        variants,
        (variants.float() - image + 128).clamp(0, 255).to(torch.uint8),
        (variants != image).flatten(1).any(1).tolist(),
        float(torch.stack(ratios).amax().sqrt()),
    )


@torch.no_grad()
def path_between(
    flow: OpenFlow, first: Tensor, second: Tensor, *, steps: int = 7
) -> tuple[Tensor, Tensor]:
    """Images on the line from one image to another: in latent space, and in pixels.

    Both are uint8 (steps, C, H, W) at the flow's size and start and end with the two images, up to
    what the flow's codec loses.
    """
    z1, z2 = flow.encode(first), flow.encode(second)
    x1, x2 = (_resized(image, flow.size).float() for image in (first, second))
    t = torch.linspace(0, 1, steps).view(-1, 1, 1, 1)
    pixels = x1 + t * (x2 - x1)
    return flow.frozen.decode(z1 + t * (z2 - z1)), pixels.round().to(torch.uint8)


@torch.no_grad()
def walk_axis(
    flow: OpenFlow, image: Tensor, label: int, axis: int, positions: Sequence[float]
) -> tuple[Tensor, float, float]:
    """Replace the image's coefficient along one axis of its class.

    `positions` are the new coefficients, in standard deviations of the class along the axis.

    Returns:
        The images, uint8 (n, C, H, W) at the flow's size; the image's own position; and the part of
        the class's variance in the span of its axes that lies along this one.

    Raises:
        ValueError: The class has fewer axes.
    """
    pca, z = flow.pca, flow.encode(image)
    if not 0 <= axis < int(pca.ranks[label]):
        raise ValueError(
            f"class {flow.classes[label]!r} has {int(pca.ranks[label])} axes; got axis {axis + 1}"
        )
    own = pca.project(z, torch.tensor([label]))[0, axis]
    eigenvalues, n = pca.eigenvalues[label], len(positions)
    deviation = eigenvalues[axis].sqrt()
    delta = torch.zeros(n, pca.rank)
    delta[:, axis] = torch.tensor(positions) * deviation - own
    moved = pca.add(z.expand(n, -1, -1, -1), torch.full((n,), label), delta)
    share = float(eigenvalues[axis] / eigenvalues.sum())
    return flow.frozen.decode(moved), float(own / deviation), share


def _size(images: Tensor) -> tuple[int, int]:
    return int(images.shape[-2]), int(images.shape[-1])


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return images if _size(images) == size else resize_levels(images, size)
