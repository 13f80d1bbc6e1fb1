"""Make the bundled images builtin:clothes of photographs of clothing.

python scripts/bundle_images.py clothing-dataset-small/train clothing-dataset-small/validation

shrinks photographs to 32 x 32 pixels and writes 20 of each class for training, and at most 70 for
testing. The settings of `make demo` were chosen with the first 1,500 training images of the
shuffled dataset, of which none is taken.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from nfaug import open_dataset
from nfaug.data.images import Images

__all__ = ["main"]

FILE = Path(__file__).resolve().parent.parent / "src/nfaug/builtin/images/clothes/clothes.tar"
SIZE = 32
SEED = 2026
CHOSEN_WITH = 1500  # images
TRAIN, TEST = 20, 70  # images of each class
QUALITY = 92


def unseen(train: Images, validation: Images) -> list[tuple[str, Tensor]]:
    """The path and the pixels of each image that no choice was made with."""
    order = np.random.default_rng(SEED).permutation(len(train))
    found = []
    for dataset, rows in ((train, order[CHOSEN_WITH:]), (validation, range(len(validation)))):
        assert dataset.paths is not None
        found += [(dataset.paths[row], dataset[int(row)][0]) for row in rows]
    return found


def jpeg(image: Tensor) -> bytes:
    """A JPEG file of an image (3, H, W)."""
    stored = io.BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.save(stored, format="jpeg", quality=QUALITY, subsampling=0, optimize=True)
    return stored.getvalue()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("train", help="a folder of class folders, or a tar of it")
    parser.add_argument("validation", help="the same")
    options = parser.parse_args(arguments)
    train, validation = (
        open_dataset(path, image_size=SIZE, channels=3)
        for path in (options.train, options.validation)
    )
    counts = dict.fromkeys(train.classes, 0)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(FILE, "w") as archive:
        for path, image in unseen(train, validation):
            name = path.partition("/")[0]
            number = counts[name]
            counts[name] += 1
            if number >= TRAIN + TEST:
                continue
            split = "train" if number < TRAIN else "test"
            content = jpeg(image)
            member = tarfile.TarInfo(f"{split}/{name}/{number:02}.jpg")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
