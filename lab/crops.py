"""Where NFA in pixels helps with timm's random crops, and how many crops its gate leaves unchanged.

    python lab/crops.py --data DATA --counts
    python lab/crops.py --data DATA

For each of --sets, timm's ResNet-18 is trained from scratch at 64 pixels on --per-class labelled
images of each class, with the loaders of timm's train.py: RandomResizedCrop from 0.08 of the area,
flips (of letters none) and color jitter. The methods are nothing more; NFA as `nfaug timm` applies
it, after the crop; with a gate so wide that few crops are left unchanged; before the crop, on
the stored images; and after the crop, fitted to crops, each image read once through the transform.
All have p = 0.5. Crops and batches of a seed are the same for each method. --out keeps cells, and
the same command goes on; --results gets a CSV file of each set, after each cell.

With --counts nothing is trained: counts.csv says what becomes of the images that NFA chooses, with
the loaders of three networks, by the flow, the fit and the gate.
"""

import argparse
import csv
import functools
import io
import itertools
import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sets import NOTHING, SETS, gains_table, keep
from timm.data import create_loader, resolve_data_config
from timm.models import create_model
from torch import Tensor, nn
from torch.utils.data import Dataset

import nfaug
from nfaug import Checkpoint
from nfaug.compare.cells import Cells
from nfaug.compare.figures import ERRORS, Gain, gain_of
from nfaug.data.batches import decode
from nfaug.data.images import Images
from nfaug.integrations.timm import NFALoader
from nfaug.io.atomic import write_text

SIDE = 64  # pixels that the network is trained at
BATCH = 16  # of training; counts are of batches of 32
WIDE = 2.0  # a gate, which lets most crops through
AFTER = "after the crop"  # as `nfaug timm` does
WIDER = "after the crop with a wide gate"
BEFORE = "before the crop"
FITTED = "after the crop and fitted to crops"
PLACES = (WIDER, BEFORE, FITTED)
METHODS = (NOTHING, AFTER, *PLACES)
FLIPS = {"letters": 0.0}  # of others timm's default
NETWORKS = {  # with their own sizes
    "ResNet-18": "resnet18",
    "Swin": "swin_tiny_patch4_window7_224",
    "EVA02": "eva02_tiny_patch14_224",
}
FLOWS = ("builtin:pixels", "builtin:rgb32")
OUTCOMES = ("applied", "gated", "far", "no_partner", "fell_back")
NUMBERS = ("chosen", *OUTCOMES, "left", "seconds")
FITS = (("images", 1.25), ("images", WIDE), ("crops", 1.25))  # what is read, and the gate


class Stored(Dataset[Any]):
    """Labelled images in memory, as a folder gives them to timm.

    Args:
        images: The images.
        nfa: NFA before the transform, on single images; None for none.
    """

    def __init__(self, images: Images, nfa: nfaug.NFAugment | None = None) -> None:
        self.images = decode(images, progress=False)
        self.labels = images.targets
        self.classes = images.classes
        self.nfa = nfa
        self.transform: Any = None  # timm's loader sets it

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        if self.nfa is not None:
            batch, _ = self.nfa(image[None], self.labels[index : index + 1])
            image = batch[0]
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        return self.transform(picture), int(self.labels[index])


def loader_of(
    data: Stored, name: str, training: bool, shape: Sequence[int], batch: int = BATCH, **more: Any
) -> Any:
    """The loader that timm's train.py makes of the images of a set."""
    return create_loader(
        data,
        tuple(shape),
        batch,
        is_training=training,
        hflip=FLIPS.get(name, 0.5),
        interpolation="random" if training else "bilinear",
        num_workers=0,
        device=torch.device("cpu"),
        **more,
    )


@functools.lru_cache(2)
def parts_of(folder: Path, name: str) -> tuple[Images, Images]:
    """The images that labelled ones are drawn from, and the test images, as they are stored."""
    pool = nfaug.open_dataset(folder / SETS[name].train, channels=3)
    return pool, nfaug.open_dataset(folder / SETS[name].test, channels=3)


def fitted_to_crops(flow: str, few: Images, name: str, size: int) -> Checkpoint:
    """A fit that reads each image once through timm's transform."""
    data = Stored(few)
    loader_of(data, name, True, (3, size, size))  # which sets the transform
    return nfaug.fit(flow, data, progress=False)


def seeded(seed: int) -> None:
    """Seed what timm's transforms draw from."""
    random.seed(seed)
    torch.manual_seed(seed)


def nfa_of(method: str, few: Images, name: str, seed: int) -> nfaug.NFAugment:
    """The augmentation of a method, which draws from a generator of its own."""
    if method == FITTED:
        checkpoint = fitted_to_crops("builtin:pixels", few, name, SIDE)
    else:
        checkpoint = nfaug.fit("builtin:pixels", few, image_size=SIDE, progress=False)
    config = nfaug.MixConfig(gate=WIDE) if method == WIDER else nfaug.MixConfig()
    generator = torch.Generator().manual_seed(seed)
    return nfaug.NFAugment(checkpoint, config=config, generator=generator)


