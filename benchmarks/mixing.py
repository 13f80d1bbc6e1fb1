"""What mixing does to images: where the variance lies, what changes, and what a judge sees.

    python -m benchmarks.mixing --name cifar10 --data TRAIN --work DIR --minutes 20
    python -m benchmarks.mixing --name fashion-mnist --work DIR --arms "builtin:pixels" "my-flow"

An arm is a flow, then settings of the study (`benchmarks/study/banks.py`), quoted for the shell:
"builtin:rgb32 strength=1.5 gate=off". The axes are fitted to 50 labelled images per class, and each
image gets --variants variants. The judge is a classifier trained on the labels of all training
images but the validation images; it is kept in --work. Validation images are the study's.

Columns:

- variance: share of a class's variance in its first 1, 5 and 20 axes.
- change: root mean square of variant - image, in grey levels.
- low: share of that change that remains after averaging over blocks of 4 x 4 pixels.
- agrees: share of variants to which the judge gives the label of their image.
- nearest: distance from a variant to the nearest validation image of its class, in the judge's
  features, divided by the same for the labelled images themselves.
- spread: mean distance between two variants of one image, divided by that between two images of one
  class.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import nfaug
from benchmarks.study.banks import nfa_bank
from benchmarks.study.classifiers import prepared
from benchmarks.study.data import DATASETS, DataSet, held_out, labelled, training_images
from benchmarks.study.judge import Judge, trained_judge
from nfaug.data.images import LabelledImages, TensorImages, to_tensors
from nfaug.fitting import with_shape_of

_SETTINGS = "strength=1.5 gate=off"
ARMS = ("builtin:pixels", "builtin:rgb32")
AXES = (1, 5, 20)
COLUMNS = (
    "flow",
    "settings",
    "variance in 1 / 5 / 20 axes",
    "change",
    "low",
    "agrees",
    "nearest",
    "spread",
)
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Measured:
    """One row of the table, and the cumulative share of variance by axis for the plot."""

    arm: str
    share: Tensor
    change: float
    low: float
    agrees: float
    nearest: float
    spread: float

    def row(self) -> str:
        flow, _, settings = self.arm.partition(" ")
        shares = " / ".join(f"{self.share[min(n, len(self.share)) - 1]:.2f}" for n in AXES)
        figures = f"{self.change:.1f} | {self.low:.2f} | {self.agrees:.3f} | {self.nearest:.2f}"
        return f"| {Path(flow).name} | {settings} | {shares} | {figures} | {self.spread:.2f} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="fashion-mnist", help="of the data set")
    parser.add_argument("--data", help="training images; needed for a new --name")
    parser.add_argument("--judge-data", help="training images of the judge; default --data")
    parser.add_argument("--work", type=Path, required=True, help="folder for the judge")
    parser.add_argument("--minutes", type=float, default=20, help="training time of the judge")
    parser.add_argument("--arms", nargs="+", default=[f"{flow} {_SETTINGS}" for flow in ARMS])
    parser.add_argument("--per-class", type=int, default=50)
    parser.add_argument("--seed", type=int, default=100, help="of the labelled images and draws")
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    parser.add_argument(
        "--plot", type=Path, help="draw shares of variance and agreement to this file"
    )
    args = parser.parse_args(arguments)
    known = DATASETS.get(args.name) or DataSet(args.name, args.data)
    data = replace(known, path=args.data) if args.data else known
    judged = replace(data, path=args.judge_data) if args.judge_data else data
    few, held = labelled(data, args.per_class, args.seed), held_out(data, "validation")
    judge = trained_judge(
        without(training_images(judged), held.images),
        args.work / f"judge-{data.name}.safetensors",
        args.minutes,
    )
    guesses = torch.cat([judge(prepared(part)).argmax(1) for part in held.images.split(250)])
    accuracy = 100 * float((guesses == held.labels).float().mean())
    lines = [
        f"## {data.name}",
        "",
        f"The judge is right on {accuracy:.1f}% of {len(held.labels)} validation images.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
    ]
    print("\n".join(lines), flush=True)
    found = []
    for arm in args.arms:
        found.append(measure(arm, few, judge, held, args.variants, args.seed))
        lines.append(found[-1].row())
        print(lines[-1], flush=True)
    if args.markdown:
        args.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if args.plot:
        draw(found, args.plot, data.name)


def without(images: LabelledImages, held: Tensor) -> TensorImages:
    """The images that are not among `held` (N, C, H, W), compared by their pixels."""
    pixels, labels = to_tensors(images, progress=False)
    out = {image.numpy().tobytes() for image in held}
    rows = torch.tensor([n for n, x in enumerate(pixels) if x.numpy().tobytes() not in out])
    return TensorImages(pixels[rows], labels[rows], images.classes)


@torch.no_grad()
def measure(
    arm: str, few: TensorImages, judge: Judge, held: tuple[Tensor, Tensor], variants: int, seed: int
) -> Measured:
    """Make a bank of variants and measure it."""
    flow, _, words = arm.partition(" ")
    settings = dict(word.split("=", 1) for word in words.split())
    checkpoint = with_shape_of(nfaug.load(flow), few)
    bank = nfa_bank(checkpoint, few, {**settings, "variants": str(variants)}, seed)
    own, labels = features(judge, few.images), few.targets
    real, real_labels = features(judge, held[0]), held[1]
    new = features(judge, bank.flatten(0, 1)).unflatten(0, bank.shape[:2])  # (N, V, 128)
    change = bank.float() - few.images[:, None].float()
    coarse = F.avg_pool2d(change.flatten(0, 1), 4)
    classes = range(len(few.classes))

    def nearest(points: Tensor) -> float:
        """Mean distance to the nearest validation image of the class, for points (N, n, 128)."""
        found = [
            torch.cdist(points[labels == y].flatten(0, 1), real[real_labels == y]).amin(1)
            for y in classes
        ]
        return float(torch.cat(found).mean())

    within = torch.cat([torch.pdist(own[labels == y]) for y in classes]).mean()
    between = torch.stack([torch.pdist(each).mean() for each in new]).mean()
    return Measured(
        arm=arm,
        share=variance_by_axis(checkpoint, few),
        change=float(change.square().mean().sqrt()),
        low=float(coarse.square().mean() / change.square().mean()),
        agrees=float((judge.head(new).argmax(2) == labels[:, None]).float().mean()),
        nearest=nearest(new) / nearest(own[:, None]),
        spread=float(between / within),
    )


def features(judge: Judge, images: Tensor) -> Tensor:
    """The judge's features (N, 128) of uint8 images."""
    return torch.cat([judge.features(prepared(part)) for part in images.split(250)])


