"""Pictures of a comparison: gains with their intervals, and the variants that were compared."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from nfaug.augment.transform import NFAugment
from nfaug.pictures.preview import picture_grid
from nfaug.run.device import pick_device

from .config import CompareConfig
from .figures import Gain
from .images import Images, Part
from .rows import PIXELS, Row
from .transforms import transform_of
from .work import fitted

_CLASSES = 10
_SHOWN = 4  # variants of an image
_CELL = 96  # pixels up to which images are enlarged


class Bar(NamedTuple):
    """A row of the picture of gains: its title, gain and seconds, and whether it has NFA."""

    title: str
    gain: Gain
    seconds: float
    nfa: bool


def gains_picture(bars: Sequence[Bar], base: str) -> bytes:
    """A PNG picture of gains over `base`, with intervals and seconds; NFA in a colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.42 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for height, bar in enumerate(bars):
        colour = "tab:red" if bar.nfa else "tab:gray"
        half = 0.0 if math.isinf(bar.gain.half) else bar.gain.half
        axes.errorbar(bar.gain.mean, height, xerr=half, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color="black", linewidth=0.8)
    titles = [f"{bar.title}, {bar.seconds:.0f} s" for bar in bars]
    axes.set_yticks(range(len(bars)), titles, parse_math=False)  # a path may have a $
    figure.supxlabel(f"points of accuracy over {base}", fontsize="medium")  # wider than the axes
    axes.set_ylim(max(1, len(bars)) - 0.5, -0.5)  # the first row is at the top
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def variants_picture(images: Images, rows: Sequence[Row], config: CompareConfig) -> bytes:
    """A PNG picture of what is compared: a line for each of the first classes.

    An image, for each policy alone some variants as they are trained on, and for each flow the
    partner of the image, which is mixed in, and some variants of both; without the safe
    augmentations. The images are those of seed 0.
    """
    part = images.labelled(config.per_class, 0)
    part = part.rows((part.labels < _CLASSES).nonzero().flatten())
    firsts, partners = pairs_of(part.labels)
    columns = [part.images[firsts]]
    titles = ["image"]
    shown = [row for row in rows if row.added and row.policy != "mixup"]  # which mixes a batch
    simple = [row for row in shown if bool(row.flow) != bool(row.policy)]
    for row in simple or shown:
        if row.flow:
            columns.append(part.images[partners])
            titles.append("partner")
        columns += variants_of_row(row, part, config)
        titles.append("NFA" if row.flow == PIXELS and not row.policy else row.added)
        titles += [""] * (_SHOWN - 1)  # a title may be as wide as its variants
    names = [images.classes[label] for label in part.labels[firsts].tolist()]
    picture = io.BytesIO()
    picture_grid(torch.stack(columns, 1), titles, names, cell=_CELL).save(picture, format="png")
    return picture.getvalue()


def pairs_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The row of the first image of each class, and that of its last image."""
    firsts = []
    lasts = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        firsts.append(rows[0])
        lasts.append(rows[-1])
    return torch.stack(firsts), torch.stack(lasts)


def variants_of_row(row: Row, part: Part, config: CompareConfig) -> list[Tensor]:
    """What a row makes of the first image of each class, again and again."""
    firsts, partners = pairs_of(part.labels)
    variants = [part.images[firsts]] * _SHOWN
    if row.flow:
        few = TensorDataset(part.images, part.labels)
        # With two images a class in the batch, each has the other as its partner.
        nfa = NFAugment(fitted(row.flow, few, config, seed=0), p=1.0, partners="batch")
        device = pick_device(config.device)
        both = torch.cat([firsts, partners])
        generators = [torch.Generator().manual_seed(number) for number in range(_SHOWN)]
        made = nfa.variants(part.images[both].to(device), part.labels[both].to(device), generators)
        variants = [batch[: len(firsts)].cpu() for batch in made]
    height, width = part.images.shape[-2:]
    policy = transform_of((), row.policy, (height, width))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return [policy(batch) for batch in variants]
