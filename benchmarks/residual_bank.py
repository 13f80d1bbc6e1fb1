"""Residual banks beside whole ones and NFA in the loop: bytes, loader speed, error, accuracy.

    python benchmarks/residual_bank.py --data clothing128-train.tar --part loader
    python benchmarks/residual_bank.py --data clothing128-train.tar \\
        --test-data clothing128-validation.tar --part accuracy

loader: images/s over JPEG files of 224 x 224 pixels (made from --data, quality 90) with
RandomResizedCrop and flip: plain, with a whole bank and with a residual one at p = 0.5. They take
turns; ratios are medians over rounds. Aim: the residual bank at least 0.95 of plain. Also the bytes
of a variant, and the error in grey levels that storing a change adds.

agreement: the largest difference, in grey levels, between the images of NFA in the loop and those
of a residual bank with the same draws; median and maximum over images, at several sizes.

variants: images/s of 20 variants of each image, as a bank makes them (`NFAugment.variants`, which
encodes each image once) beside 20 calls of `NFAugment`, in turns; --data as the flow's classes.

accuracy: a small CNN at 64 pixels on --per-class images of each class, without NFA, with NFA in
the loop (p = 0.5) and with a residual bank of four variants (p = 0.5): mean and standard error.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

import nfaug
from nfaug.augment.params import SharedGenerator, seed_of
from nfaug.augment.pixels import resize, resize_levels
from nfaug.augment.transform import NFAugment
from nfaug.bank import Bank, BankDataset, bank_bytes, make_bank
from nfaug.bank.residual import low_resolution
from nfaug.data.images import LabelledImages
from nfaug.training import open_dataset

SIZE = 224
COUNT = 20  # variants of an image, for the part "variants"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def write_jpegs(data: LabelledImages, root: Path) -> Path:
    """The images as JPEG files of 224 x 224 pixels in class folders, with sortable names."""
    for index, (image, label) in enumerate(data):
        folder = root / f"{label:03}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(folder / f"{index:06}.jpg", quality=90)
    return root


def loader_part(args: argparse.Namespace, work: Path) -> None:
    data = open_dataset(args.data, image_size=SIZE, channels=3, per_class=args.per_class)
    folder = write_jpegs(data, work / "jpegs")
    stored = open_dataset(folder, image_size=SIZE, channels=3)
    checkpoint = nfaug.fit(args.flow, folder, rank=16, progress=False)
    banks = {
        name: make_bank(
            checkpoint, stored, work / name, residual=name == "residual", progress=False
        )
        for name in ("whole", "residual")
    }
    report_bytes(banks)
    report_error(checkpoint, banks["residual"], stored)
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    plain = ImageFolder(str(folder), transform=transform)
    loaders: dict[str, Dataset[Any]] = {"plain": plain}
    loaders |= {name: BankDataset(plain, bank, p=0.5) for name, bank in banks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(args.rounds):
        for name, dataset in loaders.items():
            seconds[name].append(pass_over(dataset, args.workers))
    print("| loader | images/s | ratio to plain | lowest and highest |\n|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["plain"], times, strict=True)]
        print(
            f"| {name} | {len(plain) / statistics.median(times):.0f} | "
            f"{statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"
        )
    print(f"\n{len(plain)} images, {args.workers} workers, {args.rounds} rounds, {args.flow}")


def pass_over(dataset: Dataset[Any], workers: int) -> float:
    """Seconds of a pass; with workers, from the first batch on, when all of them have started."""
    loader = DataLoader(dataset, batch_size=32, num_workers=workers, shuffle=True)
    iterator = iter(loader)
    if workers:
        next(iterator)
    start = clock()
    for _ in iterator:
        pass
    return clock() - start


def report_bytes(banks: dict[str, Bank]) -> None:
    print("| bank | bytes per variant |\n|---|---|")
    for name, bank in banks.items():
        made = bank.manifest
        print(f"| {name} | {bank_bytes(1, 1, made.shape, residual=made.residual):,} |")
    print()


def report_error(checkpoint: Any, bank: Bank, data: LabelledImages) -> None:
    """Grey levels between the bank's images and the sum of image and change before it is stored."""
    nfa, errors = NFAugment(checkpoint, p=1.0), []
    made = bank.manifest
    for start in range(0, min(len(data), 4 * made.batch_size), made.batch_size):
        rows = range(start, min(start + made.batch_size, len(data)))
        images = [data.image(i) for i in rows]
        low = torch.stack([low_resolution(image, made.shape) for image in images]).float() / 255
        generator = SharedGenerator().manual_seed(seed_of(0, 0, start))
        (new,) = nfa.variants(low, data.targets[list(rows)], [generator])
        change = resize(new - low, (SIZE, SIZE)) * 255
        for i, image, more in zip(rows, images, change, strict=True):
            expected = (image + more).clamp(0, 255).permute(1, 2, 0).numpy()
            found = bank.variant(i, 0, image.permute(1, 2, 0).numpy())
            errors.append(np.abs(found - expected))
    steps = bank.steps[: len(errors), 0] / 128
    print(
        f"error of storing the change, {len(errors)} images: mean {np.mean(errors):.2f}, "
        f"largest {np.max(errors):.2f} grey levels (rounding alone: 0.25 and 0.5); a step is "
        f"{np.mean(steps):.2f} on average and {np.max(steps):.2f} at most\n"
    )


