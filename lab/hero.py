"""Draw docs/hero.jpg: images, the image that each is mixed with, and four variants.

    python lab/hero.py --data DATA

Two photographs of clothes, along axes and by regions, and a blood cell, by regions, all in pixels
and fitted to 20 images of each class. The batch holds the image and its partner alone, so that the
partner that is shown is the one that is mixed in. --data is a folder of tars.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import nfaug
from nfaug.augment.pixels import to_pil
from nfaug.data.batches import decode

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "hero.jpg"
SIDE, GAP, HEAD = 128, 6, 26  # pixels
VARIANTS = 4
TITLES = ("image", "partner", "variants", "", "", "")
#: File, class, numbers of the image and its partner among those of the fit, and how they are mixed.
ROWS = (
    ("clothing128-train.tar", "t-shirt", (5, 16), "axis"),
    ("clothing128-train.tar", "shoes", (1, 4), "regions"),
    ("blood128-train.tar", "eosinophil", (0, 5), "regions"),
)


def row_of(file: Path, name: str, pair: tuple[int, int], mix: str) -> list[Tensor]:
    """The image, its partner and the variants, each uint8 (3, SIDE, SIDE)."""
    few, _ = nfaug.open_dataset(file, image_size=SIDE).split(per_class=20)
    checkpoint = nfaug.fit("builtin:pixels", few, progress=False)
    images = decode(few, progress=False)
    labels = few.targets
    label = few.classes.index(name)
    chosen = images[labels == label][list(pair)]
    made = []
    for seed in range(VARIANTS):
        generator = torch.Generator().manual_seed(seed)
        nfa = nfaug.NFAugment(
            checkpoint, p=1.0, mix=mix, partners="batch", gate=None, generator=generator
        )
        made.append(nfa(chosen, torch.tensor([label, label]))[0][0])
    return [*chosen, *made]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=PICTURE)
    args = parser.parse_args()
    rows = [row_of(args.data / file, *rest) for file, *rest in ROWS]
    wide = len(TITLES) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (wide, HEAD + len(rows) * (SIDE + GAP) - GAP), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(18)
    for place, title in enumerate(TITLES):
        pen.text((place * (SIDE + GAP) + 2, 0), title, fill="black", font=font)
    for line, pictures in enumerate(rows):
        for place, picture in enumerate(pictures):
            tile = to_pil(picture.permute(1, 2, 0).numpy())
            sheet.paste(tile, (place * (SIDE + GAP), HEAD + line * (SIDE + GAP)))
    sheet.save(args.out, quality=88)


if __name__ == "__main__":
    main()
