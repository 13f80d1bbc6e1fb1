"""Which classifier of frozen features: logistic regression, or gaussians with one covariance.

    python benchmarks/frozen.py --data DATA --weights tf_efficientnet_lite0.safetensors

For each of --sets, a pretrained network computes the features of all images once, at its own
resolution. For each of --labels and each seed, labelled images of each class are drawn, and both
classifiers are fitted to them and judged by all validation images:

- logistic regression with an L2 penalty that cross-validation chooses;
- linear discriminant analysis: gaussians of the classes with one covariance, which is shrunken
  halfway to a multiple of the identity (arXiv:2402.04087).

--out keeps the features. --results gets a line for each classifier and draw, frozen.csv, and the
page frozen.md, which ends with what the figures decide.
"""

import argparse
import csv
import io
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from sets import SETS, command_of, over_sets, parts_of
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from nfaug.compare.figures import Cell, Gain, gain_of
from nfaug.data.images import LabelledImages, split_per_class
from nfaug.io.atomic import write_text

USUAL = ["cells", "clothes", "signs", "letters", "steel", "groceries"]
LOGISTIC = "logistic regression"
LDA = "LDA"
SKLEARN_LDA = "LDA of scikit-learn"
PENALTIES = [10.0**power for power in range(-6, 3)]  # scikit-learn's C, the strongest first
SHRINKAGE = 0.5
DECIDING = (5, 10)  # labels a class at which the mean gain must be large enough
ENOUGH = 1.0  # points of accuracy
TIMED = [("clothes", 10), ("signs", 10)]  # sets of 10 classes, and labels a class
BATCH = 32

Features = NDArray[np.float64]
Labels = NDArray[np.int64]


class Study(NamedTuple):
    """Features of a set: of the images that labelled ones are drawn from, and of those to judge by.

    `pool` has the labels of the first; its pixels are not read again.
    """

    pool: LabelledImages
    features: Features
    judged: Features
    answers: Labels


class Draw(NamedTuple):
    """What is classified: a set, labelled images of each class, and the seed that draws them."""

    name: str
    labels: int
    seed: int


Found = Mapping[Draw, Mapping[str, Cell]]


def study_of(args: argparse.Namespace, name: str) -> Study:
    """The features of a set, which are computed if --out has none."""
    architecture = timm.models.get_pretrained_cfg(args.network)
    side = architecture.input_size[-1]
    pool, judged = parts_of(args.data, name, round(side / architecture.crop_pct))
    found = []
    for part, images in (("pool", pool), ("judged", judged)):
        file = args.out / f"{name}-{part}.npy"
        if not file.exists():
            np.save(file, computed(images, args.network, args.weights, side))
            print(file, flush=True)
        found.append(np.load(file).astype(np.float64))
    return Study(pool, *found, judged.targets.numpy())


@torch.inference_mode()
def computed(images: LabelledImages, network: str, weights: Path, side: int) -> NDArray[np.float32]:
    """Pooled features (N, D) of the central part of images, side x side."""
    overlay = {"file": str(weights)}
    model = timm.create_model(
        network, True, num_classes=0, in_chans=images.channels, pretrained_cfg_overlay=overlay
    )
    model.eval().to(memory_format=torch.channels_last)
    moments = torch.tensor([model.pretrained_cfg["mean"], model.pretrained_cfg["std"]])
    if images.channels == 1:
        moments = moments.mean(1, keepdim=True)
    mean, std = moments[..., None, None]
    start = (images.image_size[0] - side) // 2
    central = slice(start, start + side)
    found = []
    for rows in torch.arange(len(images)).split(BATCH):
        batch = torch.stack([images.image(row) for row in rows.tolist()])[..., central, central]
        batch = batch.to(memory_format=torch.channels_last)
        found.append(model((batch.float() / 255 - mean) / std))
    return torch.cat(found).numpy()


