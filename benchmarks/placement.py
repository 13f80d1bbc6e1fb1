"""Where in a pipeline NFA belongs: before a random crop (a bank), or behind it (online)?

    nfaug train --data DATA --epochs 2 --batch-size 64 --prior.kind single \\
        --flow.steps [4,4,4] --flow.blocks [1,1,1] --flow.width [32,32,48] \\
        --flow.padded-size [32,32] --dataset.val-fraction 0 --out FLOW
    python -m benchmarks.placement --flow FLOW --data DATA --csv GATED.csv
    python -m benchmarks.placement --flow FLOW --data DATA --train --csv ACCURACY.csv

The committed results are benchmarks/results/placement_gated.csv and placement.csv.

The flow is trained on images without labels (prior.kind single). The classifier and the fit of NFA
share a few labelled images per class. The output says so if the flow was trained with labels.

The flow is fitted to the labelled images twice: as they are, and under the crop (several views of
each image, as `nfaug fit --augment` does). The table shows, for RandomResizedCrop of several
scales and crops that the fit did not see:

- gated: the share of images that the gate leaves unchanged, since they lie outside the range of
  their class;
- change: the mean absolute change of an augmented image, in grey levels.

With --train, the small CNN of the study trains on the same images under RandomResizedCrop(scale) in
five arms and is tested on whole test images: the crop alone; NFA behind the crop with the plain
fit, with the fit under the crop, and without a gate; NFA before the crop from a bank. All arms see
the same number of images in the same order. Each finished cell is a row of --csv, and a repeated
run skips finished cells. The table shows means and gains over the crop alone with 95% intervals
over seeds (Student's t). A seed sets the labelled images, the initial weights and the order. NFA
has its default settings.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

import nfaug
from benchmarks.study.classifiers import accuracy, new_classifier, train_classifier
from benchmarks.study.data import Images
from nfaug import NFAugment
from nfaug.augment.views import AugmentedViews, gated_share
from nfaug.bank.make import make_bank
from nfaug.data.open import open_dataset, split_per_class, to_tensors
from nfaug.gaussians.priors import PRIORS
from nfaug.training.evaluation.intervals import interval

ARMS = ("crop", "behind", "behind, fit under crop", "behind, no gate", "before (bank)")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flow", required=True)
    parser.add_argument("--data", required=True, help="as for nfaug fit --data")
    parser.add_argument("--per-class", type=int, default=50, help="labelled images per class")
    parser.add_argument(
        "--views", type=int, default=8, help="views per image, in the fit under crops"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.7, 0.4, 0.2, 0.08])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--scale", type=float, default=0.4, help="smallest crop of --train")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--test-images", type=int, default=10000)
    parser.add_argument("--csv", type=Path, help="file for the table, or for the cells of --train")
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
    """The training data of the flow and of the classifier, in words."""
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
