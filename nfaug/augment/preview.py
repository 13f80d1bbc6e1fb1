"""Picture grids: NFA variants of images, and samples of a flow."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..checkpoint.checkpoint import Checkpoint
from ..classes.gaussians import ClassGaussians
from ..flows.flow import Flow
from ..io.text import printable
from .engine import FAR
from .pixels import resize_levels, to_pil
from .settings import MixSettings
from .transform import NFAugment

__all__ = ["picture_grid", "preview_grid", "sample_images"]

_HEADER, _GAP = 18, 2
_PARTNERS = 8  # images per class to mix with, if partners come from the batch


def preview_grid(
    checkpoint: Checkpoint,
    dataset: Any,
    *,
    variants: int = 6,
    classes: int = 10,
    seed: int = 0,
    cell: int = 64,
    settings: MixSettings | None = None,
    **changes: Any,
) -> Image.Image:
    """A row per class: an image, its reconstruction, and NFA variants of it.

    The variants are those of training: a variant that the gate rejects is the image itself.

    Args:
        checkpoint: A checkpoint with PCA axes.
        dataset: A `LabelledImages` data set of the checkpoint's classes, at any size: the size at
            which a classifier is trained shows what it will see.
        variants: Number of variants.
        classes: Largest number of rows.
        seed: Seed of the choice of images, partners and weights.
        cell: Size in pixels up to which images are enlarged, by an integer factor.
        settings: Settings of `NFAugment`; `p` is always 1.
        changes: Single settings, which override `settings`.

    Raises:
        ValueError: The checkpoint has no PCA, the data lack a class, or a number is out of range.
    """
    if checkpoint.pca is None:
        raise ValueError("this checkpoint has no PCA axes to mix along; fit it with: nfaug fit")
    if classes < 1 or variants < 0:
        raise ValueError(f"classes must be >= 1 and variants >= 0; got {classes} and {variants}")
    settings = MixSettings.merge(settings, {**changes, "p": 1.0})
    generator = torch.Generator().manual_seed(seed)
    device = checkpoint.flow.device
    names = list(checkpoint.config.class_names)[:classes]
    from_memory = checkpoint.pca.has_memory and settings.partners in ("auto", "memory")
    per_class = 1 if from_memory else 1 + _PARTNERS  # partners of the batch are not shown
    picks = []
    for y in range(len(names)):
        rows = (dataset.targets == y).nonzero().flatten()
        if not len(rows):
            raise ValueError(f"the data have no images of class {names[y]!r}")
        picks.append(rows[torch.randperm(len(rows), generator=generator)[:per_class]])
    order = torch.cat([*(rows[:1] for rows in picks), *(rows[1:] for rows in picks)])
    batch = torch.stack([dataset[index][0] for index in order.tolist()]).to(device)
    shown = batch[: len(names)]
    columns = [shown, _decoded(checkpoint.flow.freeze(), shown)]
    nfa = NFAugment(checkpoint, settings=settings, generator=generator)
    labels = dataset.targets[order].to(device)
    made = nfa.variants(batch, labels, itertools.repeat(generator, variants))
    columns += [images[: len(names)] for images in made]
    table = torch.stack([column.cpu() for column in columns], 1)
    titles = ["image", "decoded", *(f"variant {i}" for i in range(1, variants + 1))]
    return picture_grid(table, titles, names, cell=cell)


@torch.no_grad()
def _decoded(flow: Flow, images: Tensor) -> Tensor:
    """Images encoded and decoded at the flow's size, free of float32's error as in training."""
    small = resize_levels(images, flow.codec.image_size)
    z = flow.encode(small)[0]
    far = (z.abs().flatten(1).amax(1) > FAR) & flow.codec.exact
    decoded = torch.where(far[:, None, None, None], small, flow.decode(z))
    shape = (int(images.shape[-2]), int(images.shape[-1]))
    return resize_levels(decoded, shape)


@torch.no_grad()
def sample_images(
    flow: Flow,
    gaussians: ClassGaussians,
    labels: Tensor,
    *,
    temperature: float = 1.0,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Samples of the flow: uint8 images of z ~ N(mu_y, T^2 Sigma_y).

    Args:
        flow: The flow.
        gaussians: The class gaussians.
        labels: (N,) classes y.
        temperature: Factor T of the standard deviations.
        batch_size: Images at a time.
        generator: Source of randomness.

    Returns:
        Images of shape (N, C, H, W).
    """
    frozen = flow.freeze()
    images = []
    for batch in labels.split(batch_size):
        z = gaussians.sample(batch.to(flow.device), temperature=temperature, generator=generator)
        images.append(frozen.decode(z.unflatten(1, flow.config.shape)))
    return torch.cat(images)


def picture_grid(
    table: Tensor, titles: Sequence[str], names: Sequence[str], *, cell: int = 64
) -> Image.Image:
    """A grid of images with captions.

    Args:
        table: (rows, columns, C, H, W) uint8 images. Of other than 1 or 3 channels only the first
            is shown.
        titles: Titles of the columns.
        names: Names of the rows.
        cell: Size in pixels up to which images are enlarged.
    """
    rows, columns, _, height, width = table.shape
    factor = max(1, cell // max(height, width))
    high, wide = height * factor + _GAP, max(width * factor, 48) + _GAP
    font = _font()
    names = [_short(name, font) for name in names]
    margin = 8 + max((int(font.getlength(name)) for name in names), default=0)
    canvas = Image.new("RGB", (margin + columns * wide, _HEADER + rows * high), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((margin + column * wide, 3), title, fill="black", font=font)
    for row, name in enumerate(names):
        draw.text((4, _HEADER + row * high + high // 2 - 6), name, fill="black", font=font)
        for column in range(columns):
            canvas.paste(
                _picture(table[row, column], factor),
                (margin + column * wide, _HEADER + row * high),
            )
    return canvas


def _font() -> Any:
    """DejaVu Sans, which matplotlib ships, or else PIL's font, which is mostly ASCII."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        with contextlib.suppress(OSError):  # also without FreeType
            return ImageFont.truetype(str(file), 10)
    return ImageFont.load_default()


def _short(name: str, font: Any) -> str:
    """At most 16 characters of the name, with those that the font lacks replaced."""
    text = printable(unicodedata.normalize("NFC", name), longest=16)
    text = text.replace("\N{REPLACEMENT CHARACTER}", "?")
    return "".join(_in_font(c, font) for c in text)


def _in_font(character: str, font: Any) -> str:
    """The character, or the letter without its accent, or a question mark."""

    for c in (character, unicodedata.normalize("NFD", character)[0]):
        with contextlib.suppress(UnicodeError):  # PIL's font without FreeType
            if c.isprintable() and (c.isascii() or _pixels(font, c) != _pixels(font, "\U0010ffff")):
                return c
    return "?"


def _pixels(font: Any, character: str) -> bytes:
    return bytes(font.getmask(character))  # equal for all characters that the font lacks


def _picture(image: Tensor, factor: int) -> Any:
    values = image if image.shape[0] in (1, 3) else image[:1]
    picture = to_pil(values.expand(3, -1, -1).permute(1, 2, 0).numpy())
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)
