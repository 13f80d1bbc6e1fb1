"""Pictures of a comparison: gains with their intervals, and the variants that were compared."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nfaug.pictures.preview import picture_grid

from ..config import CompareConfig
from ..rows import PIXELS, Row
from ..transforms import transform_of
from ..work import Part, bank_of
from .figures import Gain

__all__ = ["Bar", "gains_picture", "variants_picture"]

_SHOWN = 4  # variants of an image
_CLASSES = 10
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
    axes.set_yticks(range(len(bars)), titles)
    figure.supxlabel(f"points of accuracy over {base}", fontsize="medium")  # wider than the axes
    axes.set_ylim(max(1, len(bars)) - 0.5, -0.5)  # the first row is at the top
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def variants_picture(
    part: Part, rows: Sequence[Row], config: CompareConfig, names: Sequence[str]
) -> bytes:
    """A PNG picture of what is compared: a line for each class.

    An image, another one of its class that NFA may mix it with, and for each way of NFA and for
    each policy alone some variants as they are trained on, without the safe augmentations.
    """
    firsts = []
    partners = []
    for label in range(min(len(names), _CLASSES)):
        rows_of_class = (part.labels == label).nonzero().flatten()
        firsts.append(int(rows_of_class[0]))
        partners.append(int(rows_of_class[-1]))
    columns = [part.images[firsts], part.images[partners]]
    titles = ["image", "partner"]
    few = torch.utils.data.TensorDataset(part.images, part.labels)
    shown = [row for row in rows if not row.frozen and bool(row.flow) != bool(row.policy)]
    for row in shown or [Row(row.flow, row.policy) for row in rows if row.flow or row.policy]:
        columns += _variants(row, part, few, firsts, config)
        titles.append("NFA" if row.flow == PIXELS else row.added)
        titles += [""] * (_SHOWN - 1)  # a title may be as wide as its variants
    table = torch.stack(columns, 1)
    picture = io.BytesIO()
    picture_grid(table, titles, list(names[:_CLASSES]), cell=_CELL).save(picture, format="png")
    return picture.getvalue()


def _variants(
    row: Row,
    part: Part,
    few: torch.utils.data.TensorDataset,
    firsts: Sequence[int],
    config: CompareConfig,
) -> list[Tensor]:
    """Some variants of the first images."""
    height, width = part.images.shape[2:]
    policy = transform_of((), row.policy, (height, width), config.magnitude)
    images = torch.stack([part.images[firsts]] * _SHOWN, 1)
    if row.flow:
        images = bank_of(row.flow, few, config, 0, variants=_SHOWN)[firsts]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return [policy(images[:, number]) for number in range(_SHOWN)]
