"""Other partners for NFA in pixels: unlabelled images, and images that are moved before they mix.

    python benchmarks/levers.py --data DATA --weights tf_efficientnet_lite0.safetensors

Each row trains on --per-class labelled images of each class and on their variants

    x' = x + U (w * U^T (b - x)),

where b is a partner of the image x, U (d, r) are the principal axes of x and all its partners, and
each axis has a weight of its own. The rows differ in the partners and in the largest weight:

- NFA: what nfaug does: images of the class, weights in [0, 1.5], and its gate;
- no gate: the same without the gate, as in the rows below;
- half as far: with weights in [0, 1/2];
- unlabelled: the --neighbours unlabelled images that are nearest in the features of the network of
  the row without variants, with weights in [0, 1/2]; the label stays the image's;
- moved: images of the class that are flipped, turned, shifted and zoomed onto the image, each by
  the largest correlation of small grey images, with weights in [0, 1.5].

--out keeps the cells, so that the same command goes on. --results gets levers.md. --sheet FILE
draws variants of one seed and ends.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

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
    size_of,
    train_all,
    trained,
)
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import write_png
from torchvision.utils import make_grid

from nfaug.augment.config import MixConfig
from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.figures import Cell
from nfaug.compare.rows import PIXELS
from nfaug.compare.work import bank_of
from nfaug.data.images import LabelledImages, split_per_class, to_tensors
from nfaug.io.atomic import write_text

NFA = "NFA"
NO_GATE = "no gate"
ROWS = (NOTHING, NFA, NO_GATE, "half as far", "unlabelled", "moved")
STUDIES = {"cells": "finetuned", "letters": "scratch", "clothes": "finetuned"}
VARIANTS = 20  # of each image
STRENGTH = MixConfig().strength  # the largest weight of NFA
SIDE = 16  # pixels of the grey images that are compared
SHIFTS = (-0.125, -0.0625, 0.0, 0.0625, 0.125)  # of a side
ZOOMS = (0.85, 1.0, 1.15)
Partners = Callable[[int], Tensor]  # all partners (M, C, H, W) of the image in a row


def features(classifier: Classifier, images: Tensor) -> Tensor:
    """Features before the last layer, of length 1."""
    if classifier.config.network == "small-cnn":
        head = classifier.model[-1]
    else:
        head = classifier.model.get_classifier()
    found: list[Tensor] = []
    hook = head.register_forward_hook(lambda _, given, __: found.append(given[0].detach()))
    classifier.right(images, torch.zeros(len(images), dtype=torch.int64))
    hook.remove()
    return F.normalize(torch.cat(found), dim=1)


def nearest(classifier: Classifier, images: Tensor, others: Tensor, count: int) -> Tensor:
    """The rows of `others` nearest to each image, (N, count)."""
    similarity = features(classifier, images) @ features(classifier, others).T
    return similarity.topk(count, dim=1).indices


def moves(safe: str) -> Tensor:
    """Affine matrices (M, 2, 3) of flips, quarter turns, shifts and zooms that keep the class."""
    mirrors = (1, -1) if "flip" in safe or "rotate" in safe else (1,)
    turns = range(4) if "rotate" in safe else range(1)
    found = []
    for mirror in mirrors:
        for turn in turns:
            rotation = torch.matrix_power(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), turn)
            for zoom in ZOOMS:
                linear = rotation @ torch.tensor([[mirror / zoom, 0.0], [0.0, 1 / zoom]])
                for right in SHIFTS:
                    for down in SHIFTS:
                        shift = torch.tensor([[2 * right], [2 * down]])
                        found.append(torch.cat([linear, shift], 1))
    return torch.stack(found)


def moved(images: Tensor, matrices: Tensor) -> Tensor:
    """Each image under its matrix, in [0, 255]; what lies outside repeats the edge."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def grey(images: Tensor) -> Tensor:
    """Grey images of SIDE pixels, (N, 1, SIDE, SIDE)."""
    small = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    return small.mean(1, keepdim=True)


def directions(images: Tensor) -> Tensor:
    """Images without their mean, of length 1: (N, d). Their products are correlations."""
    pixels = images.flatten(1)
    return F.normalize(pixels - pixels.mean(1, keepdim=True), dim=1)


def moved_onto(images: Tensor, target: Tensor, matrices: Tensor) -> Tensor:
    """Each image under that of the matrices which brings it nearest to `target` (1, C, H, W)."""
    aim = directions(grey(target))[0]
    found = []
    for image, low in zip(images, grey(images), strict=True):
        candidates = moved(low.expand(len(matrices), -1, -1, -1), matrices)
        best = (directions(candidates) @ aim).argmax()
        found.append(moved(image[None], matrices[best, None])[0])
    return torch.stack(found)


def variants_of(image: Tensor, partners: Tensor, limit: float, seed: torch.Generator) -> Tensor:
    """VARIANTS variants (V, C, H, W), uint8, of an image (C, H, W), with weights up to `limit`."""
    x = image.double().flatten()
    b = partners.double().flatten(1)
    rows = torch.cat([x[None], b])
    axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[: len(b)]  # (r, d)
    chosen = b[torch.randint(len(b), (VARIANTS,), generator=seed)]
    weights = limit * torch.rand(VARIANTS, len(axes), generator=seed, dtype=torch.float64)
    mixed = x + (weights * ((chosen - x) @ axes.T)) @ axes
    return mixed.clamp(0, 255).round().to(torch.uint8).view(-1, *image.shape)


