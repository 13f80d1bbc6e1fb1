"""Which classifier of frozen features: logistic regression, or Gaussians of the classes?

    python lab/frozen.py --data DATA --weights tf_efficientnet_lite0.safetensors
    python lab/frozen.py --print

For each of --sets, a pretrained network computes the features of all images once, at its own
resolution; --out keeps them. For each of --labels and each seed, labelled images of each class are
drawn, and each classifier is fitted to them and tested on all validation images:

- logistic regression with an L2 penalty that five folds choose;
- the same with the middle penalty, without folds;
- Gaussians with one covariance, whose shrinkage five folds choose: `lab/heads.py`.

--results gets a CSV file of each set. Then, or with --print alone, the tables of the study's page
are printed, and what its rule decides.
"""

import argparse
import base64
import csv
import io
import math
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clusters import names_of
from heads import gaussians
from numpy.typing import NDArray
from sets import SETS, parts_of
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

import nfaug
from nfaug.compare.config import CompareConfig
from nfaug.compare.figures import Cell, Gain, gain_of, student
from nfaug.compare.frozen import Features, FrozenNetwork, folds_of, input_size
from nfaug.data.batches import decode
from nfaug.data.images import Images
from nfaug.io.atomic import write_text

USUAL = ("cells", "clothes", "signs", "letters", "steel", "groceries")
FIRST_SEED = 200  # no study has drawn labelled images by these
LOGISTIC, MIDDLE, GAUSSIANS = "logistic regression", "middle penalty", "class Gaussians"
PENALTIES = [10.0**power for power in range(-6, 3)]  # scikit-learn's C, the strongest first
RULED = (5, 10, 25)  # labels a class at which no interval may lie below LOSS
MEANS = (5, 10)  # labels a class at which the mean gain must be above 0
FEW = (2,)  # the same of two labels a class, of which folds can choose nothing
LOSS = -1.0  # points of accuracy

Labels = NDArray[np.int64]
Found = Mapping[str, Mapping[tuple[str, int], Cell]]  # of each set: by row and seed


