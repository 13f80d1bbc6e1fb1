"""Whether variants keep their class, and how far they are from real images; prints a table.

    python benchmarks/labels.py --data blood128-train.tar --test-data blood128-validation.tar \\
        --weights tf_efficientnet_lite0.safetensors --autoencoder taef2.safetensors

A classifier is fine-tuned on all images of --data. Then --variants variants of --per-class images
of each class are made in each way, as for a classifier with that many labels. A row says how many
of them the classifier gives their class, and two medians of the Euclidean distance in its last
features, scaled to length 1: to the image that a variant is of, and to the nearest of the other
images of --data. The last row is of --test-data, as a measure for both.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F

from nfaug.compare.classifier import Classifier
from nfaug.compare.config import CompareConfig
from nfaug.compare.rows import PIXELS
from nfaug.compare.transforms import transform_of
from nfaug.compare.work import bank_of
from nfaug.data.images import split_per_class, to_tensors
from nfaug.data.open import open_dataset


def features(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted labels (N,), and unit features (N, D)."""
    model, found = classifier.model.eval(), []
    unit = (images.float() / 255 - classifier.mean) / classifier.std
    with torch.no_grad():
        for part in unit.split(64):
            maps = model.forward_features(part)
            pooled = F.normalize(model.forward_head(maps, pre_logits=True))
            found.append((model.forward_head(maps).argmax(1), pooled))
    labels, rows = zip(*found, strict=True)
    return torch.cat(labels), torch.cat(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--data", "--test-data", "--weights"):
        parser.add_argument(name, required=True)
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--augment", default="crop,flip", help="of the classifier")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--per-class", type=int, default=16)
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--autoencoder")
    parser.add_argument("--checkpoint", help="a checkpoint of a flow, such as one on latents")
    args = parser.parse_args()
    data = open_dataset(args.data, image_size=args.image_size)
    images, labels = to_tensors(data)
    test = to_tensors(open_dataset(args.test_data, image_size=args.image_size))
    settings = CompareConfig(
        network=args.network, weights=args.weights, steps=args.steps, variants=args.variants
    )
    classifier = Classifier(settings, images.shape[1:], len(data.classes), 0)
    torch.manual_seed(0)
    safe = transform_of(args.augment.split(","), "", images.shape[2:])
    classifier.train(lambda rows: (safe(images[rows]), labels[rows]), len(labels))
    real = features(classifier, images)[1]
    few = split_per_class(data, args.per_class, 0)[0]
    own_images, own_labels = to_tensors(few, progress=False)
    own = features(classifier, own_images)[1]
    ways = {"pixels": (PIXELS, None)}
    if args.autoencoder:
        ways["latents"] = (PIXELS, args.autoencoder)
    if args.checkpoint:
        ways["flow"] = (args.checkpoint, args.autoencoder)
    print("| | keep the class, % | to their image | to the nearest other image |")
    print("|---|---|---|---|")
    for name, (flow, autoencoder) in ways.items():
        for mix in ("axis", "regions"):
            bank = bank_of(flow, few, settings, 0, autoencoder, mix=mix)
            guesses, found = features(classifier, bank.flatten(0, 1))
            kept = guesses == own_labels.repeat_interleave(args.variants)
            source = own.repeat_interleave(args.variants, 0)
            # The image itself is at distance 0 of its features, and is not one of the others.
            distances = torch.cdist(found, real)
            distances[torch.cdist(source, real) < 1e-3] = torch.inf
            moved = float((found - source).norm(dim=1).median())
            nearest = float(distances.min(1).values.median())
            words = f"{name}, {'axes' if mix == 'axis' else mix}"
            print(f"| {words} | {100 * kept.float().mean():.1f} | {moved:.2f} | {nearest:.2f} |")
    guesses, found = features(classifier, test[0])
    nearest = float(torch.cdist(found, real).min(1).values.median())
    right = 100 * (guesses == test[1]).float().mean()
    print(f"| test images | {right:.1f} | | {nearest:.2f} |")


if __name__ == "__main__":
    main()
