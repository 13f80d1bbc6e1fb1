"""Pictures of what a flow does to images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..checkpoint.checkpoint import Checkpoint
from ..flows.flow import Flow
from ..gaussians.gaussians import ClassGaussians
from .transform import NFAugment

__all__ = ["picture_grid", "preview_grid", "sample_images"]

_HEADER, _GAP = 18, 2
_PARTNERS = 8  # of each class, where they do not come from a memory


def preview_grid(
    checkpoint: Checkpoint,
    dataset: Any,
    *,
    variants: int = 6,
    classes: int = 10,
    seed: int = 0,
    cell: int = 64,
    **settings: Any,
) -> Image.Image:
    """A row per class: an original, its reconstruction, and NFA variants.

    Args:
        checkpoint: a checkpoint with PCA.
        dataset: a `LabelledImages` data set of the checkpoint's classes.
        variants: columns of variants.
        classes: rows at most.
        seed: picks the originals, partners and weights.
        cell: pixels of a cell; images are enlarged by whole factors up to it.
        settings: of `NFAugment`; there is no gate unless one is asked for.

    Raises:
        ValueError: the checkpoint has no PCA, the data lack a class, or a number is out of range.
    """
    if checkpoint.pca is None:
        raise ValueError("this checkpoint has no PCA axes to mix along; make them with: nfaug fit")
    if classes < 1 or variants < 0:
        raise ValueError(f"at least 1 class and 0 variants; got {classes} and {variants}")
    generator = torch.Generator().manual_seed(seed)
    device = checkpoint.flow.device
    names = list(checkpoint.config.class_names)[:classes]
    # Partners that come from the batch are others of the class, which are not shown.
    remembered = checkpoint.pca.has_memory and settings.get("partners") in (None, "auto", "memory")
    each = 1 if remembered else 1 + _PARTNERS
    picks = []
    for y in range(len(names)):
        rows = (dataset.targets == y).nonzero().flatten()
        if not len(rows):
            raise ValueError(f"the data have no image of class {names[y]!r}")
        picks.append(rows[torch.randperm(len(rows), generator=generator)[:each]])
    order = torch.cat([*(rows[:1] for rows in picks), *(rows[1:] for rows in picks)])
    batch = torch.stack([dataset[index][0] for index in order.tolist()]).to(device)
    shown = batch[: len(names)]
    frozen = checkpoint.flow.freeze()
    with torch.no_grad():
        columns = [shown, frozen.decode(frozen.encode(shown)[0])]
    nfa = NFAugment(checkpoint, p=1.0, generator=generator, **{"gate": False, **settings})
    labels = dataset.targets[order].to(device)
    columns += [nfa(batch, labels)[0][: len(names)] for _ in range(variants)]
    table = torch.stack([column.cpu() for column in columns], 1)
    titles = ["image", "decoded", *(f"variant {i}" for i in range(1, variants + 1))]
    return picture_grid(table, titles, names, cell=cell)


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
    """uint8 images of samples z ~ N(mu_y, T^2 Sigma_y) through the inverse flow.

    `labels` is (N,); `temperature` is T.
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
    """A captioned grid of uint8 images (rows, columns, C, H, W).

    One and three channels are shown as they are, the first one of any other number. `titles` head
    the columns and `names` the rows; `cell` is the size in pixels that images are enlarged to.
    """
    rows, columns, _, height, width = table.shape
    factor = max(1, cell // max(height, width))
    high, wide = height * factor + _GAP, max(width * factor, 48) + _GAP
    font = ImageFont.load_default()
    margin = 8 + max((int(font.getlength(_short(name))) for name in names), default=0)
    canvas = Image.new("RGB", (margin + columns * wide, _HEADER + rows * high), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text((margin + column * wide, 3), title, fill="black", font=font)
    for row, name in enumerate(names):
        draw.text((4, _HEADER + row * high + high // 2 - 6), _short(name), fill="black", font=font)
        for column in range(columns):
            canvas.paste(
                _picture(table[row, column], factor),
                (margin + column * wide, _HEADER + row * high),
            )
    return canvas


def _short(name: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in name)
    return printable if len(printable) <= 16 else printable[:15] + "…"


def _picture(image: Tensor, factor: int) -> Image.Image:
    values = image if image.shape[0] in (1, 3) else image[:1]
    array = values.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array)
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)
