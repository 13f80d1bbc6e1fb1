"""Where in a pipeline NFA belongs: before a random crop (a bank), or behind it (online)?

    nfaug train --data DATA --epochs 2 --batch_size 64 --prior.kind single \\
        --flow.steps [4,4,4] --flow.blocks [1,1,1] --flow.width [32,32,48] \\
        --flow.padded_size [32,32] --dataset.val_fraction 0 --out FLOW
    python benchmarks/placement.py --flow FLOW --data DATA
    python benchmarks/placement.py --flow FLOW --data DATA --train --csv placement.csv

The setting: a flow that has learnt from images without labels (prior.kind single), and a few
labelled images per class, from which both the classifier and the fit of NFA are made. A flow that
was trained with labels has seen more of them than the classifier; what is printed says so.

The flow is fitted to the labelled images, once as they are and once under the crop (several views
of each, as `nfaug fit --augment` does). Printed for RandomResizedCrop of several scales, on crops
that the fit did not see:

- gated: the share of images that the gate lets be, as outside what the flow knows of the class;
- change: the mean absolute change of an augmented image, in grey levels.

With --train, a small CNN learns from the same images under RandomResizedCrop(scale) in five arms,
and is tested on test images as they are: the crop alone, NFA behind the crop with the plain fit,
with the fit under the crop, and without a gate, and NFA before the crop from a stored bank. All
arms see the same number of images; each finished cell appends a row to --csv, and a run that is
repeated skips the cells that are there. Means and standard deviations over seeds are printed; a
seed chooses the labelled images, the initial weights and the order.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import nfaug
from nfaug import NFAugment
from nfaug.bank import make_bank
from nfaug.training.data import open_dataset, split_per_class, to_tensors
from nfaug.views import AugmentedViews, gated_share

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
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
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--csv", type=Path, help="finished cells of --train")
    return parser.parse_args()


def crop_of(size: tuple[int, int], scale: float) -> v2.Transform:
    return v2.RandomResizedCrop(size, scale=(scale, 1.0), antialias=True)


def both_fits(flow: Any, labelled: Any, crop: Any, views: int, seed: int) -> tuple[Any, Any]:
    size = flow.config.image_size
    plain = nfaug.fit(flow, labelled, progress=False)
    cropped = AugmentedViews(labelled, crop, image_size=size, views=views, seed=seed)
    return plain, nfaug.fit(flow, cropped, progress=False)


def shares(args: argparse.Namespace, flow: Any, labelled: Any) -> None:
    size = flow.config.image_size
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


def small_cnn(channels: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


def accuracy_of(
    images: Tensor,
    labels: Tensor,
    test: tuple[Tensor, Tensor],
    steps: int,
    seed: int,
    step: Augment,
) -> float:
    torch.manual_seed(seed)
    model = small_cnn(images.shape[1], int(labels.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(len(images), (64,))
        batch, target = step(index, labels[index])
        loss = nn.functional.cross_entropy(model(batch.float() / 127.5 - 1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        guesses = torch.cat(
            [model(part.float() / 127.5 - 1).argmax(1) for part in test[0].split(500)]
        )
    return float((guesses == test[1]).float().mean())


def cell(args: argparse.Namespace, flow: Any, arm: str, seed: int) -> tuple[float, float]:
    """Accuracy and gated share of one arm and seed."""
    train = open_dataset(
        args.data, image_size=flow.config.image_size, channels=flow.config.channels
    )
    labelled = split_per_class(train, args.per_class, seed=seed)[0]
    images, labels = to_tensors(labelled)
    held = open_dataset(
        args.data, split="test", image_size=flow.config.image_size, channels=flow.config.channels
    )
    test_images, test_labels = to_tensors(held)
    few = torch.randperm(len(test_labels), generator=torch.Generator().manual_seed(0))
    few = few[: args.test_images]
    crop = crop_of(flow.config.image_size, args.scale)
    nfa: NFAugment | None = None
    pool = images[:, None]
    if arm.startswith("before"):
        plain = nfaug.fit(flow, labelled, progress=False)
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
        nfa = NFAugment(cropped if "fit under" in arm else plain, p=0.5, gate="no gate" not in arm)

    def step(index: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        chosen = pool[index, torch.randint(pool.shape[1], (len(index),))]
        batch = torch.stack([crop(image) for image in chosen])
        return (batch, target) if nfa is None else nfa(batch, target)

    test = test_images[few], test_labels[few]
    accuracy = accuracy_of(images, labels, test, args.steps, seed, step)
    stats = nfa.stats() if nfa else {}
    tried = sum(stats.get(name, 0) for name in ("applied", "no_partner", "gated", "fell_back"))
    return accuracy, stats.get("gated", 0) / max(1, tried)


def setting_of(checkpoint: Any, per_class: int) -> str:
    """What the flow and the classifier have seen."""
    training, kind = checkpoint.config.training, checkpoint.config.gaussians.get("kind")
    labels = "without labels" if kind == "single" else f"WITH ALL LABELS ({kind})"
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
    print(f"| arm ({args.seeds} seeds, crop scale from {args.scale:g}) | accuracy | sd | gated |")
    print("|---|---|---|---|")
    for arm in ARMS:
        cells = [done[arm, seed] for seed in range(args.seeds)]
        accuracies = [100 * accuracy for accuracy, _ in cells]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else float("nan")
        gated = statistics.mean(share for _, share in cells)
        print(f"| {arm} | {statistics.mean(accuracies):.1f} | {spread:.1f} | {100 * gated:.0f}% |")


def main() -> None:
    args = parse()
    checkpoint = nfaug.load(args.flow)
    flow, setting = checkpoint.flow, setting_of(checkpoint, args.per_class)
    print(f"{setting}\n")
    if args.train:
        train(args, flow, setting)
        return
    data = open_dataset(args.data, image_size=flow.config.image_size, channels=flow.config.channels)
    shares(args, flow, split_per_class(data, args.per_class, seed=0)[0])


if __name__ == "__main__":
    main()
