"""Train a flow on an image folder from Python, and save it.

    python examples/train_own_flow.py IMAGES --out my-nfa

IMAGES has one sub-folder per class. The settings are those of the recipe `small`; the command
`nfaug train --recipe small --data IMAGES --out my-nfa` does the same. The script prints the mean
change of one augmented image and the metrics on held-out images, such as {'bits_per_dim': 4.21,
'nf_acc': 0.81, ..., 'steps': 1200}. Classes of under 20 images have no held-out images.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import nfaug
from nfaug import open_dataset
from nfaug.training import TrainConfig, train


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="a folder with one sub-folder per class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="steps per level")
    parser.add_argument("--width", type=int, default=48, help="of the coupling networks")
    parser.add_argument("--epochs", type=int, default=0, help="0: for a million images in all")
    parser.add_argument("--max-minutes", type=float, default=30.0)
    return parser.parse_args()


def main() -> None:
    args = parse()
    images = open_dataset(args.images, image_size=args.img_size)
    fewest = int(torch.bincount(images.targets).min())
    default = TrainConfig()
    config = replace(
        default,
        epochs=args.epochs,
        max_minutes=args.max_minutes,
        batch_size=64,
        lr=5e-3,
        flow=replace(
            default.flow,
            steps=(args.steps,) * args.levels,
            blocks=(1,) * args.levels,
            width=(args.width,) * args.levels,
        ),
        pca=replace(default.pca, rank=min(64, fewest - 1)),  # N images have N - 1 axes
        augmentation=replace(default.augmentation, hflip=True),
    )
    result = train(images, config=config, out=args.out)
    result.checkpoint.save(args.out, overwrite=True)

    nfa = nfaug.NFAugment(nfaug.load(args.out), p=1.0)
    image, label = images[0]
    variant, _ = nfa(image[None], images.targets[:1])
    changed = (variant[0].float() - image.float()).abs().mean()
    print(f"an image of {images.classes[label]} changed by {changed:.1f} gray levels")
    record = result.checkpoint.config
    print({**record.metrics, "steps": record.training["steps"]})


if __name__ == "__main__":
    main()
