"""How often `nfaug compare` advises what: simulated comparisons whose gains are known.

    python benchmarks/advice.py --out benchmarks/results/advice.md

Each simulated comparison has a row without an augmentation and --rivals others, of which the first
gains --gains points and the rest nothing. A classifier is right on an image if the sum of the row's
gain, the seed's luck, the row's luck in that seed, the image's ease, the row's liking for the image
and noise is above zero, all normal. The user starts with --seeds and goes on as long as the advice
asks for more seeds, up to --most. Every figure follows from the options and --seed.
"""

import argparse
from collections import Counter
from pathlib import Path
from statistics import NormalDist

import numpy as np

from nfaug.compare.report.advice import finding_of, limited_by_images, seeds_needed
from nfaug.compare.report.figures import Cell
from nfaug.compare.rows import PIXELS, Row

NORMAL = NormalDist()
# Standard deviations: seed, image, row on an image, noise. That of a row in a seed is --luck: 0.06
# are two points of accuracy, and 0.2 six, as RandAugment has on steel.
SEED, IMAGE, LIKING, NOISE = 0.1, 1.0, 0.15, 0.5
ACCURACY = 0.65
RIVALS = (
    Row(PIXELS), Row("", "randaugment"), Row("", "trivialaugment"),
    Row(PIXELS, "randaugment"), Row(PIXELS, "trivialaugment"),
)  # fmt: skip


class Simulation:
    """The cells of a comparison, seed by seed."""

    def __init__(
        self, gain: float, rivals: int, images: int, luck: float, random: np.random.Generator
    ) -> None:
        self.rows = [Row(), *RIVALS[:rivals]]
        self.random = random
        self.luck = luck
        spread = np.sqrt(np.sum(np.square([SEED, luck, IMAGE, LIKING, NOISE])))
        level = NORMAL.inv_cdf(ACCURACY)
        raised = NORMAL.inv_cdf(ACCURACY + gain / 100)
        self.quality = dict.fromkeys(self.rows, spread * level)
        self.quality[self.rows[1]] = spread * raised
        self.ease = IMAGE * random.standard_normal(images)
        self.liking = {row: LIKING * random.standard_normal(images) for row in self.rows}
        self.cells: dict[Row, dict[int, Cell]] = {row: {} for row in self.rows}

    def grow(self, seeds: int) -> None:
        """Add seeds until there are so many."""
        for seed in range(len(self.cells[self.rows[0]]), seeds):
            luck = SEED * self.random.standard_normal()
            for row in self.rows:
                own = self.quality[row] + luck + self.luck * self.random.standard_normal()
                noise = NOISE * self.random.standard_normal(len(self.ease))
                right = own + self.ease + self.liking[row] + noise > 0
                self.cells[row][seed] = Cell(right, 1.0)


def advised(simulation: Simulation, seeds: int, most: int) -> tuple[str, float, int]:
    """The last advice, the gain that it names, and the seeds, for a user who follows it."""
    for look in range(1, 100):
        simulation.grow(seeds)
        finding = finding_of(simulation.rows, simulation.cells, look)
        assert finding is not None
        if finding.best == simulation.rows[1]:
            return "the row that gains", finding.gain.mean, seeds
        if finding.best != simulation.rows[0]:
            return "another row", finding.gain.mean, seeds
        if finding.no_effect:
            return "no effect of a point", finding.gain.mean, seeds
        if finding.gain.mean <= 0:
            return "keep what you have", finding.gain.mean, seeds
        if limited_by_images(finding.gain):
            return "more images", finding.gain.mean, seeds
        if seeds == most:
            return "not clear", finding.gain.mean, seeds
        seeds = min(most, seeds_needed(finding.gain, finding.compared, look))
    raise AssertionError("more than 100 looks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gains", type=float, nargs="+", default=[0, 1, 3, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10], help="of the first run")
    parser.add_argument("--most", type=int, default=40)
    parser.add_argument("--rivals", type=int, default=5)
    parser.add_argument("--images", type=int, nargs="+", default=[300, 2000])
    parser.add_argument("--luck", type=float, default=0.06, help="of a row in a seed")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    answers = ("the row that gains", "another row", "no effect of a point", "keep what you have")
    answers += ("more images", "not clear")
    lines = [
        f"| gain | images | seeds | {' | '.join(answers)} | gain that is named | last seeds |",
        "|---" * (5 + len(answers)) + "|",
    ]
    for gain in args.gains:
        for images in args.images:
            for seeds in args.seeds:
                random = np.random.default_rng(args.seed)
                found = []
                for _ in range(args.runs):
                    simulation = Simulation(gain, args.rivals, images, args.luck, random)
                    found.append(advised(simulation, seeds, args.most))
                counts = Counter(answer for answer, _, _ in found)
                shares = [f"{100 * counts[answer] / args.runs:.1f}%" for answer in answers]
                named = [mean for answer, mean, _ in found if answer == answers[0]]
                shown = f"{np.mean(named):+.1f}" if named and gain else ""
                last = f"{np.mean([count for _, _, count in found]):.0f}"
                figures = [f"{gain:+g}", str(images), str(seeds), *shares, shown, last]
                lines.append(f"| {' | '.join(figures)} |")
                print(lines[-1], flush=True)
    given = f"--runs {args.runs} --rivals {args.rivals} --luck {args.luck:g}"
    command = f"`python benchmarks/advice.py {given}`"
    text = "\n".join(lines) + f"\n\nShares of {args.runs} simulated comparisons; {command}.\n"
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
