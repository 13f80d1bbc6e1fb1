"""How much of an image's own detail stays where NFA changes it, at twice the size of the fit.

    python benchmarks/detail.py --data DATA --weights tf_efficientnet_lite0.safetensors

At another size than the flow's, a variant is built from the image x, the same image `low` at the
flow's size, and the change c of `low`. With d = x - resize(low), the detail that `low` has lost:

    all:       x + resize(c)
    K = 4:     x + resize(c) - min(1, 4 |resize(c)|) d, with the largest change of the channels
    structure: x + resize(c) - resize(f) d, f = min(1, max(0, -cov(low, c) / (var(low) + EPSILON)))
    most:      x + resize(c) - resize(max(0, 2 f - 1)) d, with the same f
    contrast:  x + resize(c) - resize(f) d, f = 1 - min(1, std(low + c) / std(low))

The first keeps all detail, and the outlines of a stroke that is gone stay as thin ghosts. The
second takes detail away where an image changes. The third takes it away where the structure of
`low` goes: 1 - f is the slope of the new `low` over the old one in a window of 3 x 3 pixels, as in
a guided filter (He et al., ECCV 2010). The fourth does so where more than half of the structure
goes, and is the rule of nfaug. The last keeps the detail where the new image has as much contrast
as the old one, in the same windows. Letters and signs are trained from scratch, clothes are
fine-tuned. --out keeps the cells; --results gets detail.md; --sheet FILE draws images and variants
of the first of --sets.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from sets import (
    NETWORKS,
    NOTHING,
    SETS,
    cells_of,
    command_of,
    config_of,
    gains_table,
    hours_of,
    new_parser,
    opened,
    train_all,
    trained,
)
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import write_png
from torchvision.utils import make_grid

from nfaug.augment.detail import lost_share
from nfaug.augment.pixels import resize
from nfaug.compare.cells import Cells
from nfaug.compare.figures import Cell
from nfaug.compare.rows import PIXELS
from nfaug.compare.work import bank_of
from nfaug.data.images import LabelledImages, split_per_class, to_tensors
from nfaug.io.atomic import write_text

STUDIES = {"letters": "scratch", "signs": "scratch", "clothes": "finetuned"}
SIZE = 64
ALL = "all detail"
BY_CHANGE = "less where it changes, K = 4"
BY_STRUCTURE = "less where structure goes"
BY_MOST = "less where most structure goes"
BY_CONTRAST = "less where contrast goes"
RULES = (ALL, BY_CHANGE, BY_STRUCTURE, BY_MOST, BY_CONTRAST)
FACTOR = 4.0
EPSILON = 1e-3  # a variance of pixels in [0, 1]; that of 8 grey levels
ROWS = (NOTHING, *RULES)


def window_mean(images: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels around each; the edge is repeated."""
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def lost_structure(low: Tensor, change: Tensor) -> Tensor:
    """The share (N, 1, h, w) of the structure of `low` that a change takes away."""
    mean = window_mean(low)
    covariance = window_mean(low * change) - mean * window_mean(change)
    variance = window_mean(low.square()) - mean.square()
    slope = covariance.sum(1, keepdim=True) / (variance.sum(1, keepdim=True) + EPSILON)
    return slope.neg().clamp(0, 1)


def deviation(images: Tensor) -> Tensor:
    """The standard deviation (N, 1, h, w) around each pixel."""
    variance = window_mean(images.square()) - window_mean(images).square()
    return (variance.sum(1, keepdim=True) + EPSILON).sqrt()


def lost_contrast(low: Tensor, change: Tensor) -> Tensor:
    """The share (N, 1, h, w) of the contrast of `low` that a change takes away."""
    return (1 - deviation(low + change) / deviation(low)).clamp(min=0)