def batches(loader: Any, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches, from one epoch after the other."""
    left = steps
    while left:
        for images, labels in loader:
            yield images, labels
            left -= 1
            if not left:
                return


def right_of(args: argparse.Namespace, name: str, method: str, seed: int) -> Tensor:
    """Which test images a network gets right."""
    pool, tested = parts_of(args.data, name)
    few, _ = pool.split(per_class=args.per_class, seed=seed)
    seeded(seed)
    nfa = None
    if method != NOTHING:
        nfa = nfa_of(method, few, name, seed)
    data = Stored(few, nfa if method == BEFORE else None)
    seeded(seed)
    model = create_model("resnet18", num_classes=len(few.classes))
    loader = loader_of(data, name, True, (3, SIDE, SIDE))
    if nfa is not None and method != BEFORE:
        loader = NFALoader(loader, nfa)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps)
    losses = []
    model.train()
    for images, labels in batches(loader, args.steps):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    last = statistics.fmean(losses[-50:])
    counts = nfa.stats() if nfa is not None else {}
    print(f"{name}, {method}, {seed}: loss {last:.3f}, {counts}", flush=True)
    model.eval()
    right = []
    with torch.no_grad():
        for images, labels in loader_of(Stored(tested), name, False, (3, SIDE, SIDE), 256):
            right.append(model(images).argmax(1) == labels)
    return torch.cat(right)


def mean_gain(found: dict[str, Cells], method: str, base: str) -> Gain:
    """The mean over the sets of a method's gain over another one, in the seeds that all have."""
    seeds = set(range(10**4))
    for cells in found.values():
        for name in (method, base):
            seeds &= {seed for one, seed in cells if one == name}
    points = []
    for seed in sorted(seeds):
        of_sets = [c[method, seed].accuracy - c[base, seed].accuracy for c in found.values()]
        points.append(statistics.fmean(of_sets))
    if len(points) < 3:
        return Gain(statistics.fmean(points or [0.0]), math.inf, math.inf, len(points))
    errors = []
    for cells in found.values():
        ours = [cells[method, seed] for seed in sorted(seeds)]
        others = [cells[base, seed] for seed in sorted(seeds)]
        errors.append(gain_of(ours, others).image_error)
    mean = statistics.fmean(points)
    seed_error = statistics.stdev(points) / len(points) ** 0.5
    return Gain(mean, seed_error, math.hypot(*errors) / len(errors), len(points))


def train(args: argparse.Namespace) -> None:
    """Train what is missing, and print what is known."""
    found = {}
    for name in args.sets:
        record = {
            "set": name,
            "size": SIDE,
            "per_class": args.per_class,
            "steps": args.steps,
            "lr": args.lr,
            "batch": BATCH,
            "wide": WIDE,
        }
        found[name] = Cells(args.out / name, record, len(parts_of(args.data, name)[1]))
    files = {f"{name}-{SIDE}": cells for name, cells in found.items()}
    for seed in range(args.seeds):
        for name, cells in found.items():
            for method in args.methods:
                if (method, seed) in cells:
                    continue
                started = time.process_time()
                right = right_of(args, name, method, seed).numpy()
                seconds = time.process_time() - started
                cells.add(method, seed, right, seconds)
                print(f"  {100 * right.mean():.1f}%, {seconds:.0f} s", flush=True)
                keep(args.results, files)
    for name, cells in found.items():
        print("\n".join(gains_table(SETS[name].title, cells, METHODS, AFTER, NOTHING)), end="\n\n")
    for method in PLACES:
        gain = mean_gain(found, method, AFTER)
        least = gain.mean - gain.half_at(ERRORS / len(PLACES))
        clear = "clearly better" if least > 0 else "not clearly better"
        print(f"{method}: {gain} over {AFTER} on the mean over sets, {clear}")


def counts_of(
    args: argparse.Namespace, data: Stored, name: str, given: Any, nfa: nfaug.NFAugment
) -> list[Any]:
    """NUMBERS, of batches with a network's size, mean and std."""
    started = time.process_time()
    seeded(0)
    moments = {"mean": given["mean"], "std": given["std"]}
    loader = loader_of(data, name, True, given["input_size"], 32, **moments)
    for _ in batches(NFALoader(loader, nfa), args.batches):
        pass
    stats = nfa.stats()
    counts = [stats[outcome] for outcome in OUTCOMES]
    chosen = sum(counts)
    left = 1 - stats["applied"] / chosen
    return [chosen, *counts, f"{left:.4f}", f"{time.process_time() - started:.1f}"]


def count(args: argparse.Namespace) -> None:
    """Write what becomes of the images that NFA chooses."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("set", "network", "size", "flow", "fit", "gate", *NUMBERS))
    cases = itertools.product(args.sets, args.networks, FLOWS)
    for name, network, flow in cases:
        pool, _ = parts_of(args.data, name)
        few, _ = pool.split(per_class=args.per_class)
        given = resolve_data_config({}, model=create_model(NETWORKS[network]))
        size = given["input_size"][1]
        seeded(0)
        fits = {
            "images": nfaug.fit(flow, few, progress=False),
            "crops": fitted_to_crops(flow, few, name, size),
        }
        for fit, gate in FITS:
            nfa = nfaug.NFAugment(fits[fit], gate=gate)
            numbers = counts_of(args, Stored(few), name, given, nfa)
            line = (name, network, size, flow, fit, gate, *numbers)
            table.writerow(line)
            print(*line, flush=True)
        write_text(args.results / "counts.csv", text.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of tars")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["cells", "letters"])
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--counts", action="store_true", help="count, and train nothing")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batches", type=int, default=20, help="that are counted")
    parser.add_argument("--out", type=Path, default=Path("runs/crops"))
    parser.add_argument("--results", type=Path, default=Path("lab/results/crops"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # seconds are those of a core
    args.results.mkdir(parents=True, exist_ok=True)
    if args.counts:
        count(args)
    else:
        train(args)


if __name__ == "__main__":
    main()
