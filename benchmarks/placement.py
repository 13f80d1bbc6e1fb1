"""Where in a pipeline NFA belongs: before a random crop (a bank), or behind it (online)?

    nfaug train --data DATA --epochs 2 --batch_size 64 --prior.kind single \\
        --flow.steps [4,4,4] --flow.blocks [1,1,1] --flow.width [32,32,48] \\
        --flow.padded_size [32,32] --dataset.val_fraction 0 --out FLOW
    python benchmarks/placement.py --flow FLOW --data DATA --csv GATED.csv
    python benchmarks/placement.py --flow FLOW --data DATA --train --csv ACCURACY.csv

The committed results are benchmarks/results/placement_gated.csv and placement.csv.

The setting: a flow that has learnt from images without labels (prior.kind single), and a few
labelled images per class, from which both the classifier and the fit of NFA are made. A flow that
was trained with labels has seen more of them than the classifier; what is printed says so.

The flow is fitted to the labelled images, once as they are and once under the crop (several views
of each, as `nfaug fit --augment` does). Printed for RandomResizedCrop of several scales, on crops
that the fit did not see:

- gated: the share of images that the gate lets be, as outside what the flow knows of the class;
- change: the mean absolute change of an augmented image, in grey levels.

With --train, the small CNN of study.py learns from the same images under RandomResizedCrop(scale)
in five arms, and is tested on test images as they are: the crop alone, NFA behind the crop with the
plain fit, with the fit under the crop, and without a gate, and NFA before the crop from a stored
bank. All arms see the same number of images in the same order; each finished cell appends a row to
--csv, and a run that is repeated skips the cells that are there. Printed are means, and gains over
the crop alone with 95% intervals over seeds (Student's t); a seed chooses the labelled images, the
initial weights and the order. NFA has its default settings.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import torch
from study_cells import interval
from study_classifier import accuracy, new_classifier, train_classifier
from study_data import Images
from torch import Tensor
from torchvision.transforms import v2

import nfaug
from nfaug import NFAugment
from nfaug.augment.views import AugmentedViews, gated_share
from nfaug.bank.make import make_bank
from nfaug.data.open import open_dataset, split_per_class, to_tensors
from nfaug.gaussians.priors import PRIORS

ARMS = ("crop", "behind", "behind, fit under crop", "behind, no gate", "before (bank)")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flow", required=True)
    parser.add_argument("--data", required=True, help="what nfaug fit --data takes")
    parser.add_argument("--per-class", type=int, default=50, help="labelled images of each class")
    parser.add_argument(
        "--views", type=int, default=8, help="of each image, in the fit under crops"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.7, 0.4, 0.2, 0.08])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--scale", type=float, default=0.4, help="smallest crop of --train")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--test-images", type=int, default=10000)
    parser.add_argument("--csv", type=Path, help="the table as a file; finished cells of --train")
    return parser.parse_args()


def crop_of(size: tuple[int, int], scale: float) -> v2.Transform:
    return v2.RandomResizedCrop(size, scale=(scale, 1.0), antialias=True)


def both_fits(flow: Any, labelled: Any, crop: Any, views: int, seed: int) -> tuple[Any, Any]:
    size = flow.config.image_size
    fewest = int(torch.bincount(labelled.targets).min())
    plain = nfaug.fit(flow, labelled, rank=min(64, fewest - 1), progress=False)
    cropped = AugmentedViews(labelled, crop, image_size=size, views=views, seed=seed)
    return plain, nfaug.fit(flow, cropped, progress=False)


def shares(args: argparse.Namespace, flow: Any, labelled: Any, setting: str) -> None:
    size = flow.config.image_size
    rows = []
    print("| crop scale from | gated, plain fit | gated, fit under crop | change, fit under crop |")
    print("|---|---|---|---|")
    for scale in args.scales:
        crop = crop_of(size, scale)
        plain, cropped = both_fits(flow, labelled, crop, args.views, seed=0)
        fresh = AugmentedViews(labelled, crop, image_size=size, views=2, seed=1)
        nfa = NFAugment(cropped, p=1.0)
        images, labels = (torch.stack(x) if i == 0 else torch.tensor(x) for i, x in enumerate(
            zip(*(fresh[i] for i in range(len(fresh))), strict=True)))  # fmt: skip
        new, _ = nfa(images, labels)
        difference = (new.float() - images.float()).abs().flatten(1).mean(1)
        change = float(difference.sum() / max(1, nfa.stats()["applied"]))
        gated = [gated_share(NFAugment(fit), fresh)["gated"] for fit in (plain, cropped)]
        print(
            f"| {scale:g} | {100 * gated[0]:.0f}% | {100 * gated[1]:.0f}% | {change:.1f} |",
            flush=True,
        )
        rows.append([setting, f"{scale:g}", *(f"{share:.2f}" for share in gated), f"{change:.1f}"])
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                [
                    "setting",
                    "scale",
                    "gated_plain_fit",
                    "gated_fit_under_crop",
                    "change_grey_levels",
                ]
            )
            writer.writerows(rows)


def cell(args: argparse.Namespace, flow: Any, arm: str, seed: int) -> tuple[float, float]:
    """Accuracy and gated share of one arm and seed."""
    train = open_dataset(
        args.data, image_size=flow.config.image_size, channels=flow.config.channels
    )
    labelled = split_per_class(train, args.per_class, seed=seed)[0]
    images, labels = to_tensors(labelled, progress=False)
    held = open_dataset(
        args.data, split="test", image_size=flow.config.image_size, channels=flow.config.channels
    )
    test_images, test_labels = to_tensors(held, progress=False)
    few = torch.randperm(len(test_labels), generator=torch.Generator().manual_seed(0))
    few = few[: args.test_images]
    crop = crop_of(flow.config.image_size, args.scale)
    nfa: NFAugment | None = None
    pool = images[:, None]
    if arm.startswith("before"):
        plain = both_fits(flow, labelled, crop, args.views, seed)[0]
        with tempfile.TemporaryDirectory() as folder:
            bank = make_bank(
                plain,
                labelled,
                Path(folder) / "bank",
                variants=args.views,
                seed=seed,
                progress=False,
            )
            variants = torch.from_numpy(bank.variants[:].copy()).permute(0, 1, 4, 2, 3)
        pool = torch.cat([images[:, None].expand(-1, args.views, -1, -1, -1), variants], 1)
    elif arm != "crop":
        plain, cropped = both_fits(flow, labelled, crop, args.views, seed)
        fit = cropped if "fit under" in arm else plain
        nfa = NFAugment(fit, p=0.5, gate="no gate" not in arm)

    def draw(index: Tensor, draws: torch.Generator, _: float) -> Tensor:
        chosen = pool[index, torch.randint(pool.shape[1], (len(index),), generator=draws)]
        batch = torch.stack([crop(image) for image in chosen])
        return batch if nfa is None else nfa(batch, labels[index])[0]

    model = new_classifier(images.shape[1], int(labels.max()) + 1, seed)
    train_classifier(model, draw, "none", labels, steps=args.steps, seed=seed)
    found = accuracy(model, Images(test_images[few], test_labels[few])) / 100
    stats = nfa.stats() if nfa else {}
    tried = sum(stats.get(name, 0) for name in ("applied", "no_partner", "gated", "fell_back"))
    return found, stats.get("gated", 0) / max(1, tried)


def setting_of(checkpoint: Any, per_class: int) -> str:
    """What the flow and the classifier have seen."""
    training, kind = checkpoint.config.training, checkpoint.config.gaussians.get("kind")
    unlabelled = kind in PRIORS and not PRIORS[kind].labelled
    labels = "without labels" if unlabelled else f"WITH ALL LABELS ({kind})"
    return (
        f"flow: {training.get('steps')} steps on {training.get('images')} images of "
        f"{training.get('data')} {labels}; {per_class} labelled images per class"
    )


def train(args: argparse.Namespace, flow: Any, setting: str) -> None:
    done: dict[tuple[str, int], tuple[float, float]] = {}
    same = {"setting": setting, "scale": str(args.scale), "steps": str(args.steps)}
    if args.csv and args.csv.exists():
        with args.csv.open() as file:
            for row in csv.DictReader(file):
                if all(row[name] == value for name, value in same.items()):
                    key = row["arm"], int(row["seed"])
                    done[key] = float(row["accuracy"]), float(row["gated"])
    for seed in range(args.seeds):
        for arm in ARMS:
            if (arm, seed) in done:
                continue
            done[arm, seed] = cell(args, flow, arm, seed)
            if args.csv:
                new = not args.csv.exists()
                with args.csv.open("a", newline="") as file:
                    writer = csv.writer(file)
                    if new:
                        writer.writerow(["arm", "seed", *same, "accuracy", "gated"])
                    figures = [f"{value:.4f}" for value in done[arm, seed]]
                    writer.writerow([arm, seed, *same.values(), *figures])
    print(f"| arm ({args.seeds} seeds, crop scale from {args.scale:g}) | accuracy | gain | gated |")
    print("|---|---|---|---|")
    for arm in ARMS:
        found = [100 * done[arm, seed][0] for seed in range(args.seeds)]
        more = [value - 100 * done[ARMS[0], seed][0] for seed, value in enumerate(found)]
        gain = interval(more).shown("+") if arm != ARMS[0] else "-"
        gated = sum(done[arm, seed][1] for seed in range(args.seeds)) / args.seeds
        print(f"| {arm} | {interval(found)} | {gain} | {100 * gated:.0f}% |")


def main() -> None:
    args = parse()
    checkpoint = nfaug.load(args.flow)
    flow, setting = checkpoint.flow, setting_of(checkpoint, args.per_class)
    print(f"{setting}\n")
    if args.train:
        train(args, flow, setting)
        return
    data = open_dataset(args.data, image_size=flow.config.image_size, channels=flow.config.channels)
    shares(args, flow, split_per_class(data, args.per_class, seed=0)[0], setting)


if __name__ == "__main__":
    main()
