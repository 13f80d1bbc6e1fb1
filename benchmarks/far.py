"""The share of images that lie far from a flow's own: max|z| > 32; prints a table.

    python benchmarks/far.py cells=blood128-validation.tar clothes=clothing128-validation.tar

A flow maps images unlike those that it was trained on to large latents, where float32 loses digits
and the round trip of an image is not exact. Each data set is fitted to the flow, at its size and
channels. "far" is the share of the images, "inexact" the share of those whose round trip changes a
pixel, and "gated" the share of the far images that the gate leaves alone.
"""

from __future__ import annotations

import argparse
import warnings

import torch

import nfaug
from nfaug.augment.engine import FAR
from nfaug.data.batches import decode
from nfaug.fitting import open_images

COLUMNS = ("flow", "images", "count", "far", "inexact of the far", "gated of the far")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", metavar="NAME=PATH", help="images of classes")
    parser.add_argument(
        "--checkpoint", nargs="+", default=["builtin:rgb32", "builtin:fashion-mnist"]
    )
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for flow in options.checkpoint:
        for pair in options.data:
            name, _, path = pair.partition("=")
            print(f"| {flow} | {name} | {' | '.join(figures(flow, path))} |", flush=True)


@torch.no_grad()
def figures(flow: str, path: str) -> list[str]:
    """The cells of a row."""
    base = nfaug.load(flow)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few images in a class
        fitted = nfaug.fit(base, open_images(base.flow, path), progress=False)
    opened = open_images(base.flow, path)
    images = decode(opened, progress=False)
    labels = opened.targets
    frozen = fitted.flow.freeze()
    assert fitted.pca is not None
    far, inexact, gated = [], [], []
    for batch, own in zip(images.split(256), labels.split(256), strict=True):
        z = frozen.encode(batch)[0]
        far.append(z.abs().flatten(1).amax(1) > FAR)
        inexact.append((frozen.decode(z) != batch).flatten(1).any(1))
        inside = fitted.pca.gate(z, own, radius=1.25)
        gated.append(~inside)
    among = torch.cat(far)
    count = max(1, int(among.sum()))
    shares = [float(among.float().mean())]
    shares += [float((among & torch.cat(part)).sum()) / count for part in (inexact, gated)]
    return [str(len(images)), *(f"{share:.2%}" for share in shares)]


if __name__ == "__main__":
    main()