def agreement_part(args: argparse.Namespace, work: Path) -> None:
    own = nfaug.load(args.flow).flow.codec.image_size
    small = open_dataset(args.data, image_size=own, channels=3, per_class=args.per_class)
    checkpoint = nfaug.fit(args.flow, small, rank=args.per_class - 1, progress=False)
    nfa = NFAugment(checkpoint, p=1.0)
    print("| size | images | median of the largest difference | maximum |\n|---|---|---|---|")
    for size in (64, 96, 128, SIZE):
        data = open_dataset(args.data, image_size=size, channels=3, per_class=args.per_class)
        bank = make_bank(
            checkpoint, data, work / str(size), variants=1, residual=True, progress=False
        )
        count, largest = bank.manifest.batch_size, []
        for start in range(0, len(data), count):
            rows = range(start, min(start + count, len(data)))
            images = torch.stack([data.image(i) for i in rows])
            generator = SharedGenerator().manual_seed(seed_of(0, 0, start))
            (new,) = nfa.variants(images.float() / 255, data.targets[list(rows)], [generator])
            for i, image, expected in zip(rows, images, new, strict=True):
                found = bank.variant(i, 0, image.permute(1, 2, 0).numpy())
                error = np.abs(found - 255 * expected.permute(1, 2, 0).numpy())
                largest.append(float(error.max()))
        print(f"| {size} | {len(data)} | {statistics.median(largest):.1f} | {max(largest):.1f} |")


class Net(nn.Sequential):
    """Four convolutions."""

    def __init__(self, classes: int) -> None:
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 96), (96, 96)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, classes))


class InMemory(Dataset[tuple[Image.Image, int]]):
    """Decoded PIL images."""

    def __init__(self, data: LabelledImages) -> None:
        self.images = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x, _ in data]
        self.targets, self.classes = data.targets.tolist(), data.classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.images[index], self.targets[index]


def accuracy_part(args: argparse.Namespace, work: Path) -> None:
    if args.test_data is None:
        raise SystemExit("--part accuracy needs --test-data")
    size = 64
    data = open_dataset(args.data, image_size=size, channels=3, per_class=args.per_class)
    test = open_dataset(args.test_data, image_size=size, channels=3)
    flow = nfaug.load(args.flow)
    own = {"image_size": flow.flow.codec.image_size, "channels": 3, "per_class": args.per_class}
    checkpoint = nfaug.fit(flow, open_dataset(args.data, **own), rank=16, progress=False)
    bank = make_bank(checkpoint, data, work / "bank", residual=True, progress=False)
    held = torch.stack([test.image(i) for i in range(len(test))]).float() / 255
    print("| arm | accuracy, % | standard error |\n|---|---|---|")
    for arm in ("none", "online", "residual bank"):
        found = []
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            source: Any = InMemory(data)
            if arm == "residual bank":
                source = BankDataset(source, bank, p=0.5)
            nfa = NFAugment(checkpoint, p=0.5) if arm == "online" else None
            net = train(source, nfa, len(data.classes), args.epochs)
            found.append(100 * accuracy(net, held, test.targets))
        error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else float("nan")
        print(f"| {arm} | {statistics.mean(found):.1f} | {error:.1f} |", flush=True)
    print(
        f"\n{len(data)} images of {size} pixels, {args.epochs} epochs, {args.seeds} seeds, "
        f"{len(test)} test images, {args.flow}"
    )


def train(source: Any, nfa: NFAugment | None, classes: int, epochs: int) -> Net:
    net = Net(classes).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    loader = DataLoader(source, 64, shuffle=True, drop_last=True, collate_fn=collate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs * len(loader))
    for _ in range(epochs):
        for images, labels in loader:
            unit = images.float() / 255
            if nfa is not None:
                unit, labels = nfa(unit, labels)
            loss = F.cross_entropy(net(flipped(unit)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def collate(items: list[tuple[Image.Image, int]]) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.stack([np.asarray(image) for image, _ in items]))
    return images.permute(0, 3, 1, 2), torch.tensor([label for _, label in items])


def flipped(images: Tensor) -> Tensor:
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)


@torch.no_grad()
def accuracy(net: Net, images: Tensor, labels: Tensor) -> float:
    return float((net(images).argmax(1) == labels).float().mean())


def variants_part(args: argparse.Namespace, work: Path) -> None:
    data = open_dataset(args.data, channels=3, per_class=args.per_class)
    checkpoint = nfaug.fit(args.flow, data, rank=16, progress=False)
    size = checkpoint.flow.codec.image_size
    images = torch.stack([data[index][0] for index in range(min(64, len(data)))])
    images, labels = resize_levels(images, size), data.targets[: len(images)]
    nfa = NFAugment(checkpoint, p=1.0)
    generator = torch.Generator().manual_seed(0)

    def calls() -> None:
        for _ in range(COUNT):
            nfa(images, labels)

    def together() -> None:
        for _ in nfa.variants(images, labels, itertools.repeat(generator, COUNT)):
            pass

    rates: dict[str, list[float]] = {"calls": [], "variants": []}
    for turn in range(args.rounds + 1):
        for name, run in (("calls", calls), ("variants", together)):
            began = clock()
            run()
            if turn:  # the first one warms up
                rates[name].append(COUNT * len(images) / (clock() - began))
    ratio = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
    for name, found in rates.items():
        print(f"{name:<10} {statistics.median(found):7.0f} variants/s")
    print(f"ratio      {ratio:7.2f}  ({args.flow}, {torch.get_num_threads()} threads)")


PARTS = {
    "loader": loader_part,
    "agreement": agreement_part,
    "variants": variants_part,
    "accuracy": accuracy_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--data", required=True, help="coloured images, as for nfaug fit")
    parser.add_argument("--test-data")
    parser.add_argument("--flow", default="builtin:rgb32")
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine, without workers"
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    global clock
    clock = CLOCKS[args.clock]
    with tempfile.TemporaryDirectory() as folder:
        PARTS[args.part](args, Path(folder))


if __name__ == "__main__":
    main()
