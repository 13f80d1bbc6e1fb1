"""What an augmentation gives at its defaults, on nine datasets.

    python lab/defaults.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets, a small network is trained from scratch and, with --weights, a network is
fine-tuned, on --per-class labelled images of each class: with what is safe for the images alone,
and with one augmentation more, at the defaults of its class: NFA in pixels with p = 0.5 from a bank
(as `nfaug compare` trains), torchvision's RandAugment and TrivialAugmentWide, its CutMix and MixUp
on every batch, and this package's SpecAugment on spectrograms. One more asks whether NFA does less
harm with p = 0.25. --data is a folder of tars.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from sets import (
    NFA,
    NOTHING,
    SETS,
    cells_of,
    config_of,
    networks_of,
    new_parser,
    opened,
    size_of,
    train_all,
)
from torch import Tensor
from torchvision.transforms import v2

from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.figures import Cell
from nfaug.compare.methods import PIXELS
from nfaug.compare.transforms import transform_of
from nfaug.compare.work import bank_of, draw_batch
from nfaug.data.batches import decode

POLICIES = {
    "RandAugment": "randaugment",
    "TrivialAugment": "trivialaugment",
    "SpecAugment": "specaugment",
}
BATCHES: dict[str, Callable[[int], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "CutMix": lambda classes: v2.CutMix(num_classes=classes),
    "MixUp": lambda classes: v2.MixUp(num_classes=classes),
}
RARE = f"{NFA} at p = 0.25"
RARE_P = 0.25
ADDED = (NFA, RARE, *POLICIES, *BATCHES)
Study = tuple[str, str]  # a data set and a network


def is_spectrogram(name: str) -> bool:
    """Whether SpecAugment takes the place of RandAugment and TrivialAugment."""
    return SETS[name].safe == "spectrogram"


def methods_of(name: str) -> list[str]:
    """The methods of a data set."""
    methods = [NOTHING]
    for method in ADDED:
        if method not in POLICIES or is_spectrogram(name) == (method == "SpecAugment"):
            methods.append(method)
    return methods


def train(
    args: argparse.Namespace, study: Study, methods: Sequence[str], seed: int
) -> dict[str, Cell]:
    """The cell of each method: which test images its classifier gets right."""
    return {method: train_method(args, study, method, seed) for method in methods}


def train_method(args: argparse.Namespace, study: Study, method: str, seed: int) -> Cell:
    """The cell of a method."""
    name, network = study
    pool, test = opened(args.data, name, size_of(args, name, network))
    started = time.monotonic()
    config = config_of(args, network)
    few, _ = pool.split(per_class=args.per_class, seed=seed)
    images = decode(few, progress=False)
    labels = few.targets
    shape = images.shape[1:]
    classes = len(few.classes)
    torch.manual_seed(seed)
    policy = POLICIES.get(method, "")
    transform = transform_of(SETS[name].safe.split(","), policy, (shape[1], shape[2]))
    mixed = BATCHES[method](classes) if method in BATCHES else None
    bank = bank_of(PIXELS, few, config, seed) if method in (NFA, RARE) else None
    p = RARE_P if method == RARE else config.p

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch, targets = draw_batch(images, labels, bank, p, transform, rows)
        if mixed is None:
            return batch, targets
        return mixed(batch.float(), targets)  # a mean of bytes is none

    classifier = Classifier(config, shape, classes, seed)
    classifier.train(draw, len(labels))
    return Cell(classifier.right(*test).numpy(), time.monotonic() - started)


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0], "defaults")
    parser.add_argument("--steps", type=int, help="default: 800 from scratch, 300 fine-tuned")
    parser.add_argument("--seeds", type=int, default=8)
    args = parser.parse_args()
    found: dict[Study, Cells] = {}
    for name in args.sets:
        for network in networks_of(args):
            folder = args.out / f"{name}-{network}"
            size = size_of(args, name, network)
            found[name, network] = cells_of(args, name, network, folder, size)
    train_all(args, found, lambda study: [[method] for method in methods_of(study[0])], train)


if __name__ == "__main__":
    main()