def logistic(
    features: Features, labels: Labels, test: Features, seed: int, *, choose: bool = True
) -> Labels:
    """Logistic regression as `nfaug compare` has it: its penalty is the strongest of the best.

    With one image a class, or without `choose`, it is the middle one.
    """
    scale = float(features.std(dtype=np.float64)) or 1.0
    # The solution lies in the span of the labelled features: fewer unknowns.
    span = PCA().fit(features.astype(np.float64) / scale)
    folds = folds_of(labels)
    model: Any = LogisticRegression(C=PENALTIES[len(PENALTIES) // 2], max_iter=300)
    if choose and folds > 1:
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
        model = GridSearchCV(model, {"C": PENALTIES}, cv=splits, error_score=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weak penalties never end
        model.fit(span.transform(features / scale), labels)
    guesses: Labels = model.predict(span.transform(test / scale))
    return guesses


def middle(features: Features, labels: Labels, test: Features, seed: int) -> Labels:
    """Logistic regression without folds."""
    return logistic(features, labels, test, seed, choose=False)


CLASSIFIERS = {LOGISTIC: logistic, MIDDLE: middle, GAUSSIANS: gaussians}


def row_name(classifier: str, labels: int) -> str:
    """The row of a classifier with so many labelled images a class."""
    return f"{classifier} from {labels}"


def features_of(args: argparse.Namespace, images: Images, file: Path) -> Features:
    """The features of all images, which are computed if the file is missing."""
    if not file.exists():
        config = CompareConfig(network=args.network, weights=str(args.weights), device="cpu")
        side, _ = input_size(config)
        network = FrozenNetwork(config, images.channels, (side, side))
        started = time.process_time()
        pixels = decode(images, progress=False)
        np.save(file, network.features(pixels))
        print(f"{file}: {time.process_time() - started:.0f} s", flush=True)
    features: Features = np.load(file)
    return features


def study(args: argparse.Namespace, name: str) -> None:
    """Fit and test all classifiers of a set, and write its rows."""
    _, side = input_size(CompareConfig(network=args.network, weights=str(args.weights)))
    pool, test = parts_of(args.data, name, side)
    features = features_of(args, pool, args.out / f"{name}-pool.npy")
    tested = features_of(args, test, args.out / f"{name}-test.npy")
    answers = test.targets.numpy()
    lines = []
    for labels in args.labels:
        for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
            few, _ = pool.split(per_class=labels, seed=seed)
            given = (features[few.rows.numpy()], few.targets.numpy(), tested, seed)
            for classifier, classify in CLASSIFIERS.items():
                started = time.process_time()
                right = classify(*given) == answers
                cell = Cell(right, time.process_time() - started)
                lines.append(line_of(row_name(classifier, labels), seed, cell))
        print(f"{name}, {labels} labelled images per class: done", flush=True)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("augmentation", "seed", "accuracy", "seconds", "right"))
    table.writerows(lines)
    write_text(args.results / f"{name}.csv", text.getvalue())


def line_of(row: str, seed: int, cell: Cell) -> tuple[object, ...]:
    """A line of a CSV file as `lab/tables.py` reads it; `right` is base64 of packed bits."""
    packed = base64.b64encode(np.packbits(cell.right).tobytes()).decode()
    return row, seed, f"{cell.accuracy:.4f}", f"{cell.seconds:.4f}", packed


def read(file: Path) -> dict[tuple[str, int], Cell]:
    """The cells of a CSV file, by row and seed."""
    found = {}
    with file.open(encoding="utf-8", newline="") as opened:
        for line in csv.DictReader(opened):
            bits = np.unpackbits(np.frombuffer(base64.b64decode(line["right"]), np.uint8))
            # The bits are padded to whole bytes.
            count = round(100 * bits.sum() / float(line["accuracy"]))
            cell = Cell(bits[:count] > 0, float(line["seconds"]))
            found[line["augmentation"], int(line["seed"])] = cell
    return found


def cells_of(found: Found, name: str, classifier: str, labels: int) -> list[Cell]:
    """The cells of a classifier in order of their seeds."""
    row = row_name(classifier, labels)
    seeds = sorted(seed for other, seed in found[name] if other == row)
    return [found[name][row, seed] for seed in seeds]


def gain_at(found: Found, name: str, labels: int) -> Gain:
    """The gain of the Gaussians over logistic regression."""
    ours = cells_of(found, name, GAUSSIANS, labels)
    others = cells_of(found, name, LOGISTIC, labels)
    return gain_of(ours, others, names_of(f"frozen/{name}"))


def mean_gain(found: Found, labels: int) -> tuple[float, float]:
    """The mean of the gains of all sets, and the half-width of its 95% interval over sets."""
    gains = [gain_at(found, name, labels).mean for name in found]
    if len(gains) < 2:
        return gains[0], math.inf
    error = statistics.stdev(gains) / len(gains) ** 0.5
    return statistics.fmean(gains), student(0.025, len(gains) - 1) * error


def numbers_of(found: Found) -> list[int]:
    """The labels a class that there are rows of."""
    rows = {row for cells in found.values() for row, _ in cells}
    return sorted({int(row.rpartition(" ")[2]) for row in rows})


def tables(found: Found) -> list[str]:
    """Means over the sets by labels a class, and the gain of the Gaussians on each set."""
    numbers = numbers_of(found)
    lines = [
        f"| labelled images per class | {LOGISTIC} | {MIDDLE} | {GAUSSIANS} | gain |",
        "|---|---|---|---|---|",
    ]
    for labels in numbers:
        words = [str(labels)]
        for classifier in CLASSIFIERS:
            accuracies = []
            for name in found:
                accuracies += [c.accuracy for c in cells_of(found, name, classifier, labels)]
            words.append(f"{statistics.fmean(accuracies):.1f}%")
        words.append("{:+.1f} ± {:.1f}".format(*mean_gain(found, labels)))
        lines.append(f"| {' | '.join(words)} |")
    lines += ["", f"| images | {' | '.join(map(str, numbers))} |"]
    lines.append("|---" * (1 + len(numbers)) + "|")
    for name in found:
        words = [SETS[name].title]
        words += [in_tenths(gain_at(found, name, labels)) for labels in numbers]
        lines.append(f"| {' | '.join(words)} |")
    return lines


def in_tenths(gain: Gain) -> str:
    """A gain with its 95% interval over seeds and images, which the rule compares with -1."""
    return f"{gain.mean:+.1f} ± {gain.half:.1f}"


def decided(found: Found, means: Sequence[int], ruled: Sequence[int]) -> str:
    """The classifier that the rule takes, and what speaks against the Gaussians."""
    against = []
    for labels in means:
        mean, _ = mean_gain(found, labels)
        if mean <= 0:
            against.append(f"a mean of {mean:+.2f} from {labels}")
    for labels in ruled:
        for name in found:
            gain = gain_at(found, name, labels)
            if gain.mean + gain.half < LOSS:
                against.append(f"{SETS[name].title} {in_tenths(gain)} from {labels}")
    return f"{LOGISTIC}, for {', '.join(against)}" if against else GAUSSIANS


def seconds(found: Found) -> list[str]:
    """The median and the longest time of each classifier, on one core."""
    lines = [f"| seconds of a core | {' | '.join(CLASSIFIERS)} |"]
    lines.append("|---" * (1 + len(CLASSIFIERS)) + "|")
    for labels in numbers_of(found):
        words = [f"{labels} labelled images per class"]
        for classifier in CLASSIFIERS:
            spent = []
            for name in found:
                spent += [cell.seconds for cell in cells_of(found, name, classifier, labels)]
            words.append(f"{statistics.median(spent):.3f}, at most {max(spent):.2f}")
        lines.append(f"| {' | '.join(words)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of tars")
    parser.add_argument("--weights", type=Path, help="pretrained weights")
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=USUAL)
    parser.add_argument("--labels", nargs="+", type=int, default=[1, 2, 5, 10, 25])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/frozen"), help="for features")
    parser.add_argument("--results", type=Path, default=Path("lab/results/frozen"))
    parser.add_argument("--print", action="store_true", help="print the tables and run nothing")
    args = parser.parse_args()
    if not args.print:
        if args.data is None or args.weights is None:
            parser.error("--data and --weights are needed (or --print)")
        print(nfaug.__file__, flush=True)
        torch.set_num_threads(1)  # seconds of a core
        args.out.mkdir(parents=True, exist_ok=True)
        args.results.mkdir(parents=True, exist_ok=True)
        for name in args.sets:
            study(args, name)
    found = {name: read(args.results / f"{name}.csv") for name in args.sets}
    print("\n".join([*tables(found), "", *seconds(found), ""]))
    numbers = numbers_of(found)
    if set(RULED) <= set(numbers):
        print(f"from {MEANS[0]}: {decided(found, MEANS, RULED)}")
    if set(FEW) <= set(numbers):
        print(f"from {FEW[0]}: {decided(found, FEW, FEW)}")


if __name__ == "__main__":
    main()
