"""What the explorer shows, as functions of a flow, images and settings: no user interface."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..augment.counters import Outcome
from ..augment.engine import Engine
from ..augment.pixels import Normalization, resize_levels
from ..augment.preview import sample_images
from ..augment.settings import MixSettings
from ..augment.transform import NFAugment
from ..checkpoint.checkpoint import Checkpoint
from ..data.decode import IMAGE_ENDINGS, ImageDecodeError, decode_image, is_deep
from ..data.preprocess import Preprocess
from ..fitting import fit, load_base
from ..io.text import printable

__all__ = [
    "MAX_BYTES",
    "Comparison",
    "OpenFlow",
    "Walk",
    "class_images",
    "compare",
    "open_flow",
    "path_between",
    "read_picture",
    "walk_axis",
]

MAX_BYTES = 8 * 2**20  # of an uploaded file
_MAX_PIXELS = 2**24  # of an uploaded image, 4096 x 4096
_PARTNERS = 8  # images of the class to mix with, if the checkpoint has no memory
_FITTED, _RANK = 100, 64  # images and axes per class, if the flow has to be fitted first
_TEMPERATURE = 0.8  # of samples


@dataclass(frozen=True, eq=False)  # hashed by identity, for the cache of `class_images`
class OpenFlow:
    """A flow that is ready to be looked at.

    Attributes:
        checkpoint: A checkpoint with PCA axes.
        engine: Its engine, for `NFAugment`.
        dataset: Images of its classes at the flow's size, or None.
        fitted: Whether the flow was fitted to the data when it was opened.
    """

    checkpoint: Checkpoint
    engine: Engine
    dataset: Any = None
    fitted: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.engine.class_names

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the flow's images."""
        return self.engine.codec.image_size


