"""How often `nfaug compare` advises what: simulated comparisons whose gains are known.

    python benchmarks/advice.py --out benchmarks/results/advice.csv

Each simulated comparison has nothing more and some rivals, of which the first ones gain some points
and the rest nothing. A classifier is right on an image if the sum of the method's gain, the seed's
luck, the method's luck in that seed, the image's ease, the method's liking for the image and noise
is above zero. All are normal; with "heavy tails" the method's luck has Student's t with two degrees
of freedom, and with "collapses" each rival falls to chance in 8% of seeds.

A comparison with several looks goes on with more seeds: "5+10+20" has advice after 5, 10 and 20,
and is wrong if any of the three is. Every figure follows from the options and --seed. A line of the
file has percents of comparisons: that advise a method that gains (found), one without an effect
(wrong), or none (keep), or give no advice, and the gain that was named, in points.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from nfaug.compare.advice import finding_of
from nfaug.compare.figures import LEAST_IMAGES, Cell
from nfaug.compare.methods import PIXELS, Method
from nfaug.io.atomic import write_text

NORMAL = NormalDist()
# Standard deviations: seed, image, method on an image, noise. That of a method in a seed is --luck:
# 0.06 are two points of accuracy, and 0.2 six, as RandAugment has on steel.
SEED, IMAGE, LIKING, NOISE = 0.1, 1.0, 0.15, 0.5
ACCURACY = 0.65
CHANCE = 0.1
COLLAPSES = 0.08  # of the seeds
NOTHING = Method()
RIVALS = (
    Method(PIXELS), Method("", "randaugment"), Method("", "mixup"), Method(PIXELS, "randaugment"),
    Method("", "trivialaugment"),
)  # fmt: skip
KINDS = ("normal", "heavy tails", "collapses")
LOOKS = ((3,), (5,), (10,), (5, 10, 20))
#: About 15 trainings, on the demo's 675 test images: rivals and seeds.
DEMOS = ((1, 7), (2, 5), (3, 4), (4, 3))


class Case(NamedTuple):
    """What is simulated: so many rivals, of which the first gain some points, and the looks."""

    kind: str
    gain: float
    images: int
    looks: tuple[int, ...]
    rivals: int
    gaining: int = 1


def simulated(
    case: Case, luck: float, random: np.random.Generator
) -> dict[Method, dict[int, Cell]]:
    """The cells of a comparison."""
    rivals = RIVALS[: case.rivals]
    spread = np.sqrt(np.sum(np.square([SEED, luck, IMAGE, LIKING, NOISE])))
    quality = dict.fromkeys([NOTHING, *rivals], spread * NORMAL.inv_cdf(ACCURACY))
    for method in rivals[: case.gaining]:
        quality[method] = spread * NORMAL.inv_cdf(ACCURACY + case.gain / 100)
    ease = IMAGE * random.standard_normal(case.images)
    liking = {method: LIKING * random.standard_normal(case.images) for method in quality}
    cells: dict[Method, dict[int, Cell]] = {method: {} for method in quality}
    for seed in range(case.looks[-1]):
        of_seed = SEED * random.standard_normal()
        for method in quality:
            own = random.standard_normal()
            if case.kind == "heavy tails":
                own = random.standard_t(2)
            noise = NOISE * random.standard_normal(case.images)
            right = quality[method] + of_seed + luck * own + ease + liking[method] + noise > 0
            if case.kind == "collapses" and method != NOTHING and random.random() < COLLAPSES:
                right = random.random(case.images) < CHANCE
            cells[method][seed] = Cell(right, 1.0)
    return cells


def answer(case: Case, cells: dict[Method, dict[int, Cell]]) -> tuple[str, float]:
    """What is advised over all looks, and the gain that is named at the last one."""
    methods = list(cells)
    gaining = RIVALS[: case.gaining] if case.gain else ()
    named, last = "no_advice", 0.0
    for later, seeds in enumerate(case.looks):
        known = {method: dict(list(found.items())[:seeds]) for method, found in cells.items()}
        finding = finding_of(methods, known, later)
        if finding is None:
            continue
        if finding.best == NOTHING:
            named = "keep"
        elif finding.best in gaining:
            named, last = "found", finding.gain.mean
        else:
            return "wrong", 0.0
    return named, last


def shares(case: Case, args: argparse.Namespace) -> dict[str, float | str]:
    """A line of the CSV file: how many comparisons in a hundred give which advice."""
    random = np.random.default_rng(args.seed)
    found = {"found": 0, "wrong": 0, "keep": 0, "no_advice": 0}
    gains = []
    for _ in range(args.runs):
        named, gain = answer(case, simulated(case, args.luck, random))
        found[named] += 1
        if named == "found":
            gains.append(gain)
    line: dict[str, float | str] = {"luck": case.kind, "gain": case.gain, "images": case.images}
    line |= {"seeds": "+".join(map(str, case.looks)), "rivals": case.rivals}
    line["gaining"] = case.gaining
    line |= {name: round(100 * count / args.runs, 1) for name, count in found.items()}
    return line | {"named": round(float(np.mean(gains)), 1) if gains else ""}


def cases_of(gains: Sequence[float], images: Sequence[int], few: Sequence[int]) -> list[Case]:
    """What is simulated."""
    cases = []
    for kind in KINDS:
        for gain in gains:
            for count in images:
                cases += [Case(kind, gain, count, looks, 4) for looks in LOOKS]
    for count in few:
        cases += [Case("normal", 0.0, count, looks, 4) for looks in LOOKS[:3]]
    for kind in KINDS:
        for rivals, seeds in DEMOS:
            for gain in (0.0, 5.0):
                cases.append(Case(kind, gain, 675, (seeds,), rivals, gaining=rivals))
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gains", type=float, nargs="+", default=[0, 1, 3, 5])
    parser.add_argument("--images", type=int, nargs="+", default=[300, 2000])
    parser.add_argument("--few", type=int, nargs="+", default=[2, 4, 10, 29, 30, 50])
    parser.add_argument("--luck", type=float, default=0.06, help="of a method in a seed")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = []
    for case in cases_of(args.gains, args.images, args.few):
        lines.append(shares(case, args))
        print(*lines[-1].values(), flush=True)
    for count, seeds in enumerate((LOOKS[:3], LOOKS[3:]), start=1):
        names = {"+".join(map(str, looks)) for looks in seeds}
        wrong = [line["wrong"] for line in lines if line["gain"] == 0 and line["seeds"] in names]
        shown = "one look" if count == 1 else "three looks"
        print(f"Without any effect, {shown}: advised in {max(map(float, wrong)):.1f}% at most.")
    print(f"Advice needs {LEAST_IMAGES} test images and three seeds.")
    if args.out is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_text(args.out, text.getvalue())


if __name__ == "__main__":
    main()
