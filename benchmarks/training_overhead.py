"""The cost of NFA in a timm training loop: epoch times of five loops, and the cost of one batch.

    python benchmarks/training_overhead.py --rounds 7
    python benchmarks/training_overhead.py --online
    python benchmarks/training_overhead.py --online --classes 100

The first command trains a timm resnet18 on 32 x 32 images through timm's loader, one epoch each for

- none: the loop alone (crop and flip);
- randaugment: timm's rand-m9-mstd0.5 on top;
- mixup: timm's Mixup on top;
- bank: the loop alone on a `BankDataset` that swaps half of the images for stored variants;
- nfa: the loop alone with `NFALoader`, half of the images through the flow.

The loops run in turns in every round, in a rotating order, so that a disturbance affects all of
them. It prints the median epoch time, images/s, and the median over rounds of the ratio to "none"
with its 95% confidence interval (order statistics; with fewer than 6 rounds, the extremes). The
aim: bank at most 1.03, and less than RandAugment.

The second command compares `NFAugment` with p = 1 on a batch to encoding and decoding with the same
frozen flow: the aim is a ratio of at most 1.10 at batch 128. On an accelerator, the axes of up to
64 classes are multiplied at once; with more classes, the axes of each image are gathered. --classes
selects the case. On a CPU, MALLOC_TRIM_THRESHOLD_=4294967296 and
MALLOC_MMAP_THRESHOLD_=4294967296 make glibc keep freed memory; by default, a call pays page faults
for memory that earlier calls freed. The committed results/training_overhead.md has both.

Images are random (or from --data, a folder of class folders). The flow is small and untrained (or
--checkpoint), since time does not depend on training.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy

import nfaug
from nfaug import Flow, FlowConfig, NFAugment
from nfaug.bank import BankDataset, make_bank
from nfaug.data.open import open_dataset
from nfaug.flows.mef_config import MefConfig
from nfaug.integrations.timm import NFALoader

SMALL = FlowConfig(
    image_size=(32, 32), backbone=MefConfig(steps=(4, 4), blocks=(1, 1), width=(32, 32))
)
MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
ARMS = ("none", "randaugment", "mixup", "bank", "nfa")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of class folders of images")
    parser.add_argument("--checkpoint", help="a fitted checkpoint instead of an untrained flow")
    parser.add_argument("--images", type=int, default=2000, help="random images, without --data")
    parser.add_argument("--classes", type=int, default=10, help="classes of the random images")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--online", action="store_true", help="time one batch instead of epochs")
    parser.add_argument("--paper", action="store_true", help="--online with the paper's CIFAR flow")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def draw_images(folder: Path, count: int, classes: int) -> Path:
    """PNG images of colored waves, one direction per class; enough for 64 axes."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.linspace(0, 6, 32)
    for number in range(max(count, 66 * classes)):
        label = number % classes
        angle = torch.tensor(label * math.pi / classes)
        phase = 6 * torch.rand(3, 1, 1, generator=generator)
        wave = torch.sin(grid * torch.cos(angle) + grid[:, None] * torch.sin(angle) + phase)
        noise = 0.2 * torch.randn(3, 32, 32, generator=generator)
        pixels = (128 + 90 * (wave + noise)).clamp(0, 255).byte().permute(1, 2, 0).numpy()
        place = folder / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def fitted(args: argparse.Namespace, data: Path, config: FlowConfig) -> Any:
    if args.checkpoint:
        return nfaug.load(args.checkpoint)
    torch.manual_seed(0)
    images = open_dataset(str(data), image_size=32, channels=3)
    return nfaug.fit(Flow(config), images, progress=False)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Loop:
    """A timm training loop, timed per epoch."""

    def __init__(self, arm: str, args: argparse.Namespace, data: Path, checkpoint: Any) -> None:
        self.device = torch.device(args.device)
        dataset: Any = create_dataset("", root=str(data), split="train")
        classes = len(dataset.reader.class_to_idx)
        if arm == "bank":
            made = make_bank(
                checkpoint, dataset, data.parent / "bank", progress=False, overwrite=True
            )
            dataset = BankDataset(dataset, made, p=0.5)
        self.loader: Any = create_loader(
            dataset,
            input_size=(3, 32, 32),
            batch_size=args.batch_size,
            is_training=True,
            scale=(0.7, 1.0),
            color_jitter=0.0,
            auto_augment="rand-m9-mstd0.5" if arm == "randaugment" else None,
            mean=MEAN,
            std=STD,
            num_workers=args.workers,
            device=self.device,
        )
        mixup = Mixup(mixup_alpha=0.8, num_classes=classes) if arm == "mixup" else None
        self.nfa = NFAugment(checkpoint, p=0.5, gate=None)  # every image is decoded
        if arm in ("mixup", "nfa"):
            self.nfa.enabled = arm == "nfa"
            self.loader = NFALoader(self.loader, self.nfa, mixup=mixup)
        torch.manual_seed(0)
        self.model = timm.create_model("resnet18", num_classes=classes).to(self.device)
        self.loss = SoftTargetCrossEntropy() if mixup else torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)

    def epoch(self) -> tuple[float, int]:
        """Seconds and images of one epoch."""
        self.model.train()
        synchronize(self.device)
        start, seen = time.perf_counter(), 0
        for images, labels in self.loader:
            loss = self.loss(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            seen += len(images)
        synchronize(self.device)
        return time.perf_counter() - start, seen


def interval(values: list[float]) -> tuple[float, float]:
    """Order statistics that bracket the median with at least 95% confidence, or the extremes."""
    values, n = sorted(values), len(values)
    tail, k = 0.5**n, 0
    while tail + math.comb(n, k + 1) * 0.5**n <= 0.025 and k + 1 < n // 2:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    return values[k], values[n - 1 - k]


def compared(values: list[float], base: list[float]) -> tuple[str, str]:
    """The median ratio of values to those of the same round, and its interval."""
    ratios = [one / two for one, two in zip(values, base, strict=True)]
    low, high = interval(ratios)
    return f"{statistics.median(ratios):.3f}", f"{low:.3f} to {high:.3f}"


def epochs(args: argparse.Namespace, data: Path) -> None:
    checkpoint = fitted(args, data, SMALL)
    loops = {arm: Loop(arm, args, data, checkpoint) for arm in args.arms}
    for loop in loops.values():
        loop.epoch()  # starts the workers
    times: dict[str, list[float]] = {arm: [] for arm in loops}
    seen = 0
    for number in range(args.rounds):
        order = args.arms[number % len(loops) :] + args.arms[: number % len(loops)]
        for arm in order:
            seconds, seen = loops[arm].epoch()
            times[arm].append(seconds)
    base = times[args.arms[0]]
    rows = []
    for arm, values in times.items():
        median = statistics.median(values)
        rows.append((arm, f"{median:.2f}", f"{seen / median:.0f}", *compared(values, base)))
    show(("loop", "s/epoch", "images/s", f"ratio to {args.arms[0]}", "95% interval"), rows)
    applied = loops["nfa"].nfa.stats() if "nfa" in loops else {}
    print(f"\n{args.rounds} rounds of {seen} images, {args.workers} workers")
    print(f"NFA: {applied}")


def online(args: argparse.Namespace, data: Path) -> None:
    device = torch.device(args.device)
    checkpoint = fitted(args, data, FlowConfig() if args.paper else SMALL)
    engine = NFAugment(checkpoint).engine  # shared, as in a training loop
    flow, _ = engine.on(device)
    batch = args.batch_size
    images = torch.randint(256, (batch, *flow.config.shape), dtype=torch.uint8, device=device)
    labels = torch.randint(checkpoint.pca.num_classes, (batch,), device=device)
    normalised = (images / 255 - 0.5) / 0.25

    @torch.no_grad()
    def bare() -> None:
        flow.decode(flow.encode(images)[0])

    def augment(given: torch.Tensor, **settings: Any) -> Callable[[], None]:
        nfa = NFAugment(engine, p=settings.pop("p", 1.0), gate=1e6, **settings)
        return lambda: nfa(given, labels)

    contestants: dict[str, Callable[[], None]] = {
        "encode + decode": bare,
        "uint8, memory": augment(images),
        "uint8, batch partners": augment(images, partners="batch"),
        "normalised floats": augment(normalised, mean=0.5, std=0.25),
        "half of the batch": augment(images, p=0.5),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(args.rounds + 2):
        for name, run in contestants.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    base, rows = times["encode + decode"], []
    for name, values in times.items():
        milliseconds = 1e3 * statistics.median(values)
        rows.append((name, f"{milliseconds:.1f}", *compared(values, base)))
    show(("call", "ms", "ratio", "95% interval"), rows)
    name = "the paper's CIFAR flow" if args.paper else args.checkpoint or "small flow"
    pca = checkpoint.pca
    print(
        f"\n{name}, batch {batch}, {pca.num_classes} classes with {pca.rank} axes, {args.rounds} "
        f"rounds, {device}"
    )


def show(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as temporary:
        data = args.data or draw_images(Path(temporary) / "images", args.images, args.classes)
        (online if args.online else epochs)(args, data)


if __name__ == "__main__":
    main()