def logistic(features: Features, labels: Labels, judged: Features, seed: int) -> Labels:
    """The classes that logistic regression guesses, with the penalty that was best in five folds.

    It is the strongest of equally good ones, and the middle one for one image per class.
    """
    penalty = PENALTIES[len(PENALTIES) // 2]
    folds = min(5, int(np.bincount(labels).min()))
    if folds > 1:
        right = np.zeros(len(PENALTIES))
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        for train, test in splitter.split(features, labels):
            guesses = regressions(features[train], labels[train], features[test], PENALTIES)
            right += [(guess == labels[test]).sum() for guess in guesses]
        penalty = PENALTIES[int(right.argmax())]
    (guesses,) = regressions(features, labels, judged, [penalty])
    return guesses


def regressions(
    features: Features, labels: Labels, judged: Features, penalties: Sequence[float]
) -> list[Labels]:
    """The classes that logistic regression guesses with each penalty.

    Features are centred, and divided by their overall standard deviation, so that a penalty means
    the same for every network.
    """
    mean = features.mean(0)
    scale = features.std()
    # The weights of the solution lie in the span of the features: fewer unknowns.
    axes, _ = np.linalg.qr((features - mean).T)
    train = (features - mean) / scale @ axes
    test = (judged - mean) / scale @ axes
    found = []
    for penalty in penalties:
        model = LogisticRegression(C=penalty, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties never end
            model.fit(train, labels)
        found.append(model.predict(test))
    return found


def lda(features: Features, labels: Labels, judged: Features, seed: int) -> Labels:
    """The classes that linear discriminant analysis guesses; nothing depends on the seed.

    With the pooled covariance S of the residuals, D features and the shrinkage s, the covariance of
    all classes is (1 - s) S + s tr(S) / D I. Outside of the span of the centred features it is a
    multiple of the identity, and all means are equal: in the span there are far fewer unknowns.

    It is a multiple of the identity where S is zero, as for one image per class: then the nearest
    mean decides.
    """
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    centre = features.mean(0)
    axes, _ = np.linalg.qr((features - centre).T)
    train = (features - centre) @ axes
    means = np.stack([train[labels == label].mean(0) for label in classes])
    residuals = train - means[numbers]
    pooled = residuals.T @ residuals / len(train)
    variance = np.trace(pooled) / features.shape[1] or 1.0
    shrunken = (1 - SHRINKAGE) * pooled + SHRINKAGE * variance * np.eye(len(pooled))
    directions = np.linalg.solve(shrunken, means.T)
    offsets = np.log(counts / len(train)) - (means.T * directions).sum(0) / 2
    return classes[((judged - centre) @ axes @ directions + offsets).argmax(1)]


def sklearn_lda(features: Features, labels: Labels, judged: Features, seed: int) -> Labels:
    """The same by scikit-learn, which raises ValueError for one image per class."""
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
    return model.fit(features, labels).predict(judged)


CLASSIFIERS = {LOGISTIC: logistic, LDA: lda, SKLEARN_LDA: sklearn_lda}


def cells_of(study: Study, draw: Draw) -> dict[str, Cell]:
    """The cell of each classifier, with the seconds of its choices, its fit and its guesses."""
    few, _ = split_per_class(study.pool, draw.labels, draw.seed)
    features = study.features[few.indices.numpy()]
    cells = {}
    for name, classify in CLASSIFIERS.items():
        if name == SKLEARN_LDA and (draw.name, draw.labels) not in TIMED:
            continue  # it takes seconds
        started = time.perf_counter()
        guesses = classify(features, few.targets.numpy(), study.judged, draw.seed)
        cells[name] = Cell(guesses == study.answers, time.perf_counter() - started)
    return cells


def draws_of(found: Found, name: str, labels: int) -> list[Mapping[str, Cell]]:
    """The cells of a set with so many labels, a seed each."""
    return [cells for draw, cells in found.items() if (draw.name, draw.labels) == (name, labels)]


def gain(found: Found, name: str, labels: int) -> Gain:
    """The gain of LDA over logistic regression."""
    draws = draws_of(found, name, labels)
    return gain_of([cells[LDA] for cells in draws], [cells[LOGISTIC] for cells in draws])


def mean_of(draws: Iterable[Mapping[str, Cell]], row: str) -> float:
    """The mean accuracy of a classifier, in per cent."""
    return float(np.mean([cells[row].accuracy for cells in draws]))


def rows(found: Found) -> str:
    """A line for each classifier and draw."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("set", "labels", "seed", "classifier", "accuracy", "seconds"))
    for draw, cells in found.items():
        for row, cell in cells.items():
            table.writerow((*draw, row, f"{cell.accuracy:.4f}", f"{cell.seconds:.3f}"))
    return text.getvalue()


def page(args: argparse.Namespace, found: Found) -> str:
    """The table of accuracies and gains, the means over sets, the seconds, and the decision."""
    lines = ["# Which classifier of frozen features", "", command_of("frozen.py"), ""]
    lines += [
        f"Features of {args.network} at its own resolution. {LDA} has the shrinkage {SHRINKAGE}; "
        f"with one label per class its covariance is the identity. Five folds choose C of "
        f"{LOGISTIC}. {args.seeds} seeds draw the labelled images; all validation images judge. ± "
        "is a 95% interval over seeds and images; that of a mean is over sets.",
        "",
        f"| labels per class | images | {LOGISTIC}, % | {LDA}, % | gain |",
        "|---|---|---|---|---|",
    ]
    for labels in args.labels:
        for name in args.sets:
            draws = draws_of(found, name, labels)
            accuracies = f"{mean_of(draws, LOGISTIC):.1f} | {mean_of(draws, LDA):.1f}"
            shown = in_tenths(gain(found, name, labels))
            lines.append(f"| {labels} | {SETS[name].title} | {accuracies} | {shown} |")
        both = [
            np.mean([mean_of(draws_of(found, name, labels), row) for name in args.sets])
            for row in (LOGISTIC, LDA)
        ]
        mean = over_sets([gain(found, name, labels).mean for name in args.sets])
        lines.append(f"| {labels} | **mean** | {both[0]:.1f} | {both[1]:.1f} | **{mean}** |")
    lines += ["", "## What it decides", "", decision(args, found), "", *seconds(found)]
    return "\n".join(lines) + "\n"


def in_tenths(gain: Gain) -> str:
    """A gain with one digit after the point, which is what the decision needs."""
    return f"{gain.mean:+.1f} ± {gain.half:.1f}"


def decision(args: argparse.Namespace, found: Found) -> str:
    """The rule, and which classifier it takes."""
    deciding = " and ".join(str(labels) for labels in DECIDING)
    means = []
    for labels in DECIDING:
        means.append(np.mean([gain(found, name, labels).mean for name in args.sets]))
    losses = []
    for labels in args.labels:
        for name in args.sets:
            found_gain = gain(found, name, labels)
            if found_gain.mean + found_gain.half < -ENOUGH:
                losses.append(f"{SETS[name].title} with {labels} ({in_tenths(found_gain)})")
    taken = LDA if min(means) > ENOUGH and not losses else LOGISTIC
    return (
        f"{LDA} is taken if its mean gain over the sets is above {ENOUGH:+g} with {deciding} "
        f"labels per class, and no interval lies below {-ENOUGH:+g} as a whole. The means are "
        f"{' and '.join(f'{mean:+.1f}' for mean in means)}; intervals that lie below: "
        f"{', '.join(losses) or 'none'}. So it is **{taken}**."
    )


def seconds(found: Found) -> list[str]:
    """A table of the median time of each classifier, and whether both kinds of LDA agree."""
    draws = [cells for name, labels in TIMED for cells in draws_of(found, name, labels)]
    if not draws:
        return []
    different = sum(int((cells[LDA].right != cells[SKLEARN_LDA].right).sum()) for cells in draws)
    total = sum(len(cells[LDA].right) for cells in draws)
    lines = [
        "## Seconds",
        "",
        f"Medians of {len(draws)} draws of 10 labels of each of 10 classes, on one core: choices, "
        f"fit and guesses. {LDA} and that of scikit-learn differ in whether they are right for "
        f"{different:,} of {total:,} images.",
        "",
        "| | seconds |",
        "|---|---|",
    ]
    for row in CLASSIFIERS:
        median = np.median([cells[row].seconds for cells in draws])
        lines.append(f"| {row} | {median:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of tars")
    parser.add_argument("--weights", type=Path, required=True, help="pretrained weights")
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=USUAL)
    parser.add_argument("--labels", nargs="+", type=int, default=[1, 5, 10, 25])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/frozen"), help="for features")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    if not set(DECIDING) <= set(args.labels):
        parser.error(f"--labels must contain {DECIDING}, which decide; got {args.labels}")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found: dict[Draw, dict[str, Cell]] = {}
    for name in args.sets:
        study = study_of(args, name)
        for labels in args.labels:
            for seed in range(args.seeds):
                draw = Draw(name, labels, seed)
                found[draw] = cells_of(study, draw)
            print(name, labels, in_tenths(gain(found, name, labels)), flush=True)
    write_text(args.results / "frozen.csv", rows(found))
    write_text(args.results / "frozen.md", page(args, found))


if __name__ == "__main__":
    main()