def open_flow(
    source: str,
    data: str | None = None,
    *,
    autoencoder: str | None = None,
    image_size: int | None = None,
) -> OpenFlow:
    """Load a flow and the data set whose images are shown.

    A flow without axes, or of other classes than those of the data, is fitted to up to 100 images
    of each class. Flows without weights, such as builtin:pixels, are fitted at `image_size`.

    Args:
        source: "builtin:NAME", a directory, or "owner/name" on the Hub.
        data: A path or name for `open_dataset`; None to show images that the flow draws itself.
        autoencoder: Directory or repository of the autoencoder of a flow on latents.
        image_size: Side of the images for a flow of any size; None for that of the first image.

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
        return OpenFlow(base, Engine.of(base))
    from ..data.open import open_dataset

    free, codec = base.flow.shape_free, base.flow.codec
    dataset = open_dataset(
        data,
        image_size=image_size if free else codec.image_size,
        channels=None if free else codec.channels,
    )
    if fitted := base.pca is None or tuple(dataset.classes) != base.config.class_names:
        smallest = int(torch.bincount(dataset.targets).min())
        rank = max(1, min(_RANK, smallest - 1))
        base = fit(base, dataset, autoencoder=autoencoder, rank=rank, max_per_class=_FITTED)
    return OpenFlow(base, Engine.of(base), dataset, fitted)


def read_picture(file: str | Path, flow: OpenFlow, side: int | None = None) -> Tensor:
    """Read an image file as uint8 (1, C, side, side); None for the flow's size.

    The shorter side is resized and the centre is cropped.

    Raises:
        ValueError: The file is not an image that can be read, or it is too large.
    """
    path = Path(file)
    name = printable(path.name, longest=60)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{name} has {size} bytes; at most {MAX_BYTES} are read")
    try:
        image = decode_image(path.read_bytes(), name, max_pixels=_MAX_PIXELS)
    except ImageDecodeError as error:
        if error.__cause__ is None:  # too many pixels
            raise ValueError(str(error).partition(";")[0]) from None
        endings = ", ".join(ending[1:] for ending in IMAGE_ENDINGS)
        raise ValueError(
            f"{name} cannot be read: it is damaged, or not an image of a known format ({endings})"
        ) from None
    scale = is_deep(image)
    size_of_result = flow.size if side is None else (side, side)
    fitted = Preprocess(flow.engine.codec.channels, size_of_result, scale_16_bit=scale)
    return fitted(image, name)[None]


def class_images(
    flow: OpenFlow,
    label: int,
    number: int,
    *,
    seed: int = 0,
    side: int | tuple[int, int] | None = None,
) -> Tensor:
    """Images of a class, uint8 (number, C, H, W): of the data set, or samples of the flow.

    Args:
        flow: The flow.
        label: The class.
        number: Number of images; a data set with fewer repeats them.
        seed: Seed of the choice.
        side: Side of the result in pixels, or (height, width); None for the flow's size.
    """
    size = (side, side) if isinstance(side, int) else side or flow.size
    return _resized(_class_images(flow, label, number, seed, size), size)


@functools.lru_cache(maxsize=64)
def _class_images(
    flow: OpenFlow, label: int, number: int, seed: int, size: tuple[int, int]
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if flow.dataset is not None:
        rows = (flow.dataset.targets == label).nonzero().flatten()
        order = rows[torch.randperm(len(rows), generator=generator)]
        order = order.repeat(math.ceil(number / len(order)))[:number]
        return torch.stack([_read(flow.dataset, index, size) for index in order.tolist()])
    gaussians, labels = flow.checkpoint.gaussians, torch.full((number,), label)
    assert gaussians is not None
    return sample_images(
        flow.checkpoint.flow, gaussians, labels, temperature=_TEMPERATURE, generator=generator
    )


def _read(dataset: Any, index: int, size: tuple[int, int]) -> Tensor:
    """An image of a data set; at this size if it is read from a file."""
    if not hasattr(dataset, "reader"):
        return dataset.image(index)
    fitted = dataclasses.replace(dataset.preprocess, image_size=size, resize=True)
    return fitted(dataset.reader.read(int(dataset.indices[index])), dataset.name(index))


class Comparison(NamedTuple):
    """An image and what NFA makes of it, uint8 (1, C, H, W), and (n, C, H, W) for n variants.

    Attributes:
        image: The image.
        decoded: The image encoded and decoded, without a change between.
        variants: The variants.
        differences: Those of the variants to the image, around mid-grey.
        outcomes: What happened to each variant: an outcome of `NFAugment.stats`.
        radius: The smallest `gate` that lets the image through.
    """

    image: Tensor
    decoded: Tensor
    variants: Tensor
    differences: Tensor
    outcomes: list[str]
    radius: float


@torch.no_grad()
def compare(
    flow: OpenFlow,
    image: Tensor,
    label: int,
    settings: MixSettings,
    *,
    variants: int = 6,
    seed: int = 0,
) -> Comparison:
    """The variants that NFA makes of an image in training, with p = 1.

    Partners come from the memory, or else from `class_images`. The same seed gives the same
    partners and weights at every strength.

    Args:
        flow: The flow.
        image: uint8 (1, C, H, W), of any size.
        label: Its class.
        settings: How it is mixed.
        variants: Number of variants n.
        seed: Seed of partners, weights and noise.
    """
    engine, settings = flow.engine, dataclasses.replace(settings, p=1.0)
    nfa = NFAugment(engine, settings=settings)  # checks the settings
    partners = class_images(flow, label, _PARTNERS, seed=seed + 1, side=_size(image))
    others = (partners != image).flatten(1).any(1)
    partners = partners[others] if bool(others.any()) else partners
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((variants + len(partners),), label)
    drawn = nfa.make_params(labels, generator=generator)
    other = variants + torch.randint(len(partners), (len(labels),), generator=generator)
    params = dataclasses.replace(
        drawn,
        index=torch.arange(len(labels)),
        chosen=torch.arange(len(labels)) < variants,
        partner=torch.where(drawn.from_memory, drawn.partner, other),
        paired=torch.ones_like(drawn.paired),
    )
    # One encoding serves all variants, and one call decodes them.
    raw = Normalization(None, None, engine.codec.channels)
    batch = torch.cat([image, partners])
    same, usable = torch.full((len(batch),), label), torch.ones(len(batch), dtype=torch.bool)
    encoded = engine.encode(batch, same, usable, raw, settings.gate)
    rows = torch.cat([torch.zeros(variants, dtype=torch.int64), torch.arange(1, len(batch))])
    mixed, codes = engine.mix(encoded.rows(rows), params)
    made = mixed[:variants]
    names = {code.value: code.name.lower() for code in Outcome} | {Outcome.CORRECTED: "applied"}
    difference = made.float() - image.float() + 128
    decoded = _resized(_decode(flow, encoded.z[:1]), _size(image))
    return Comparison(
        image,
        decoded,
        made,
        difference.clamp(0, 255).to(torch.uint8),
        [names[code] for code in codes[:variants].tolist()],
        _gate_radius(flow, encoded.z[:1], label),
    )


def _gate_radius(flow: OpenFlow, z: Tensor, label: int) -> float:
    pca = flow.checkpoint.pca
    assert pca is not None
    distance, energy = pca.scores(z, torch.tensor([label]))
    ratios = distance / pca.gate_distance[label], energy / pca.gate_energy[label]
    return float(torch.stack(ratios).amax().sqrt())


@torch.no_grad()
def path_between(
    flow: OpenFlow, first: Tensor, second: Tensor, *, steps: int = 7
) -> tuple[Tensor, Tensor]:
    """Images on the line from one image to another: in latent space, and in pixels.

    Both are uint8 (steps, C, H, W) at the flow's size and start and end with the two images, up to
    what the flow's codec loses.
    """
    ends = [_resized(image, flow.size) for image in (first, second)]
    z1, z2 = (_encode(flow, image) for image in ends)
    t = torch.linspace(0, 1, steps).view(-1, 1, 1, 1)
    mixed = ends[0] + t * (ends[1].float() - ends[0])
    return _decode(flow, z1 + t * (z2 - z1)), mixed.round().to(torch.uint8)


class Walk(NamedTuple):
    """Images along one axis of a class, uint8 (n, C, H, W) at the flow's size.

    `positions` are the coefficients of the images, in standard deviations of the class along the
    axis. `own` is that of the image, and `share` the part of the class's variance in the span of
    its axes that lies along this one.
    """

    images: Tensor
    positions: list[float]
    own: float
    share: float


@torch.no_grad()
def walk_axis(
    flow: OpenFlow, image: Tensor, label: int, axis: int, *, steps: int = 7, reach: float = 3.0
) -> Walk:
    """Replace the image's coefficient along one axis of its class by -reach to reach deviations.

    Raises:
        ValueError: The class has fewer axes.
    """
    pca = flow.checkpoint.pca
    assert pca is not None
    if not 0 <= axis < int(pca.ranks[label]):
        raise ValueError(
            f"class {flow.classes[label]!r} has {int(pca.ranks[label])} axes; got axis {axis + 1}"
        )
    z = _encode(flow, _resized(image, flow.size))
    own = pca.project(z, torch.tensor([label]))
    deviation = pca.eigenvalues[label, axis].sqrt()
    positions = torch.linspace(-reach, reach, steps)
    delta = torch.zeros(steps, pca.rank)
    delta[:, axis] = positions * deviation - own[0, axis]
    moved = pca.add(z.expand(steps, -1, -1, -1), torch.full((steps,), label), delta)
    return Walk(
        _decode(flow, moved),
        positions.tolist(),
        float(own[0, axis] / deviation),
        float(pca.eigenvalues[label, axis] / pca.eigenvalues[label].sum()),
    )


def _encode(flow: OpenFlow, images: Tensor) -> Tensor:
    frozen, _ = flow.engine.on(flow.engine.device)
    return frozen.encode(_resized(images, flow.size))[0]


def _decode(flow: OpenFlow, z: Tensor) -> Tensor:
    frozen, _ = flow.engine.on(flow.engine.device)
    return frozen.decode(z)


def _size(images: Tensor) -> tuple[int, int]:
    return int(images.shape[-2]), int(images.shape[-1])


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return images if _size(images) == size else resize_levels(images, size)