def bank_with(images: Tensor, seed: int, way: tuple[Partners, float]) -> Tensor:
    """Variants (N, VARIANTS, C, H, W) of all images."""
    partners, limit = way
    generator = torch.Generator().manual_seed(seed)
    made = [variants_of(images[i], partners(i), limit, generator) for i in range(len(images))]
    return torch.stack(made)


class Prepared(NamedTuple):
    """The images of a seed."""

    few: LabelledImages
    others: LabelledImages
    judged: tuple[Tensor, Tensor]
    images: Tensor
    labels: Tensor


def prepared(args: argparse.Namespace, name: str, seed: int) -> Prepared:
    """The labelled images, the unlabelled ones, and those to judge by."""
    pool, judged = opened(args.data, name, size_of(args, name, STUDIES[name]))
    few, others = split_per_class(pool, args.per_class, seed)
    return Prepared(few, others, judged, *to_tensors(few, progress=False))


def ways(
    args: argparse.Namespace, name: str, found: Prepared, plain: Classifier
) -> dict[str, tuple[Partners, float]]:
    """The partners of each row, and the largest weight."""
    images, labels = found.images, found.labels
    matrices = moves(SETS[name].safe)
    others, truth = to_tensors(found.others, progress=False)
    near = nearest(plain, images, others, args.neighbours)
    right = (truth[near] == labels[:, None]).float().mean()
    print(f"{name}: {right:.0%} of the neighbours are of the image's class", flush=True)

    def of_class(row: int) -> Tensor:
        same = labels == labels[row]
        same[row] = False
        return images[same]

    return {
        NO_GATE: (of_class, STRENGTH),
        "half as far": (of_class, 0.5),
        "unlabelled": (lambda row: others[near[row]], 0.5),
        "moved": (lambda row: moved_onto(of_class(row), images[row, None], matrices), STRENGTH),
    }


def train(args: argparse.Namespace, name: str, rows: Sequence[str], seed: int) -> dict[str, Cell]:
    """The cells of a seed: the row without variants first, whose features choose partners."""
    torch.set_num_threads(1)
    network = STUDIES[name]
    config = config_of(args, network)
    found = prepared(args, name, seed)
    cells = {}
    made: dict[str, tuple[Partners, float]] = {}
    for row in [NOTHING, *(row for row in rows if row != NOTHING)]:
        started = time.monotonic()
        bank = None
        if row == NFA:
            bank = bank_of(PIXELS, found.few, config, seed)
        elif row != NOTHING:
            bank = bank_with(found.images, seed, made[row])
        classifier = trained(config, SETS[name].safe, found.few, bank, seed)
        if row == NOTHING:
            made = ways(args, name, found, classifier)
        right = classifier.right(*found.judged).numpy()
        cells[row] = Cell(right, time.monotonic() - started)
    return cells


def page(args: argparse.Namespace, found: dict[str, Cells]) -> str:
    """The gains of each row, over nothing and over NFA."""
    lines = ["# Other partners", "", command_of("levers.py"), ""]
    lines += [
        f"{args.per_class} labelled images per class; points of accuracy with 95% intervals. "
        f"{hours_of(found):.1f} hours of a core.",
        "",
    ]
    for name, cells in found.items():
        title = f"{SETS[name].title}, {NETWORKS[STUDIES[name]]}"
        lines += gains_table(title, cells, ROWS, NOTHING, NFA, NO_GATE)
        lines.append("")
    return "\n".join(lines)


def sheet(args: argparse.Namespace, name: str) -> Tensor:
    """A line for each of 12 images: the image, a partner and its variant in each row."""
    found = prepared(args, name, 0)
    images = found.images
    plain = trained(config_of(args, STUDIES[name]), SETS[name].safe, found.few, None, 0)
    chosen = torch.linspace(0, len(images) - 1, 12).long()
    columns = [images[chosen].float()]
    generator = torch.Generator().manual_seed(0)
    for partners, limit in ways(args, name, found, plain).values():
        first = [partners(row)[0] for row in chosen.tolist()]
        made = [variants_of(images[i], partners(i), limit, generator)[0] for i in chosen.tolist()]
        columns += [torch.stack(first).float(), torch.stack(made).float()]
    cells = torch.stack(columns, 1).flatten(0, 1)
    grid = make_grid(cells.expand(-1, 3, -1, -1), nrow=len(columns), pad_value=255)
    return grid.round().to(torch.uint8)


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0], "levers")
    parser.set_defaults(sets=list(STUDIES))
    parser.add_argument("--steps", type=int, help="default: 800 from scratch, 300 fine-tuned")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--neighbours", type=int, default=5)
    parser.add_argument("--sheet", type=Path, help="a PNG for the first of --sets")
    args = parser.parse_args()
    if args.sheet:
        write_png(sheet(args, args.sets[0]), str(args.sheet))
        return
    found: dict[str, Cells] = {}
    for name in args.sets:
        network = STUDIES[name]
        size = size_of(args, name, network)
        more = {"neighbours": args.neighbours, "shifts": SHIFTS, "zooms": ZOOMS}
        found[name] = cells_of(args, name, network, args.out / name, size, **more)

    def write() -> None:
        write_text(args.results / "levers.md", page(args, found))

    train_all(args, found, lambda _: [ROWS], train, write)


if __name__ == "__main__":
    main()
