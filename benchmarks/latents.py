"""Seconds from a folder of photographs to augmented batches, without a trained flow.

    python benchmarks/latents.py --data clothing128-train.tar
    python benchmarks/latents.py --data my-images --autoencoder my-taesd --picture grid.jpg

20 images of each class are read at 224 pixels, enlarged if they are smaller. `builtin:pixels` is
fitted to their pixels, and to the latents of an autoencoder; then batches of 32 are augmented, all
images of them. It prints seconds for opening the images, the fit, the first batch and the median of
five more, and the size of the checkpoint; with `--clock cpu` the CPU seconds of this process, for a
machine with other load. The picture has a row for each class: an image, its reconstruction and
variants, on pixels and on latents.

Without --autoencoder a stand-in is used: a narrow AutoencoderTiny of diffusers that was not
trained. Its weights are set by hand to average 8 x 8 pixels, because random weights make black
images. It says nothing about the quality of a trained one, and TAESD needs 22 times its operations.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import nfaug
from nfaug.augment.preview import preview_grid
from nfaug.training import open_dataset

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="a folder of class folders, or a tar of one")
    parser.add_argument("--autoencoder", help="directory or owner/name (a stand-in)")
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=3, help="rows of the picture")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--picture", help="file to write, such as a .jpg")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*too few images")
    with tempfile.TemporaryDirectory() as folder:
        autoencoder = arguments.autoencoder or averaging(Path(folder) / "averaging")
        rows, pictures = [], []
        for name, options in (("pixels", {}), ("latents", {"autoencoder": autoencoder})):
            figures, picture = measure(arguments, options, Path(folder) / name)
            rows.append(f"| {name} | " + " | ".join(figures) + " |")
            pictures.append(picture)
    print(
        f"{arguments.per_class} images a class, {arguments.img_size} pixels; {arguments.clock}",
        end=" ",
    )
    print(f"seconds; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| mixing | d | open, s | fit, s | first batch, s | batch, s | checkpoint, MB |")
    print("|---|---|---|---|---|---|---|", *rows, sep="\n")
    if arguments.picture:
        stacked(pictures).save(arguments.picture, quality=88)


def measure(
    arguments: argparse.Namespace, options: dict[str, Any], folder: Path
) -> tuple[list[str], Image.Image]:
    """The figures of a row, and a preview."""
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    start = clock()
    dataset = open_dataset(
        arguments.data, image_size=arguments.img_size, per_class=arguments.per_class
    )
    opened = clock()
    checkpoint = nfaug.fit("builtin:pixels", dataset, progress=False, **options)
    fitted = clock()
    nfa = nfaug.NFAugment(checkpoint, p=1.0)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:BATCH]
    images = torch.stack([dataset[index][0] for index in order.tolist()])
    seconds = []
    for _ in range(6):
        before = clock()
        nfa(images, dataset.targets[order])
        seconds.append(clock() - before)
    checkpoint.save(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    times = [opened - start, fitted - opened, seconds[0], statistics.median(seconds[1:])]
    figures = [str(checkpoint.flow.config.dim), *(f"{x:.2f}" for x in times), f"{size / 1e6:.1f}"]
    return figures, preview_grid(checkpoint, dataset, variants=4, classes=arguments.classes)


@torch.no_grad()
def averaging(path: Path) -> str:
    """An AutoencoderTiny whose three latent channels are the colours of blocks of 8 x 8 pixels."""
    from diffusers import AutoencoderTiny

    narrow, few = (16,) * 4, (1,) * 4
    made = AutoencoderTiny(
        encoder_block_out_channels=narrow,
        decoder_block_out_channels=narrow,
        num_encoder_blocks=few,
        num_decoder_blocks=few,
        latent_channels=3,
    )
    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.zero_()  # the residual branches add nothing
            if module.bias is not None:
                module.bias.zero_()
    colours = range(3)
    for stack in (made.encoder.layers, made.decoder.layers):
        for layer in stack:
            if isinstance(layer, torch.nn.Conv2d):
                for c in colours:
                    if layer.stride == (2, 2):
                        layer.weight[c, c, 1:, 1:] = 0.25  # the mean of 2 x 2 pixels
                    else:
                        layer.weight[c, c, 1, 1] = 1.0
    made.save_pretrained(path)
    return str(path)


def stacked(pictures: list[Image.Image]) -> Image.Image:
    """Pictures below each other, at half their size."""
    width = max(picture.width for picture in pictures)
    canvas = Image.new("RGB", (width, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas.resize((canvas.width // 2, canvas.height // 2), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
