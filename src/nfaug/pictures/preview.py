"""Picture grids: NFA variants of images, and samples of a flow."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..augment.box import at_its_place, seen_part
from ..augment.config import MixConfig, MixSettings, one_config
from ..augment.pixels import to_pil
from ..augment.transform import NFAugment
from ..checkpoint.checkpoint import Checkpoint, sample_images
from ..classes.gaussians import ClassGaussians
from ..data.choose import choose_of_class
from ..flows.flow import Flow
from ..io.progress import progress_bar
from ..io.text import printable

if TYPE_CHECKING:
    from typing_extensions import Unpack

_HEADER, _GAP = 18, 2
_PARTNERS = 8  # images per class to mix with, if partners come from the batch


@torch.no_grad()
def preview_grid(
    checkpoint: Checkpoint,
    data: Any,
    *,
    variants: int = 6,
    max_classes: int = 10,
    seed: int = 0,
    cell: int = 64,
    config: MixConfig | None = None,
    progress: bool = False,
    **settings: Unpack[MixSettings],
) -> Image.Image:
    """A row per class: an image, its reconstruction, and variants of it, as in training.

    Args:
        checkpoint: A fitted checkpoint.
        data: A dataset that `open_dataset` returned, of the checkpoint's classes,
            at any size: the size at which a classifier is trained shows what it will see.
        variants: Number of variants. Where the gate leaves an image unchanged, it is the image.
        max_classes: The most rows.
        seed: Seed of the choice of images, partners and weights.
        cell: Size in pixels up to which images are enlarged, by an integer factor.
        config: Settings of `NFAugment`; `p` is always 1.
        progress: Show a bar.
        settings: Fields of `MixConfig` as keywords, if `config` is not given.

    Returns:
        The picture.

    Raises:
        ValueError: The checkpoint is not fitted, the data have other classes or no image of one, a
            number is out of range, or settings are given twice.

    Example:
        >>> import nfaug
        >>> digits = nfaug.open_dataset("digits", per_class=10)
        >>> checkpoint = nfaug.fit("builtin:pixels", digits, progress=False)
        >>> picture = nfaug.pictures.preview_grid(checkpoint, digits, variants=2, max_classes=3)
        >>> picture.mode
        'RGB'
    """
    if max_classes < 1 or variants < 0:
        raise ValueError(
            "max_classes must be 1 or more, and variants 0 or more; got "
            f"{max_classes} and {variants}"
        )
    generator = torch.Generator().manual_seed(seed)
    config = dataclasses.replace(one_config(config, settings), p=1.0)
    nfa = NFAugment(checkpoint, config=config, generator=generator)
    nfa.check_classes(data, required=False)
    names = list(nfa.classes)[:max_classes]
    in_batch = config.needs_batch(has_memory=nfa.engine.has_memory)
    per_class = 1 + _PARTNERS * in_batch  # partners of the batch are not shown
    picks = []
    for y, name in enumerate(names):
        rows = choose_of_class(data.targets, y, per_class, generator)
        if not len(rows):
            raise ValueError(f"the data have no images of class {name!r}")
        picks.append(rows)
    order = torch.cat([*(rows[:1] for rows in picks), *(rows[1:] for rows in picks)])
    flow, _ = nfa.engine.on(nfa.engine.device)
    _ = data.image_size  # an error if the images differ in size
    batch = torch.stack([data[index][0] for index in order.tolist()]).to(flow.device)
    shown = batch[: len(names)]
    with progress_bar(1 + variants, "picture", "column", shown=progress) as bar:
        decoded = flow.decode(flow.latents(seen_part(shown, flow.codec.image_size)))
        columns = [shown, at_its_place(decoded, shown)]
        bar.update()
        labels = data.targets[order].to(flow.device)
        for images in nfa.variants(batch, labels, itertools.repeat(generator, variants)):
            columns.append(images[: len(names)])
            bar.update()
    table = torch.stack([column.cpu() for column in columns], 1)
    titles = ["image", "decoded", *(f"variant {i}" for i in range(1, variants + 1))]
    return picture_grid(table, titles, names, cell=cell)


def sample_grid(
    flow: Flow,
    gaussians: ClassGaussians,
    names: Sequence[str],
    columns: int,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> Image.Image:
    """A row of samples (`sample_images`) for each of the first classes, whose names are given."""
    labels = torch.arange(len(names)).repeat_interleave(columns)
    generator = torch.Generator().manual_seed(seed)
    images = sample_images(
        flow,
        gaussians,
        labels,
        temperature=temperature,
        generator=generator,
        progress=progress,
    )
    titles = [f"sample {i}" for i in range(1, columns + 1)]
    return picture_grid(images.cpu().unflatten(0, (-1, columns)), titles, names)


def picture_grid(
    table: Tensor, titles: Sequence[str], names: Sequence[str], *, cell: int = 64
) -> Image.Image:
    """A grid of images with captions.

    Args:
        table: (rows, columns, C, H, W) uint8 images. Of other than 1 or 3 channels only the first
            is shown.
        titles: Titles of the columns.
        names: Names of the rows, of which 16 characters are shown; "?" for those not in Latin-1.
        cell: Size in pixels up to which images are enlarged.
    """
    rows, columns, channels, height, width = table.shape
    factor = max(1, cell // max(height, width))
    size = (width * factor, height * factor)
    wide, high = max(size[0], 48) + _GAP, size[1] + _GAP
    font: Any = ImageFont.load_default()
    names = [printable(name)[:16].encode("latin-1", "replace").decode("latin-1") for name in names]
    margin = 8 + max((int(font.getlength(name)) for name in names), default=0)
    canvas = Image.new("RGB", (margin + columns * wide, _HEADER + rows * high), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((margin + column * wide, 3), title, fill="black", font=font)
    for row, name in enumerate(names):
        draw.text((4, _HEADER + row * high + high // 2 - 6), name, fill="black", font=font)
        for column in range(columns):
            image = table[row, column, : 3 if channels == 3 else 1].permute(1, 2, 0)
            picture = to_pil(image.numpy()).resize(size, Image.Resampling.NEAREST)
            canvas.paste(picture, (margin + column * wide, _HEADER + row * high))
    return canvas
