"""Fit a pretrained flow to new classes, use it, and share it.

    python examples/fit_and_share.py IMAGES --out my-nfa
    python examples/fit_and_share.py IMAGES --out my-nfa --push me/my-nfa

IMAGES has one sub-folder per class. The flow is not trained: one pass over the images gives axes
and a memory of partners. The script prints NFA's counters for one batch,
{'seen': ..., 'applied': ..., ...}. --push uploads the checkpoint to a private repository of the
Hugging Face Hub: from its axes and its memory the images can nearly be rebuilt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch.utils.data import DataLoader

import nfaug
from nfaug import open_dataset
from nfaug.hub import push_to_hub


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="a folder with one sub-folder per class")
    parser.add_argument(
        "--checkpoint", default="builtin:rgb32", help="directory, repository or builtin:"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=64, help="axes per class")
    parser.add_argument("--push", metavar="OWNER/NAME", help="private repository to push to")
    return parser.parse_args()


def main() -> None:
    args = parse()
    fitted = nfaug.fit(args.checkpoint, args.images, rank=args.rank)
    fitted.save(args.out, overwrite=True)

    nfa = nfaug.NFAugment.from_pretrained(args.out, p=0.5)
    images = open_dataset(args.images, image_size=64)  # any size
    batch, labels = next(iter(DataLoader(images, batch_size=64, shuffle=True)))
    nfa(batch, labels)
    if args.push:
        print(push_to_hub(fitted, args.push, private=True))
    print(nfa.stats())


if __name__ == "__main__":
    main()
