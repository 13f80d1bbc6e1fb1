"""What an item of a bank costs in a loader: a variant with its comparisons, and a decoded image.

    python benchmarks/bank_items.py --data clothing128-train.tar

It writes --images of the images at each of --sizes as JPEG files, makes a bank, and prints
milliseconds of a core for an item that is decoded (p = 0), for one that is replaced (p = 1), and
for the two comparisons of the latter: the hash of the file, read anew, and the variant's checksum.
Rounds alternate, and the least is taken. --results gets bank_items.md.
"""

import argparse
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets import ImageFolder

import nfaug
from nfaug.bank import BankDataset, make_bank
from nfaug.io.atomic import write_text

ROUNDS = 5


def written(data: Path, size: int, count: int, folder: Path) -> ImageFolder:
    """JPEG files of images at a size."""
    images = nfaug.open_dataset(data, image_size=size, channels=3, progress=False)
    step = max(1, len(images) // count)
    for index in range(0, step * count, step):
        image, label = images[index]
        home = folder / images.classes[label]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(home / f"{index}.jpg", quality=90)
    return ImageFolder(str(folder))


def milliseconds(work: Callable[[int], object], count: int) -> float:
    started = time.process_time()
    for index in range(count):
        work(index)
    return 1000 * (time.process_time() - started) / count


def row_of(data: Path, size: int, count: int) -> str:
    """The line of a size in the table."""
    with tempfile.TemporaryDirectory() as root:
        files = written(data, size, count, Path(root, "images"))
        checkpoint = nfaug.fit("builtin:pixels", files, progress=False)
        bank = make_bank(checkpoint, files, Path(root, "bank"), variants=2, progress=False)
        served = BankDataset(files, bank, p=1.0)
        decoded = BankDataset(files, bank, p=0.0)
        works: dict[str, Callable[[int], object]] = {
            "decoded": decoded.__getitem__,
            "replaced": served.__getitem__,
            "hash": served._reader.sha256,
            "checksum": lambda index: zlib.crc32(bank.variants[index, 0].data),
        }
        least = dict.fromkeys(works, float("inf"))
        for _ in range(ROUNDS):
            for name, work in works.items():
                least[name] = min(least[name], milliseconds(work, len(files)))
    shown = " | ".join(f"{value:.3f}" for value in least.values())
    return f"| {size} x {size} | {shown} | {least['replaced'] / least['decoded']:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 224])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = " ".join(map(str, args.sizes))
    lines = [
        "# An item of a bank",
        "",
        f"`python benchmarks/bank_items.py --data {args.data.name} --sizes {sizes}`, JPEG files "
        "that the system has in memory, milliseconds of a core",
        "",
        "| images | decoded, p = 0 | replaced, p = 1 | of it: hash of file | checksum | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for size in args.sizes:
        lines.append(row_of(args.data, size, args.images))
        print(lines[-1], flush=True)
    write_text(args.results / "bank_items.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
