"""Fashion-MNIST as two .npz files, from the IDX files of Debian's package dataset-fashion-mnist.

    apt-get install dataset-fashion-mnist
    python benchmarks/fashion_mnist.py --out runs

writes runs/fashion-mnist-train.npz and runs/fashion-mnist-test.npz, with classes named by numbers.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from pathlib import Path

import numpy as np
from torchvision.datasets.mnist import read_image_file, read_label_file

PACKAGE = Path("/usr/share/datasets/fashion-mnist")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=Path, default=PACKAGE, help="the folder of .gz files")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as unpacked:  # torchvision reads no .gz
        for packed in args.files.glob("*.gz"):
            (Path(unpacked) / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        for split, prefix in (("train", "train"), ("test", "t10k")):
            images = read_image_file(f"{unpacked}/{prefix}-images-idx3-ubyte")
            labels = read_label_file(f"{unpacked}/{prefix}-labels-idx1-ubyte")
            file = args.out / f"fashion-mnist-{split}.npz"
            np.savez(file, images=images.numpy(), labels=labels.numpy())
            print(f"{file}: {len(labels)} images")


if __name__ == "__main__":
    main()
