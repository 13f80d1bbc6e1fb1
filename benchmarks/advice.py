"""How often `nfaug compare` advises what: simulated comparisons whose gains are known.

    python benchmarks/advice.py --out benchmarks/results/advice.csv

Each simulated comparison has a row without an augmentation and --rivals others, of which the first
gains --gains points and the rest nothing. A classifier is right on an image if the sum of the row's
gain, the seed's luck, the row's luck in that seed, the image's ease, the row's liking for the image
and noise is above zero. All are normal; with "heavy tails" the row's luck has Student's t with two
degrees of freedom, and with "collapses" each row but the first falls to chance in 8% of seeds.
Every figure follows from the options and --seed. A line of the file has percents of comparisons:
that advise the row that gains (found), one without an effect (wrong), or none (keep), or give no
advice, and the gain that was named, in points.
"""

import argparse
import csv
import io
from pathlib import Path
from statistics import NormalDist

import numpy as np

from nfaug.compare.advice import finding_of
from nfaug.compare.figures import LEAST_IMAGES, Cell
from nfaug.compare.rows import PIXELS, Row
from nfaug.io.atomic import write_text

NORMAL = NormalDist()
# Standard deviations: seed, image, row on an image, noise. That of a row in a seed is --luck: 0.06
# are two points of accuracy, and 0.2 six, as RandAugment has on steel.
SEED, IMAGE, LIKING, NOISE = 0.1, 1.0, 0.15, 0.5
ACCURACY = 0.65
CHANCE = 0.1
COLLAPSES = 0.08  # of the seeds
RIVALS = (
    Row(PIXELS), Row("", "randaugment"), Row("", "mixup"), Row(PIXELS, "randaugment"),
    Row("", "trivialaugment"),
)  # fmt: skip
KINDS = ("normal", "heavy tails", "collapses")


def simulated(
    gain: float,
    seeds: int,
    images: int,
    kind: str,
    args: argparse.Namespace,
    random: np.random.Generator,
) -> dict[Row, dict[int, Cell]]:
    """The cells of a comparison."""
    rows = [Row(), *RIVALS[: args.rivals]]
    spread = np.sqrt(np.sum(np.square([SEED, args.luck, IMAGE, LIKING, NOISE])))
    quality = dict.fromkeys(rows, spread * NORMAL.inv_cdf(ACCURACY))
    quality[rows[1]] = spread * NORMAL.inv_cdf(ACCURACY + gain / 100)
    ease = IMAGE * random.standard_normal(images)
    liking = {row: LIKING * random.standard_normal(images) for row in rows}
    cells: dict[Row, dict[int, Cell]] = {row: {} for row in rows}
    for seed in range(seeds):
        luck = SEED * random.standard_normal()
        for row in rows:
            own = random.standard_t(2) if kind == "heavy tails" else random.standard_normal()
            noise = NOISE * random.standard_normal(images)
            right = quality[row] + luck + args.luck * own + ease + liking[row] + noise > 0
            if kind == "collapses" and row != rows[0] and random.random() < COLLAPSES:
                right = random.random(images) < CHANCE
            cells[row][seed] = Cell(right, 1.0)
    return cells


def shares(
    gain: float, seeds: int, images: int, kind: str, args: argparse.Namespace
) -> dict[str, float | str]:
    """A line of the CSV file: how many comparisons in a hundred give which advice."""
    random = np.random.default_rng(args.seed)
    found = {"found": 0, "wrong": 0, "keep": 0, "no_advice": 0}
    named = []
    for _ in range(args.runs):
        cells = simulated(gain, seeds, images, kind, args, random)
        rows = list(cells)
        finding = finding_of(rows, cells, planned=args.rivals)
        if finding is None:
            found["no_advice"] += 1
        elif finding.best == rows[0]:
            found["keep"] += 1
        elif finding.best == rows[1] and gain:
            found["found"] += 1
            named.append(finding.gain.mean)
        else:
            found["wrong"] += 1
    line: dict[str, float | str] = {"luck": kind, "gain": gain, "images": images, "seeds": seeds}
    line |= {answer: round(100 * count / args.runs, 1) for answer, count in found.items()}
    return line | {"named": round(float(np.mean(named)), 1) if named else ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gains", type=float, nargs="+", default=[0, 1, 3, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--rivals", type=int, default=4)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 2000])
    parser.add_argument("--few", type=int, nargs="+", default=[2, 4, 10, 29, 30, 50])
    parser.add_argument("--luck", type=float, default=0.06, help="of a row in a seed")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cases = []
    for kind in KINDS:
        for gain in args.gains:
            for images in args.images:
                cases += [(gain, seeds, images, kind) for seeds in args.seeds]
    for images in args.few:
        cases += [(0.0, seeds, images, "normal") for seeds in args.seeds]
    lines = []
    for case in cases:
        lines.append(shares(*case, args))
        print(*lines[-1].values(), flush=True)
    worst = max(float(line["wrong"]) for line in lines if line["gain"] == 0)
    print(
        f"Without any effect a row is advised in {worst:.1f}% of comparisons at most. Advice needs "
        f"{LEAST_IMAGES} test images and three seeds."
    )
    if args.out is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_text(args.out, text.getvalue())


if __name__ == "__main__":
    main()
