"""Why classifiers trained on generated images prefer one kind of class gaussians to another.

    python -m benchmarks.generated --data /usr/share/datasets/fashion-mnist --padded 32

The paper's CNN-Acc is the accuracy on real images of a classifier that was trained on samples of
the flow alone. In its Table 3, far-apart means have the higher CNN-Acc; in `paper_tables.py`, with
short trainings, the lower. This script varies what differs: the length of the training, the weight
of the fixed point (distance of the means) and the temperature of the samples. One flow is trained
for each kind of gaussians, number of epochs and seed. Columns:

- NF-Acc and bits/dim on test images.
- CNN-Acc at each temperature T: latents from N(mu_y, T^2 Sigma_y).
- judge: share of these samples to which a classifier trained on real images gives their class.
- outside: share of decoded values more than 8 grey levels outside 0 to 255, before clipping.

Rows are appended to --csv; the same command continues there, and --print writes the table alone.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from itertools import groupby, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.paper_tables import DATA, MEANS, cnn_accuracy, config, fixed_point, key
from benchmarks.study.classifiers import resnet18
from nfaug.augment.preview import sample_images
from nfaug.data.batches import MemoryBatches
from nfaug.data.images import to_tensors
from nfaug.flows.flow import Flow
from nfaug.gaussians.gaussians import ClassGaussians
from nfaug.training import open_dataset, train
from nfaug.training.evaluation.classifier import accuracy, train_classifier
from nfaug.training.evaluation.metrics import evaluate

RESULTS = Path(__file__).parent / "results"
# The weight of the paper for 10 classes, a tenth of it (means at about a third of the distance),
# and the gaussians of the data.
PRIORS = {key(prior): prior for prior in (DATA, fixed_point("means", 333.0), MEANS)}
SAMPLES = 100  # per class, for the columns "judge" and "outside"
COLUMNS = (
    "data", "gaussians", "epochs", "seed", "temperature", "steps", "nf_acc", "bits_per_dim",
    "cnn_acc", "judge", "outside", "torch",
)  # fmt: skip


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="fashion-mnist", help="name of the data in the CSV")
    parser.add_argument("--data", help="training images; the split 'test' is used, too")
    parser.add_argument("--test-data", help="test images where they are not a split of --data")
    parser.add_argument("--padded", type=int, help="pad images to this size")
    parser.add_argument("--per-class", type=int, default=500)
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 20, 60])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.7, 0.4])
    parser.add_argument("--gaussians", nargs="+", default=list(PRIORS), choices=list(PRIORS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cnn-steps", type=int, default=300)
    parser.add_argument("--csv", type=Path, default=RESULTS / "generated.csv")
    parser.add_argument("--print", action="store_true", help="print the table and run nothing")
    args = parser.parse_args(words)
    if not args.print and args.data is None:
        parser.error("--data is needed (or --print)")
    return args


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def run(args: argparse.Namespace) -> None:
    """Train each flow that the CSV does not hold yet, and measure it."""
    done = {(r["data"], r["gaussians"], int(r["epochs"]), int(r["seed"])) for r in read(args.csv)}
    cells = [
        cell
        for cell in product(range(args.seeds), args.epochs, args.gaussians)
        if (args.name, cell[2], cell[1], cell[0]) not in done
    ]
    if not cells:
        return
    padded = None if args.padded is None else (args.padded, args.padded)
    test = to_tensors(
        open_dataset(args.data, split="test")
        if args.test_data is None
        else open_dataset(args.test_data),
        progress=False,
    )
    for seed, epochs, name in cells:
        dataset = open_dataset(args.data, per_class=args.per_class, seed=seed)
        judge = real_judge(*to_tensors(dataset, progress=False), seed=seed, steps=args.cnn_steps)
        result = train(dataset, config(PRIORS[name], epochs, seed, padded), progress=False)
        flow, gaussians = result.checkpoint.flow, result.checkpoint.gaussians
        assert gaussians is not None
        figures = evaluate(flow, gaussians, MemoryBatches(*test))
        rows = []
        for temperature in args.temperatures:
            share = cnn_accuracy(
                flow, gaussians, *test, temperature=temperature, steps=args.cnn_steps, seed=seed
            )
            labels = torch.arange(gaussians.num_classes).repeat_interleave(SAMPLES)
            generator = torch.Generator().manual_seed(seed + 1)
            samples = sample_images(
                flow, gaussians, labels, temperature=temperature, generator=generator
            )
            rows.append(
                {
                    "data": args.name,
                    "gaussians": name,
                    "epochs": epochs,
                    "seed": seed,
                    "temperature": temperature,
                    "steps": len(result.loss),
                    "nf_acc": f"{100 * figures['nf_acc']:.2f}",
                    "bits_per_dim": f"{figures['bits_per_dim']:.4f}",
                    "cnn_acc": f"{100 * share:.2f}",
                    "judge": f"{accuracy(judge, samples, labels):.4f}",
                    "outside": f"{outside(flow, gaussians, labels, temperature, seed):.4f}",
                    "torch": torch.__version__,
                }
            )
            print(rows[-1], flush=True)
        append(args.csv, rows)


def real_judge(images: Tensor, labels: Tensor, *, seed: int, steps: int) -> torch.nn.Module:
    """The classifier of CNN-Acc, trained on the real images that the flow saw."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = resnet18(images.shape[1], int(labels.max()) + 1, small=False)
    return train_classifier(
        model, images.__getitem__, labels, steps=steps, batch_size=64, seed=seed
    )


@torch.no_grad()
def outside(
    flow: Flow, gaussians: ClassGaussians, labels: Tensor, temperature: float, seed: int
) -> float:
    """Share of sampled values below -8 or above 263, before they become 8-bit values."""
    generator = torch.Generator().manual_seed(seed + 1)
    z = gaussians.sample(labels, temperature=temperature, generator=generator)
    frozen = flow.freeze()
    images = torch.cat(
        [frozen.inverse(part)[0] for part in z.unflatten(1, flow.config.shape).split(250)]
    )
    levels = 128 * (images + 1) - 0.5
    return float(((levels < -8) | (levels > 263)).float().mean())


def table(rows: list[dict[str, str]]) -> str:
    """Means over seeds as a Markdown table, one row for each flow and temperature."""
    columns = ("nf_acc", "bits_per_dim", "cnn_acc", "judge", "outside")
    lines = [
        "| data | gaussians | epochs | T | seeds | NF-Acc | bits/dim | CNN-Acc | judge | outside |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def cell(row: dict[str, str]) -> tuple[Any, ...]:
        return (row["data"], row["gaussians"], int(row["epochs"]), -float(row["temperature"]))

    for (data, name, epochs, minus_t), group in groupby(sorted(rows, key=cell), cell):
        mine = list(group)
        nf, bits, cnn, judge, out = (
            statistics.fmean(float(row[each]) for row in mine) for each in columns
        )
        lines.append(
            f"| {data} | {name} | {epochs} | {-minus_t:g} | {len(mine)} | {nf:.1f} | {bits:.2f} | "
            f"{cnn:.1f} | {judge:.2f} | {out:.3f} |"
        )
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    args = parse(words)
    if not args.print:
        run(args)
    text = table(read(args.csv))
    args.csv.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
