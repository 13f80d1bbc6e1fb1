"""A sheet of variants: for one image of each class, what every way of mixing makes of it.

    python lab/sheets.py --data blood128-train.tar --classes basophil eosinophil \\
        --autoencoder taef2.safetensors --out sheet.jpg

Columns: the image; its reconstruction by the autoencoder; then --variants of each way, in pixels
and on latents, along axes and by regions, and with --checkpoint, a flow on the same latents (or on
pixels, without --autoencoder). Axes are fitted to --per-class images of each class. Of each class
the first image of the data is shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import TensorDataset

import nfaug
from nfaug.augment.config import MixConfig
from nfaug.augment.pixels import to_pil
from nfaug.data.batches import decode
from nfaug.data.images import Images
from nfaug.data.open import open_dataset
from nfaug.fitting import fit

GAP, HEAD, MOST = 4, 26, 7  # pixels, pixels, pictures beside each other


def variants(
    checkpoint: nfaug.Checkpoint, mix: str, images: Images, args: argparse.Namespace
) -> list[Tensor]:
    """For each class, variants (V, C, H, W) of its first image."""
    settings = MixConfig(p=1.0, mix=mix, strength=args.strength)
    nfa = nfaug.NFAugment(checkpoint, config=settings)
    generators = [torch.Generator().manual_seed(args.seed + n) for n in range(args.variants)]
    made = torch.stack([*nfa.variants(decode(images), images.targets, generators)], 1)
    firsts = [int((images.targets == y).nonzero()[0]) for y in range(len(images.classes))]
    return [made[row] for row in firsts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="a .jpg or .png file")
    parser.add_argument("--classes", nargs="+", help="default: the first four")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--per-class", type=int, default=16)
    parser.add_argument("--variants", type=int, default=3)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--autoencoder")
    parser.add_argument("--checkpoint", help="a flow, on the autoencoder's latents if there is one")
    parser.add_argument(
        "--zoom", type=int, default=1, help="how many times larger pixels are drawn"
    )
    parser.add_argument("--ways", nargs="+", default=["axis", "regions"])
    parser.add_argument("--columns", nargs="+", help='titles to draw, such as "latents, regions"')
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = open_dataset(args.data, image_size=args.image_size)
    few, _ = data.split(per_class=args.per_class, seed=args.seed)
    pixels = decode(few)
    labels = few.targets
    names = args.classes or data.classes[:4]
    kept = torch.stack([labels == data.classes.index(name) for name in names])
    chosen = kept.any(0)
    pairs = TensorDataset(pixels[chosen], kept[:, chosen].long().argmax(0))
    images = open_dataset(pairs, classes=names)
    firsts = torch.stack([images[int(row.nonzero()[0])][0] for row in kept[:, chosen]])
    columns: dict[str, list[Tensor]] = {"image": [*firsts[:, None]]}
    bases = {"pixels": fit("builtin:pixels", images, progress=False)}
    if args.autoencoder:
        bases["latents"] = fit(
            "builtin:pixels", images, autoencoder=args.autoencoder, progress=False
        )
        flow = bases["latents"].flow
        decoded = [*flow.decode(flow.encode(firsts)[0])[:, None]]
    if args.checkpoint:
        name = "flow on latents" if args.autoencoder else "flow"
        bases[name] = fit(args.checkpoint, images, autoencoder=args.autoencoder)
    for base, checkpoint in bases.items():
        if base == "latents":
            columns["decoded"] = decoded
        for way in args.ways:
            title = f"{base}, {'axes' if way == 'axis' else way}"
            if args.columns is None or title in args.columns:
                columns[title] = variants(checkpoint, way, images, args)
    if args.columns:
        columns = {title: parts for title, parts in columns.items() if title in args.columns}
    draw_sheet(columns, names, args.zoom).save(args.out, quality=88)


def draw_sheet(columns: dict[str, list[Tensor]], names: list[str], zoom: int) -> Image.Image:
    """A row for each class, a group of pictures for each column, at most seven side by side."""
    side, font = zoom * columns["image"][0].shape[-1], ImageFont.load_default(18)
    lines: list[dict[str, list[Tensor]]] = [{}]
    for title, parts in columns.items():
        if sum(len(p[0]) for p in (*lines[-1].values(), parts)) > MOST:
            lines.append({})
        lines[-1][title] = parts
    wide = max(sum(len(p[0]) * (side + GAP) + 3 * GAP for p in line.values()) for line in lines)
    high = HEAD + len(names) * (side + GAP) + 3 * GAP
    sheet = Image.new("RGB", (wide, high * len(lines)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        left, top = 0, number * high
        for title, parts in line.items():
            pen.text((left + 2, top + 2), title, fill="black", font=font)
            for row, pictures in enumerate(parts):
                for place, picture in enumerate(pictures):
                    tile = to_pil(picture.permute(1, 2, 0).numpy()).resize((side, side))
                    at = left + place * (side + GAP), top + HEAD + row * (side + GAP)
                    sheet.paste(tile, at)
            left += len(parts[0]) * (side + GAP) + 3 * GAP
    return sheet


if __name__ == "__main__":
    main()