def composed(images: Tensor, low: Tensor, new: Tensor, rule: str) -> Tensor:
    """Variants at the size of `images`, all uint8 (N, C, H, W)."""
    size = (images.shape[-2], images.shape[-1])
    unit = images.float() / 255
    low_unit = low.float() / 255
    low_change = new.float() / 255 - low_unit
    change = resize(low_change, size)
    lost = torch.zeros(1)
    if rule == BY_CHANGE:
        lost = (FACTOR * change.abs().amax(1, keepdim=True)).clamp(max=1)
    elif rule == BY_STRUCTURE:
        lost = resize(lost_structure(low_unit, low_change), size)
    elif rule == BY_MOST:
        lost = resize(lost_share(low_unit, low_change), size)
    elif rule == BY_CONTRAST:
        lost = resize(lost_contrast(low_unit, low_change), size)
    made = unit + change - lost * (unit - resize(low_unit, size))
    return made.clamp(0, 1).mul(255).round().to(torch.uint8)


def bank_at(few: LabelledImages, args: argparse.Namespace, rule: str, seed: int) -> Tensor:
    """Variants (N, V, C, SIZE, SIZE) of a fit at half the size."""
    small = few.at(SIZE // 2)
    images, _ = to_tensors(few, progress=False)
    low, _ = to_tensors(small, progress=False)
    bank = bank_of(PIXELS, small, config_of(args, "scratch"), seed)
    made = [composed(images, low, new, rule) for new in bank.unbind(1)]
    return torch.stack(made, 1)


def train(args: argparse.Namespace, name: str, rows: Sequence[str], seed: int) -> dict[str, Cell]:
    """The cell of each row."""
    return {row: train_row(args, name, row, seed) for row in rows}


def train_row(args: argparse.Namespace, name: str, row: str, seed: int) -> Cell:
    """The cell of a row."""
    torch.set_num_threads(1)
    pool, judged = opened(args.data, name, SIZE)
    started = time.monotonic()
    config = config_of(args, STUDIES[name])
    few, _ = split_per_class(pool, args.per_class, seed)
    bank = bank_at(few, args, row, seed) if row in RULES else None
    classifier = trained(config, SETS[name].safe, few, bank, seed)
    return Cell(classifier.right(*judged).numpy(), time.monotonic() - started)


def page(args: argparse.Namespace, found: dict[str, Cells]) -> str:
    """The gains of each rule over nothing, and over keeping all detail."""
    lines = ["# Detail at twice the size of a fit", "", command_of("detail.py"), ""]
    lines += [
        f"{args.per_class} labelled images per class at {SIZE} pixels, NFA in pixels fitted at "
        f"{SIZE // 2}; points of accuracy with 95% intervals. {hours_of(found):.1f} hours of a "
        "core.",
        "",
    ]
    for name, cells in found.items():
        title = f"{SETS[name].title}, {NETWORKS[STUDIES[name]]}"
        lines += gains_table(title, cells, ROWS, NOTHING, ALL)
        lines.append("")
    return "\n".join(lines)


def sheet(args: argparse.Namespace) -> Tensor:
    """A line for each of 12 images: the image, and a variant under each rule."""
    few, _ = split_per_class(opened(args.data, args.sets[0], SIZE)[0], args.per_class, 0)
    images, _ = to_tensors(few, progress=False)
    chosen = torch.linspace(0, len(images) - 1, 12).long()
    columns = [images[chosen]]
    columns += [bank_at(few, args, rule, 0)[chosen, 0] for rule in RULES]
    cells = torch.stack(columns, 1).flatten(0, 1)
    return make_grid(cells.expand(-1, 3, -1, -1), nrow=len(columns), pad_value=255)


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0], "detail")
    parser.set_defaults(sets=list(STUDIES))
    parser.add_argument("--steps", type=int, help="default: 800 from scratch, 300 fine-tuned")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--sheet", type=Path, help="a PNG for the first of --sets")
    args = parser.parse_args()
    if args.sheet:
        write_png(sheet(args), str(args.sheet))
        return
    found: dict[str, Cells] = {}
    for name in args.sets:
        found[name] = cells_of(args, name, STUDIES[name], args.out / name, SIZE)

    def write() -> None:
        write_text(args.results / "detail.md", page(args, found))

    train_all(args, found, lambda _: [[row] for row in ROWS], train, write)


if __name__ == "__main__":
    main()
