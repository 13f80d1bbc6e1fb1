"""Where NFA helps: augmentations against each other, each at a strength of its own.

    python lab/tuned.py --data speech64-train.tar --test-data speech64-validation.tar \\
        --augment spectrogram --methods "NFA in pixels" SpecAugment --out runs/where/speech-10

Every method adds something to what is safe for the images (`--augment`, as for `nfaug compare`).
Learning rate and strengths are chosen after the first of --steps, then the number of steps without
a method, by other images of --data and --choices seeds; other seeds are tested on --test-data.
The same command continues. --out gets table.md and a CSV row for each classifier. NFA's strength is
its probability. Rivals: same-class mixup (one weight for two images), CutMix (arXiv:1905.04899),
and RandAugment and TrivialAugment (arXiv:2103.10158) of the operations that keep the class.
"""

import argparse
import functools
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import nfaug
from nfaug.augment.config import MixConfig
from nfaug.compare.cells import Cells
from nfaug.compare.classifier import Classifier
from nfaug.compare.config import CompareConfig
from nfaug.compare.figures import Cell, gain_of
from nfaug.compare.methods import PIXELS
from nfaug.compare.transforms import spec_augment, transform_of
from nfaug.compare.work import bank_of, variants_of
from nfaug.data.batches import decode
from nfaug.data.open import open_dataset
from nfaug.io.atomic import write_text

FIRST_CHOICE = 1000  # seed of the first classifier that chooses; those of the results count from 0
SHARES = (0.25, 0.5, 0.75)  # of images that NFA replaces, and of batches with CutMix
STRENGTHS = {"CutMix": SHARES, "RandAugment": (2, 5, 9), "TrivialAugment": (0.25, 0.5, 1)}
STRENGTHS |= {"colour jitter": (0.15, 0.3, 0.6), "SpecAugment": (1 / 16, 1 / 8, 1 / 4)}
STRENGTHS |= {"ElasticTransform": (0.25, 0.5, 1)}  # mean shift of a pixel, in sixteenths of a side
KEPT = ["AutoContrast", "Equalize", "PosterizeIncreasing", "Contrast", "Brightness", "Sharpness"]
KEPT, TURNS = [*KEPT, "TranslateXRel", "TranslateYRel"], ["Rotate", "ShearX", "ShearY"]
POLICIES = {"RandAugment": "rand-n2-m{:g}", "TrivialAugment": "rand-n1-m10-mstd101-p1"}


class Mix(NamedTuple):
    """How NFA mixes: the option with its flow (none for pixels), and whether it mixes latents."""

    flow: str = ""
    latents: bool = False
    mix: str = "axis"
    strength: float = MixConfig().strength


MIXES = {
    "same-class mixup": Mix(mix="pair"),
    "NFA in pixels": Mix(),
    "NFA in pixels by regions": Mix(mix="regions"),
    "NFA with a flow": Mix("checkpoint"),
    "NFA with a flow (weights to 1)": Mix("checkpoint", strength=1.0),
    "NFA with a flow of all labels": Mix("labelled_checkpoint"),
    "NFA on latents": Mix(latents=True),
    "NFA with a flow on latents": Mix("checkpoint", latents=True),
    "NFA on latents by regions": Mix(latents=True, mix="regions"),
}


class Method(NamedTuple):
    """What is added: NFA, a rival, or NFA and then a rival, each with its strength."""

    nfa: str = ""
    p: float = 0.0
    rival: str = ""
    strength: float = 0.0

    @property
    def name(self) -> str:
        parts = ((self.nfa, self.p), (self.rival, self.strength))
        return " + ".join(f"{name} {value:.3g}" for name, value in parts if name) or "nothing more"


def elastic(image: Tensor, sixteenths: float) -> Tensor:
    """A uint8 image (C, H, W) that is bent smoothly; what comes from outside is its median."""
    side = min(image.shape[1:])
    sigma = side / 8  # of the blur that makes white noise smooth
    # Blurred white noise in [-1, 1] has a standard deviation of 0.58 / (2 sigma sqrt(pi)).
    alpha = sixteenths * side / 16 * 2 * sigma * math.pi**0.5 / 0.58
    return v2.ElasticTransform(alpha, sigma, fill=int(image.median()))(image)


