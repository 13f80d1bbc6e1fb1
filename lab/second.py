"""The second frozen run: kinds of images that no choice has seen.

    python lab/second.py --data DATA/pollen --augment rotate --size 48 \\
        --weights tf_efficientnet_lite0.safetensors

The protocol is lab/results/second/README.md, which was committed before the run. --data is a folder
of train/ and test/, each with a folder of images for every class, such as
`python lab/data.py pollen --out DATA` makes; --augment is what keeps the class of the images, as
`nfaug compare` has it, and --size the side of images for a network from scratch. An image belongs
to the cluster that its file's name has before `__`, or else to none; train/ and test/ may have no
cluster in common.

The cells of a study become --results/NAME-STUDY.csv, where NAME is that of the folder, and STUDY is
scratch and, with --weights, finetuned and frozen. Then the gains are printed, with intervals over
clusters. The same command goes on after an interruption.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple

import torch
from defaults import BATCHES, RARE, RARE_P
from frozen import CLASSIFIERS, GAUSSIANS, LOGISTIC, Labels, features_of, in_tenths
from sets import (
    NFA,
    NOTHING,
    SETS,
    Change,
    ImageSet,
    cells_of,
    config_of,
    keep_as_it_is,
    mean_of,
    opened,
    parser_of_any,
    parts_of,
    size_of,
    tested,
    train_all,
    trained,
)
from torch import Tensor
from torchvision.transforms import v2

from nfaug.compare.cells import Cells
from nfaug.compare.figures import Cell, gain_of
from nfaug.compare.frozen import Features, input_size
from nfaug.compare.methods import PIXELS
from nfaug.compare.transforms import spec_augment
from nfaug.compare.work import bank_of
from nfaug.data.images import Images

FIRST_SEED = 300  # no study has drawn labelled images by these
LONG_STEPS = 1500  # of fine-tuning, of two sets, beside the usual number
LONG_SETS = ("pollen", "rubbish")
LONG = f"finetuned-{LONG_STEPS}"

PAIRS = "same-class mixup"
FLOW = "NFA with builtin:rgb32"
HALF = "RandAugment at p = 0.5"


class Bank(NamedTuple):
    """Variants that replace images: of which flow, how they are mixed, and how often."""

    flow: str = PIXELS
    mix: str = "axis"
    p: float = 0.5


BANKS = {NFA: Bank(), RARE: Bank(p=RARE_P), PAIRS: Bank(mix="pair"), FLOW: Bank("builtin:rgb32")}
POLICIES = {
    HALF: v2.RandomApply([v2.RandAugment(2, 9)], p=0.5),
    "RandAugment": v2.RandAugment(2, 9),
    "TrivialAugment": v2.TrivialAugmentWide(),
}
SPECTROGRAMS = {"SpecAugment": spec_augment}  # take the place of POLICIES
#: The methods of each study, of which the others gain over the first one.
METHODS = {
    "scratch": (NOTHING, NFA, RARE, PAIRS, FLOW, *POLICIES, *SPECTROGRAMS, *BATCHES),
    "finetuned": (NOTHING, NFA, RARE, "MixUp"),
    LONG: (NOTHING, NFA, RARE, "MixUp"),
    "frozen": (LOGISTIC, GAUSSIANS),
}
Study = tuple[str, str]  # a dataset and a key of METHODS


def known(args: argparse.Namespace) -> str:
    """The name of the images of --data, which `SETS` then has, also in the processes."""
    name: str = args.data.resolve().name
    SETS[name] = ImageSet(name, "train", "test", args.augment, args.size)
    return name


def studies_of(args: argparse.Namespace, name: str) -> list[str]:
    """The studies of a dataset."""
    studies = []
    for study in args.studies:
        pretrained = network_of(study) != "scratch"
        if (args.weights or not pretrained) and (study != LONG or name in LONG_SETS):
            studies.append(study)
    return studies


def methods_of(args: argparse.Namespace, study: str, channels: int) -> list[str]:
    """The methods of a study that suit images of so many channels, of those that are asked for."""
    left_out = {*POLICIES} if args.augment == "spectrogram" else {*SPECTROGRAMS}
    if channels != 3:
        left_out.add(FLOW)
    methods = [method for method in METHODS[study] if method not in left_out]
    if args.methods:
        methods = [method for method in methods if method in args.methods]
    return methods


def groups_of(args: argparse.Namespace, study: str, channels: int) -> list[list[str]]:
    """The methods that a process trains together: the classifiers of frozen features."""
    methods = methods_of(args, study, channels)
    return [methods] if study == "frozen" else [[method] for method in methods]


def network_of(study: str) -> str:
    """The network of a study, as `config_of` names it."""
    return "scratch" if study == "scratch" else "finetuned"


def args_of(args: argparse.Namespace, study: str) -> argparse.Namespace:
    """The options with the steps of a study."""
    if study == LONG and args.steps is None:
        return argparse.Namespace(**{**vars(args), "steps": LONG_STEPS})
    return args


def clusters_of(images: Images) -> list[str]:
    """The cluster of each image; one without has a path, such as pollen/1.png, for itself."""
    clusters = []
    for path in images.paths or ():
        before, found, _ = PurePosixPath(path).name.partition("__")
        clusters.append(before if found else path)
    return clusters


def check_clusters(pool: Images, test: Images) -> None:
    """Raise ValueError if train/ and test/ have a cluster in common."""
    shared = set(clusters_of(pool)) & set(clusters_of(test))
    named = sorted(cluster for cluster in shared if "/" not in cluster)
    if named:
        raise ValueError(f"train/ and test/ have {len(named)} clusters in common: {named[0]}")


def policy_of(method: str) -> Change:
    """What a method does to a batch before what keeps the class of its images."""
    change = {**POLICIES, **SPECTROGRAMS}.get(method)
    if change is None:
        return keep_as_it_is

    def change_all(images: Tensor) -> Tensor:
        return torch.stack([change(image) for image in images])

    return change_all


def train(
    args: argparse.Namespace, study: Study, methods: Sequence[str], seed: int
) -> dict[str, Cell]:
    """The cell of each method."""
    known(args)
    name, kind = study
    if kind == "frozen":
        return {method: classify(args, name, method, seed) for method in methods}
    return {method: train_method(args_of(args, kind), study, method, seed) for method in methods}


def train_method(args: argparse.Namespace, study: Study, method: str, seed: int) -> Cell:
    """The cell of a method that trains a network."""
    name, kind = study
    network = network_of(kind)
    pool, test = opened(args.data, name, size_of(args, name, network))
    started = time.process_time()
    config = config_of(args, network)
    few, _ = pool.split(per_class=args.per_class, seed=seed)
    bank = None
    if method in BANKS:
        way = BANKS[method]
        bank = bank_of(way.flow, few, config, seed, mix=way.mix)
        config = replace(config, p=way.p)
    mixed = None
    if method in BATCHES:
        mixed = BATCHES[method](len(few.classes))
    classifier = trained(
        config, args.augment, few, bank, seed, policy=policy_of(method), mixed=mixed
    )
    return Cell(classifier.right(*test).numpy(), time.process_time() - started)


def features_of_all(args: argparse.Namespace, name: str) -> tuple[Features, Features, Labels]:
    """The features of the images to draw from and of the test images, whose labels come last."""
    _, side = input_size(config_of(args, "finetuned"))
    pool, test = parts_of(args.data, name, side)
    test = tested(test)
    features = features_of(args, pool, args.out / f"{name}-pool.npy")
    of_test = features_of(args, test, args.out / f"{name}-test.npy")
    return features, of_test, test.targets.numpy()


def classify(args: argparse.Namespace, name: str, method: str, seed: int) -> Cell:
    """The cell of a classifier of frozen features."""
    features, of_test, answers = features_of_all(args, name)
    pool, _ = parts_of(args.data, name, args.size)
    started = time.process_time()
    few, _ = pool.split(per_class=args.per_class, seed=seed)
    labelled = features[few.rows.numpy()]
    guesses = CLASSIFIERS[method](labelled, few.targets.numpy(), of_test, seed)
    return Cell(guesses == answers, time.process_time() - started)


def table(title: str, cells: Cells, base: str, clusters: Sequence[str]) -> list[str]:
    """A table of the accuracy of methods, their gains over `base`, and those of NFA over them."""
    methods = list(dict.fromkeys(method for method, _ in cells))
    rivals = [method for method in (NFA, FLOW) if method in methods]
    above = "".join(f" | {rival} over it" for rival in rivals)
    lines = [f"| {title} | accuracy, % | over {base}{above} |", "|---" * (3 + len(rivals)) + "|"]
    for method in methods:
        gains = [gain_in(cells, method, base, clusters)]
        gains += [gain_in(cells, rival, method, clusters) for rival in rivals]
        lines.append(f"| {method} | {mean_of(cells, method):.1f} | {' | '.join(gains)} |")
    return lines


def gain_in(cells: Cells, method: str, base: str, clusters: Sequence[str]) -> str:
    """The gain of a method over another one in the seeds that both have, over clusters."""
    ours = {seed for name, seed in cells if name == method}
    seeds = sorted(ours & {seed for name, seed in cells if name == base})
    if method == base or not seeds:
        return ""
    gain = gain_of(
        [cells[method, seed] for seed in seeds], [cells[base, seed] for seed in seeds], clusters
    )
    return in_tenths(gain)


def main() -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = parser_of_any(description, "second", "a folder of train/ and test/")
    parser.add_argument("--augment", required=True, help="what keeps the class: see nfaug compare")
    parser.add_argument("--size", type=int, default=48, help="pixels for a network from scratch")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--studies", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--methods", nargs="+", help="only these methods (default: all)")
    parser.add_argument("--steps", type=int, help="other than by the protocol, for a test")
    args = parser.parse_args()
    torch.set_num_threads(1)  # seconds of a core
    name = known(args)
    pool, test = parts_of(args.data, name, args.size)
    check_clusters(pool, tested(test))
    found: dict[Study, Cells] = {}
    for study in studies_of(args, name):
        network = network_of(study)
        size = size_of(args, name, network)
        folder = args.out / f"{name}-{study}"
        found[name, study] = cells_of(
            args_of(args, study), name, network, folder, size, augment=args.augment
        )
    if (name, "frozen") in found:  # before processes compute the same
        features_of_all(args, name)

    def groups(study: Study) -> list[list[str]]:
        return groups_of(args, study[1], pool.channels)

    train_all(args, found, groups, train, FIRST_SEED)
    clusters = clusters_of(tested(test))
    for (_, study), cells in found.items():
        lines = table(f"{name}, {study}", cells, METHODS[study][0], clusters)
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()
