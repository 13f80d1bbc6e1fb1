"""What a residual bank costs and how exact it is: photographs of 224 x 224 pixels, a flow of 32.

    python benchmarks/residual.py --data clothing128-train.tar

Prints how much CPU time a bank with p = 1 adds to a dataset of JPEG files with timm's transform for
training, as a ratio, and the difference in grey levels between variants from the bank and those of
`NFAugment` with the same draws.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timm.data import create_transform
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.io import write_jpeg
from torchvision.transforms.v2 import PILToTensor

import nfaug
from nfaug.bank import Bank, BankDataset, make_bank
from nfaug.data.images import LabelledImages, split_per_class, to_tensors
from nfaug.data.open import open_dataset
from nfaug.run.seeds import SharedGenerator, seed_of

SIZE = 224
BATCH = 64


def write_files(few: LabelledImages, folder: Path) -> None:
    """A folder of JPEG files for each class."""
    images, labels = to_tensors(few, progress=False)
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        file = folder / few.classes[label] / f"{index:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_jpeg(image, str(file), quality=90)


def milliseconds_of(dataset: Dataset, count: int) -> float:
    """CPU time of one item, in milliseconds."""
    torch.manual_seed(0)
    started = time.process_time()
    for index in range(count):
        dataset[index]
    return 1000 * (time.process_time() - started) / count


def times(folder: Path, bank: Bank, rounds: int) -> str:
    """A line about the time of a dataset of files, and with a variant for each image."""
    plain = ImageFolder(str(folder), create_transform(SIZE, is_training=True))
    with_bank = BankDataset(plain, bank, p=1.0)
    pairs = []
    for _ in range(rounds):
        alone = milliseconds_of(plain, len(plain))
        pairs.append((alone, milliseconds_of(with_bank, len(plain))))
    ratio = statistics.median(changed / alone for alone, changed in pairs)
    alone = statistics.median(alone for alone, _ in pairs)
    more = statistics.median(changed - alone for alone, changed in pairs)
    return (
        f"an image takes {alone:.2f} ms, and a variant {more:.2f} ms more "
        f"(ratio {ratio:.2f}, {rounds} rounds)"
    )


def differences(
    fitted: nfaug.Checkpoint, bank: Bank, images: torch.Tensor, labels: torch.Tensor
) -> str:
    """A line about the differences between the bank and `NFAugment`, in grey levels."""
    nfa = nfaug.NFAugment(fitted, p=1.0, gate=None)
    means = []
    largest = []
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        generator = SharedGenerator().manual_seed(seed_of(0, 0, start))
        (online,) = nfa.variants(images[rows].float() / 255, labels[rows], [generator])
        for index, expected in enumerate(online * 255, start):
            found = bank.variant(index, 0, images[index].permute(1, 2, 0).numpy())
            difference = np.abs(found - expected.permute(1, 2, 0).numpy())
            means.append(difference.mean())
            largest.append(difference.max())
    return (
        f"difference from NFAugment: {np.mean(means):.2f} grey levels on average, "
        f"{np.quantile(largest, 0.5):.1f} at most in the median image, {max(largest):.1f} at most "
        "in all (rounding alone: 0.25 and 0.5)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", default="builtin:rgb32")
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    few, _ = split_per_class(open_dataset(args.data, image_size=SIZE), args.per_class, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        write_files(few, folder)
        written = open_dataset(folder, image_size=SIZE)
        images, labels = to_tensors(written, progress=False)
        small = written.at(32)
        fitted = nfaug.fit(args.checkpoint, small, rank=args.per_class - 1, progress=False)
        options = {"variants": 1, "batch_size": BATCH, "residual": True, "gate": None}
        pixels = ImageFolder(str(folder), PILToTensor())
        bank = make_bank(fitted, pixels, Path(name) / "bank", progress=False, **options)
        print(f"{len(images)} photographs of {SIZE} x {SIZE}, {args.checkpoint}, one thread")
        print(times(folder, bank, args.rounds))
        print(differences(fitted, bank, images, labels))


if __name__ == "__main__":
    main()
