"""How nfaug behaves in the harnesses of the libraries that it plugs into; prints Markdown.

    python benchmarks/manners.py torchvision
    python benchmarks/manners.py albumentations --checkout ../albumentations
    python benchmarks/manners.py timm --checkout ../pytorch-image-models

A case passes, or nfaug refuses it by a message of its own (each message is listed once, with how
often), or something else happens, which is named. torchvision: every call of v2.MixUp and v2.CutMix
beside the same call of `NFAugment`. albumentations: its own tests of its
augmentations, loaded from a checkout, on nfaug's class. timm: `nfaug timm` around the checkout's
train.py, with one flag of its parser after the other. The checkout should be of the installed
version. albumentations' tests need `deepdiff`. Each module of benchmarks/peers holds one library.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

PEERS = ("torchvision", "albumentations", "timm")


def main(arguments: list[str] | None = None) -> None:
    """Run the cases of one library and print their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--checkout", type=Path, help="the library's repository")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    peer = importlib.import_module(f"peers.{options.peer}")
    if options.peer == "torchvision":
        outcomes = peer.run()
    elif options.checkout is None:
        parser.error(f"{options.peer} needs --checkout, the path of its repository")
    else:
        outcomes = peer.run(options.checkout.resolve())
    names = ("nfaug", "torch", options.peer)
    print(", ".join(f"{name} {version(name)}" for name in names), end="\n\n")
    print(outcomes.table(options.peer))


if __name__ == "__main__":
    main()
