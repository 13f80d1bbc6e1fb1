"""Does the fixed point converge with a higher weight by Eq. 9 than by Eq. 10, as the paper says?

    python lab/paper_solves.py --name fashion-mnist --data runs/fashion-mnist-train.npz

trains the flow of paper_released.py for its first epoch, under the data's Gaussians, and solves the
fixed point of its latents with each pi at weights from 10 to 1,000,000: the iterations of each
solve, of at most 1,000, or its residual, or where it diverged. Without damping the solve is the
authors'.
"""

from __future__ import annotations

import argparse

import torch
from paper_released import KINDS, fixed_point, tables_of
from paper_tables import config
from torch import Tensor

from nfaug import open_dataset
from nfaug.classes.fixed_point import FixedPointConfig, FixedPointDivergence, solve
from nfaug.data.batches import decode
from nfaug.training import train

WEIGHTS = tuple(10**power for power in range(1, 7))
KERNELS = {"forward": "Eq. 9", "mean": "Eq. 10"}


def latents(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Means and variances of the classes, (K, d), after one epoch."""
    few, _ = open_dataset(args.data, progress=False).split(per_class=args.per_class)
    data = tables_of(args.name)["3"][0].prior
    flow = train(few, config=config(args, data, 0), progress=False).checkpoint.flow.freeze()
    images = decode(few, progress=False)
    labels = few.targets
    z = torch.cat([flow.encode(part)[0].flatten(1) for part in images.split(128)]).double()
    of_class = [z[labels == label] for label in range(len(few.classes))]
    means = torch.stack([each.mean(0) for each in of_class])
    return means, torch.stack([each.var(0, correction=0) for each in of_class])


def solved(means: Tensor, variances: Tensor, settings: FixedPointConfig) -> str:
    """What became of a solve."""
    try:
        result = solve(means, variances, settings)
    except FixedPointDivergence as error:
        return f"**diverges** at {error.iteration}"
    if result.converged:
        return str(result.iterations)
    return f"**not converged**, residual {result.residual:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", choices=list(KINDS), default="fashion-mnist")
    parser.add_argument("--data", required=True)
    parser.add_argument("--per-class", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.padded, args.epochs = KINDS[args.name].padded, 1
    moments = latents(args)
    print(f"| fit | pi | damping | {' | '.join(f'c = {weight:,}' for weight in WEIGHTS)} |")
    print("|---" * (len(WEIGHTS) + 3) + "|")
    for fit in ("means", "both"):
        for kernel, title in KERNELS.items():
            for damping in (1.0, 0.5):
                words = [fit, title, f"{damping:g}"]
                for weight in WEIGHTS:
                    settings = fixed_point(fit, weight, kernel, damping=damping).fixed_point
                    words.append(solved(*moments, settings))
                print(f"| {' | '.join(words)} |", flush=True)


if __name__ == "__main__":
    main()
