"""After how much training do gains have the sign that they have after the usual 800 steps?

    python lab/short.py --data DATA

For each of --sets and each number of --steps, a small network is trained from scratch on
--per-class labelled images of each class: with what is safe for the images alone, with NFA in
pixels, and with RandAugment. A line of the file has the accuracy, and `left`: the mean training
loss of the last tenth of the steps, as a share of log(classes), the loss of a guess.
"""

import argparse
import csv
import io
import math
import time
from pathlib import Path

import torch
from sets import NFA, NOTHING, SETS, config_of, new_parser, opened, size_of
from torch import Tensor

from nfaug.compare.classifier import Classifier
from nfaug.compare.transforms import transform_of
from nfaug.compare.work import bank_of, draw_batch
from nfaug.data.batches import decode
from nfaug.io.atomic import write_text

RANDAUGMENT = "RandAugment"
METHODS = (NOTHING, NFA, RANDAUGMENT)
COLUMNS = (
    "set", "per_class", "steps", "method", "seed", "passes", "left", "accuracy", "seconds"
)  # fmt: skip
Line = dict[str, str]


def trained(args: argparse.Namespace, name: str, steps: int, method: str, seed: int) -> Line:
    """A line of the file."""
    pool, test = opened(args.data, name, size_of(args, name, "scratch"))
    started = time.process_time()
    config = config_of(argparse.Namespace(**{**vars(args), "steps": steps}), "scratch")
    few, _ = pool.split(per_class=args.per_class, seed=seed)
    images = decode(few, progress=False)
    labels = few.targets
    height, width = images.shape[2:]
    torch.manual_seed(seed)
    policy = "randaugment" if method == RANDAUGMENT else ""
    transform = transform_of(SETS[name].safe.split(","), policy, (height, width))
    bank = bank_of("builtin:pixels", few, config, seed) if method == NFA else None
    losses: list[Tensor] = []

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        return draw_batch(images, labels, bank, config.p, transform, rows)

    classifier = Classifier(config, images.shape[1:], len(few.classes), seed)
    classifier.train(draw, len(labels), losses.append)
    last = torch.stack(losses[-max(1, steps // 10) :]).mean()
    right = classifier.right(*test).float().mean()
    return {
        "set": name,
        "per_class": str(args.per_class),
        "steps": str(steps),
        "method": method,
        "seed": str(seed),
        "passes": f"{50 * steps / len(labels):.1f}",
        "left": f"{float(last) / math.log(len(few.classes)):.4f}",
        "accuracy": f"{100 * float(right):.3f}",
        "seconds": f"{time.process_time() - started:.1f}",
    }


def read(file: Path) -> list[Line]:
    """The lines of an earlier run; none without one."""
    if not file.exists():
        return []
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def write(file: Path, lines: list[Line]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text.getvalue())


def main() -> None:
    parser = new_parser(__doc__.splitlines()[0], "short")
    parser.add_argument("--steps", type=int, nargs="+", default=[30, 60, 120, 240, 480, 800])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    file = args.results / "rows.csv"
    lines = read(file)
    known = {tuple(line[name] for name in COLUMNS[:5]) for line in lines}
    labels = str(args.per_class)
    torch.set_num_threads(1)
    for seed in range(args.seeds):
        for name in args.sets:
            for steps in args.steps:
                for method in METHODS:
                    if (name, labels, str(steps), method, str(seed)) in known:
                        continue
                    lines.append(trained(args, name, steps, method, seed))
                    write(file, lines)
                    print(*lines[-1].values(), flush=True)


if __name__ == "__main__":
    main()