def variance_by_axis(checkpoint: nfaug.Checkpoint, few: TensorImages) -> Tensor:
    """Cumulative share of a class's latent variance by axis, averaged over classes; (N - 1,)."""
    flow = checkpoint.flow.freeze()
    z = torch.cat([flow.encode(part)[0].flatten(1) for part in few.images.split(128)])
    shares = []
    for y in range(len(few.classes)):
        centred = (z[few.targets == y] - z[few.targets == y].mean(0)).double()
        values = torch.linalg.eigvalsh(centred @ centred.T).flip(0)[:-1].clamp(min=0)
        shares.append(values.cumsum(0) / values.sum())
    fewest = min(len(share) for share in shares)
    return torch.stack([share[:fewest] for share in shares]).mean(0)


def draw(found: list[Measured], path: Path, title: str) -> None:
    """The cumulative share of variance by axis; agreement of the judge against spread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 3.8))
    lines = {Path(each.arm.partition(" ")[0]).name: each.share for each in found}
    for name, share in lines.items():
        left.plot(range(1, len(share) + 1), share, label=name)
    count = max(map(len, lines.values()))
    left.plot([1, count], [1 / count, 1], "k:", label="all axes alike")
    left.set(xlabel="axes", ylabel="share of a class's variance", title=title, ylim=(0, 1))
    left.legend(fontsize=8)
    words = [each.arm.split()[1:] for each in found]
    for each, own in zip(found, words, strict=True):
        flow = each.arm.split()[0]
        settings = " ".join(word for word in own if any(word not in other for other in words))
        colour = f"C{list(lines).index(Path(flow).name)}"
        right.plot(each.spread, each.agrees, "o", color=colour)
        right.annotate(
            settings,
            (each.spread, each.agrees),
            fontsize=7,
            xytext=(4, 4),
            textcoords="offset points",
        )
    right.set(
        xlabel="spread of an image's variants / of its class",
        ylabel="judge gives variants their class",
        title="up: labels kept; right: more variety",
    )
    right.margins(0.25, 0.15)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