def rival_of(name: str, share: float, turns: bool) -> Callable[[Tensor], Tensor]:
    """A rival of this strength, for one uint8 image (C, H, W)."""
    if name == "SpecAugment":
        return functools.partial(spec_augment, share=share)
    if name == "ElasticTransform":
        return functools.partial(elastic, sixteenths=share)
    if name not in POLICIES:
        return v2.ColorJitter(*[share] * 3) if name == "colour jitter" else v2.Identity()
    words = POLICIES[name].format(share)
    policy = rand_augment_transform(words, {}, transforms=KEPT + (TURNS if turns else []))
    change = v2.Compose([v2.RGB(), v2.ToPILImage(), policy, v2.PILToTensor()])
    return v2.RandomApply([change], share) if name == "TrivialAugment" else change


class Study:
    """The images of one data set, and the classifiers that are trained on them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.safe = args, tuple(args.augment.split(","))
        self.pool = open_dataset(args.data, image_size=args.image_size)
        size, channels = self.pool.image_size, self.pool.channels
        tested = open_dataset(args.test_data, image_size=size, channels=channels)
        self.test = decode(tested), tested.targets
        self.bank = functools.lru_cache(8)(self.make_bank)
        self.chosen_on = min(1000, len(self.pool) - args.per_class * len(self.pool.classes))
        self.settings = CompareConfig(network=args.network, weights=args.weights, device="cpu")

    def make_bank(self, nfa: str, seed: int) -> Tensor:
        way, size = MIXES[nfa], self.args.image_size
        latents = self.args.autoencoder if way.latents else None
        data = open_dataset(self.args.data, image_size=self.args.latents_of if latents else size)
        few = data.split(per_class=self.args.per_class, seed=seed)[0]
        checkpoint = getattr(self.args, way.flow) if way.flow else PIXELS
        mixing = {"mix": way.mix, "strength": way.strength}
        if latents:
            fitted = nfaug.fit(checkpoint, few, autoencoder=latents, seed=seed, progress=False)
            nfa = nfaug.NFAugment(fitted, p=1.0, **mixing)
            bank = variants_of(nfa, few, self.settings, seed)
        else:
            bank = bank_of(checkpoint, few, self.settings, seed, **mixing)
        return F.resize(bank.flatten(0, 1), [size, size]).unflatten(0, bank.shape[:2])

    def train(self, method: Method, seed: int, lr: float, steps: int) -> tuple[Tensor, float]:
        """Which images a classifier gets right: unlabelled ones of the choice, or the test data."""
        started, settings = time.monotonic(), replace(self.settings, lr=lr, steps=steps)
        few, others = self.pool.split(per_class=self.args.per_class, seed=seed)
        images = decode(few, progress=False)
        labels = few.targets
        shape, classes = images.shape[1:], len(few.classes)
        bank = self.bank(method.nfa, seed) if method.nfa else images[:, None]
        safe, cutmix = transform_of(self.safe, "", shape[1:]), v2.CutMix(num_classes=classes)
        rival = rival_of(method.rival, method.strength, self.args.turns)

        def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
            chosen = (torch.rand(len(rows)) < method.p)[:, None, None, None]
            variants = bank[rows, torch.randint(bank.shape[1], rows.shape)]
            batch, targets = torch.where(chosen, variants, images[rows]), labels[rows]
            batch = safe(torch.stack([rival(image)[: len(image)] for image in batch]))
            mixed = method.rival == "CutMix" and random.random() < method.strength
            return cutmix(batch, targets) if mixed else (batch, targets)

        classifier = Classifier(settings, shape, classes, seed)
        for seeded in (torch.manual_seed, random.seed, np.random.seed):
            seeded(seed)
        classifier.train(draw, len(labels))
        if seed < FIRST_CHOICE:
            return classifier.right(*self.test), time.monotonic() - started
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0))
        judged = others.subset(order[: self.chosen_on])
        validation = decode(judged, progress=False), judged.targets
        return classifier.right(*validation), time.monotonic() - started


def table(title: str, found: dict[str, list[Cell]], *bases: str) -> list[str]:
    """Mean accuracies, and gains over each of the bases."""
    above = " | ".join(f"above {base}" for base in bases)
    lines = [f"| {title} | accuracy, % | {above} |", "|---" * (2 + len(bases)) + "|"]
    for name, cells in found.items():
        gains = " | ".join(str(gain_of(cells, found[base])) for base in bases)
        lines.append(f"| {name} | {np.mean([c.accuracy for c in cells]):.1f} | {gains} |")
    return lines


def wrong_options(args: argparse.Namespace) -> str:
    """What the options lack; empty if nothing."""
    if not {*STRENGTHS} & {*args.methods}:
        return f"--methods needs a rival: one of {', '.join(STRENGTHS)}"
    for name in args.methods:
        way = MIXES.get(name, Mix())
        needed = [way.flow] if way.flow else []
        if way.latents:
            needed.append("autoencoder")
        for option in needed:
            if getattr(args, option) is None:
                return f"the method {name!r} needs --{option.replace('_', '-')}"
        if way.latents and args.image_size > args.latents_of:
            return "variants would be enlarged: --latents-of must be at least --image-size"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data", "--test-data", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--augment", default="crop", help="what is safe, as for nfaug compare")
    parser.add_argument("--turns", action="store_true", help="rotations and shears keep the class")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--network", default="small-cnn")
    parser.add_argument("--weights", help="pretrained weights, to be fine-tuned")
    parser.add_argument("--checkpoint", help="a flow of these images, trained without labels")
    parser.add_argument(
        "--labelled-checkpoint", help="a flow trained with the labels of all images"
    )
    parser.add_argument("--autoencoder", help="for NFA on latents")
    parser.add_argument("--latents-of", type=int, default=64, help="pixels that it encodes")
    parser.add_argument("--lr", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--steps", type=int, nargs="+", default=[300, 600])
    parser.add_argument("--choices", type=int, default=3, help="seeds that choose")
    parser.add_argument("--seeds", type=int, default=8, help="seeds of the results")
    parser.add_argument("--methods", nargs="+", required=True, choices=[*MIXES, *STRENGTHS])
    args = parser.parse_args()
    torch.set_num_threads(1)  # hours are those of a core
    if wrong := wrong_options(args):
        parser.error(wrong)
    study, out = Study(args), Path(args.out)
    record = {k: v for k, v in vars(args).items() if k not in ("out", "seeds", "methods")}
    counts = {"test": len(study.test[1]), "choice": study.chosen_on}
    kinds = [Cells(out / kind, record, count) for kind, count in counts.items()]

    def cell(method: Method, seed: int, lr: float, steps: int) -> Cell:
        cells = kinds[seed >= FIRST_CHOICE]
        name = f"{method.name}, lr {lr:g}, {steps} steps"
        if (name, seed) not in cells:
            cells.add(name, seed, *study.train(method, seed, lr, steps))
            print(name, seed, cells[name, seed].accuracy, flush=True)
        return cells[name, seed]

    def score(method: Method, lr: float, steps: int = args.steps[0]) -> float:
        return sum(cell(method, FIRST_CHOICE + i, lr, steps).accuracy for i in range(args.choices))

    lr = max(args.lr, key=lambda lr: score(Method(), lr))
    steps = max(args.steps, key=lambda steps: score(Method(), lr, steps))

    def best(methods: Iterable[Method]) -> Method:
        return max(methods, key=lambda method: score(method, lr))

    named = [name for name in STRENGTHS if name in args.methods]
    rivals = [best(Method("", 0, name, value) for value in STRENGTHS[name]) for name in named]
    rival, named = best(rivals), [name for name in MIXES if name in args.methods]
    methods = [Method(), *rivals, *(best(Method(name, p) for p in SHARES) for name in named)]
    methods += [best(rival._replace(nfa=name, p=p) for p in SHARES) for name in named]
    found: dict[str, list[Cell]] = {method.name: [] for method in methods}
    for seed in range(args.seeds):
        for method in methods:
            found[method.name].append(cell(method, seed, lr, steps))
        lines = table(args.augment, found, "nothing more", rival.name)
        lines += [
            "",
            f"{args.per_class} labelled images per class, lr {lr:g}, {steps} steps, seeds 0-{seed}",
        ]
        write_text(out / "table.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
