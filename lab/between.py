"""Draw docs/explanation/between.png: from an image to its partner, by a flow's axes and by pixels.

    python lab/between.py

Two pairs of photographs of builtin:clothes, to whose 200 training images builtin:rgb32 and
builtin:pixels are fitted. First one weight w for all axes, which grows from left to right; then a
weight of [0, 1] for each axis, drawn from three seeds. The batch holds an image and its partner
alone. It takes seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import nfaug
from nfaug.augment.pixels import to_pil
from nfaug.data.batches import decode

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "between.png"
SIDE, GAP, HEAD, LEFT = 96, 4, 26, 62  # pixels
WEIGHTS = (0.25, 0.5, 0.75)
VARIANTS = 3
TITLES = ("image", *(f"w = {w:g}" for w in WEIGHTS), "partner", "a weight w for each axis")
CHECKPOINTS = {"flow": "builtin:rgb32", "pixels": "builtin:pixels"}
#: The class, and the numbers of the image and its partner among those of the class.
PAIRS = (("pants", (11, 4)), ("shoes", (11, 4)))


def between(checkpoint: nfaug.Checkpoint, pair: Tensor, label: int) -> list[Tensor]:
    """The image, variants with one weight, the partner, and variants with a weight for each axis.

    Args:
        checkpoint: A fitted checkpoint.
        pair: The image and its partner, uint8 (2, C, H, W).
        label: Their class.

    Returns:
        Images (C, H, W).
    """
    labels = torch.tensor([label, label])
    settings = {"p": 1.0, "strength": 1.0, "partners": "batch", "gate": None}
    by_pair = nfaug.NFAugment(checkpoint, mix="pair", **settings)
    by_axis = nfaug.NFAugment(checkpoint, mix="axis", **settings)
    draws = by_pair.draw(labels, generator=torch.Generator().manual_seed(0))
    made = [pair[0]]
    for weight in WEIGHTS:
        fixed = dataclasses.replace(draws, weights=torch.full_like(draws.weights, weight))
        made.append(by_pair.replay(pair, labels, fixed)[0][0])
    made.append(pair[1])
    for seed in range(VARIANTS):
        draws = by_axis.draw(labels, generator=torch.Generator().manual_seed(seed))
        made.append(by_axis.replay(pair, labels, draws)[0][0])
    return made


def lines() -> list[tuple[str, list[Tensor]]]:
    """The lines of the picture: for each pair one of the flow, and one of pixels."""
    clothes = nfaug.open_dataset("builtin:clothes")
    images = decode(clothes, progress=False)
    labels = clothes.targets
    fitted = {
        name: nfaug.fit(checkpoint, clothes, progress=False)
        for name, checkpoint in CHECKPOINTS.items()
    }
    made = []
    for name, numbers in PAIRS:
        label = clothes.classes.index(name)
        pair = images[labels == label][list(numbers)]
        for base, checkpoint in fitted.items():
            made.append((base, between(checkpoint, pair, label)))
    return made


def sheet(shown: list[tuple[str, list[Tensor]]]) -> Image.Image:
    """The picture of these lines."""
    step = SIDE + GAP
    count = len(shown[0][1])
    wide = LEFT + count * step + 2 * GAP  # a wider gap after the partner
    canvas = Image.new("RGB", (wide, HEAD + len(shown) * step), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(16)

    def left(column: int) -> int:
        return LEFT + column * step + 2 * GAP * (column >= count - VARIANTS)

    for column, title in enumerate(TITLES):
        pen.text((left(column) + 2, 2), title, fill="black", font=font)
    for row, (name, pictures) in enumerate(shown):
        top = HEAD + row * step
        pen.text((2, top + SIDE // 2 - 10), name, fill="black", font=font)
        for column, picture in enumerate(pictures):
            tile = to_pil(picture.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.NEAREST)
            canvas.paste(tile, (left(column), top))
    return canvas


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    sheet(lines()).quantize(256).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
