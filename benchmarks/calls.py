"""CPU milliseconds an image of one call: NFA beside RandAugment, MixUp and others.

    git worktree add --detach ../base 565c2fb
    python benchmarks/calls.py                                # batches of 64
    python benchmarks/calls.py --batch 1 8 --sizes 32 64      # what a call costs at least
    python benchmarks/calls.py --rows axis regions --before ../base

NFA mixes 10 classes of 20 images, in pixels by axis, by pair and by regions, and with
builtin:rgb32. All others have the settings that they come with, as transforms of one image
(RandAugment, TrivialAugmentWide, AugMix and albumentations' Compose, which are called for each
image of a batch) or of a batch (MixUp, CutMix). p is that of NFA. A dash stands for a type or a
batch that a transform refuses.

One process and one thread measure all rows of a size in turns, each time for 20 ms at least; a
figure is the median over rounds, with its ratio to RandAugment on the same images. With --before, a
second process runs the NFA of another checkout in the same turns: the last table has ratios of this
checkout's time over the other's, the median over rounds.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

NFA = ("axis", "pair", "regions", "rgb32")
EACH = ("RandAugment", "TrivialAugmentWide", "AugMix", "albumentations")
WHOLE = ("MixUp", "CutMix", "kornia MixUp", "timm Mixup")
ROWS = (*NFA, *EACH, *WHOLE)
TYPES = {"uint8": torch.uint8, "float32": torch.float32}
CLASSES = 10
PER_CLASS = 20
LEAST = 0.02  # seconds of a measurement

Job = Callable[[], Any]


class Case(NamedTuple):
    """One figure: a row, and the images that it gets."""

    row: str
    size: int
    type: str
    batch: int
    p: float | None  # None for rows without it


def cases(options: argparse.Namespace, size: int) -> list[Case]:
    """What is measured at a size."""
    found: list[Case] = []
    for row in options.rows:
        for kind in options.types:
            for batch in options.batch:
                shares = options.p if row in NFA else [None]
                found.extend(Case(row, size, kind, batch, share) for share in shares)
    return found


def pictures(count: int, size: int, kind: str = "uint8") -> tuple[Tensor, Tensor]:
    """Images of ten classes, each a coarse picture of its class with one of its own, and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    side = max(2, size // 8)
    shared = torch.rand(CLASSES, 3, side, side, generator=generator)[labels]
    own = torch.rand(count, 3, side, side, generator=generator)
    large = nn.functional.interpolate((shared + own) / 2, (size, size), mode="bilinear")
    if kind == "uint8":
        return large.mul(255).to(torch.uint8), labels
    return large, labels


@functools.lru_cache(maxsize=2)  # those of one size
def fitted(name: str, size: int) -> Any:
    import nfaug

    data = TensorDataset(*pictures(CLASSES * PER_CLASS, size))
    return nfaug.fit(f"builtin:{name}", data, progress=False)


def job_of(case: Case) -> Job | None:
    """The call that is measured, or None where the transform refuses the images."""
    images, labels = pictures(case.batch, case.size, case.type)
    if case.row in NFA:
        import nfaug

        flow, mix = ("rgb32", "axis") if case.row == "rgb32" else ("pixels", case.row)
        nfa = nfaug.NFAugment(fitted(flow, case.size), p=case.p, mix=mix)
        return lambda: nfa(images, labels)
    if case.row in EACH:
        transform = of_image(case.row)
        each: list[Any] = list(images)
        if case.row == "albumentations":
            each = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
        return lambda: [transform(image) for image in each]
    floating = case.type == "float32"
    if not floating and case.row in ("MixUp", "kornia MixUp", "timm Mixup"):
        return None
    if case.batch % 2 and case.row == "timm Mixup":
        return None
    return of_batch(case.row, images, labels)


def of_image(row: str) -> Callable[[Any], Any]:
    """A transform of one image."""
    if row == "albumentations":
        import albumentations

        parts = [
            albumentations.HorizontalFlip(),
            albumentations.Affine(translate_percent=0.05, scale=(0.9, 1.1), rotate=(-15, 15)),
            albumentations.RandomBrightnessContrast(),
        ]
        compose = albumentations.Compose(parts)
        return lambda image: compose(image=image)
    from torchvision.transforms import v2

    transform: Callable[[Any], Any] = getattr(v2, row)()
    return transform


def of_batch(row: str, images: Tensor, labels: Tensor) -> Job:
    """A call of a transform of batches."""
    if row == "kornia MixUp":
        from kornia.augmentation import RandomMixUpV2

        mixup = RandomMixUpV2(p=1.0, data_keys=["input", "class"])
        return lambda: mixup(images, labels)
    if row == "timm Mixup":
        from timm.data import Mixup

        # It works in place. Images stay in range, so that later calls take as long.
        mix = Mixup(mixup_alpha=1.0, num_classes=CLASSES)
        return lambda: mix(images.clone(), labels)
    from torchvision.transforms import v2

    transform = getattr(v2, row)(num_classes=CLASSES)
    return lambda: transform(images, labels)


def seconds(job: Job) -> float:
    """CPU seconds of one call, the mean over as many as `LEAST` takes."""
    calls = 0
    began = time.process_time()
    while True:
        job()
        calls += 1
        taken = time.process_time() - began
        if taken >= LEAST:
            return taken / calls


def prepare() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of libraries
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # which asks the network at its import


class Before:
    """A process with the NFA of another checkout."""

    def __init__(self, checkout: Path) -> None:
        path = checkout.resolve() / "src"
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(path)},
        )
        found = self._ask(None)
        if not Path(found).is_relative_to(path):
            raise SystemExit(f"--before must be a checkout with src/nfaug; got {checkout}")

    def _ask(self, case: Case | None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the process of --before ended with {self._process.wait()}")
        return json.loads(answer)

    def seconds(self, case: Case) -> float:
        return float(self._ask(case))

    def close(self) -> None:
        self._process.communicate()


def serve() -> None:
    """Answer the cases of standard input with their seconds, and null with the package's place."""
    import nfaug

    assert nfaug.__file__ is not None

    jobs: dict[Case, Job | None] = {}
    for line in sys.stdin:
        given = json.loads(line)
        answer: Any = nfaug.__file__
        if given is not None:
            case = Case(*given)
            if any(other.size != case.size for other in jobs):
                jobs.clear()
            if case not in jobs:
                jobs[case] = job_of(case)
            job = jobs[case]
            assert job is not None
            answer = seconds(job)
        print(json.dumps(answer), flush=True)


def measure(
    size: int, options: argparse.Namespace, before: Before | None
) -> tuple[dict[Case, float], dict[Case, tuple[float, float]]]:
    """Seconds of each case of a size; with another checkout its seconds and the ratio to them."""
    jobs: dict[Case, Job] = {}
    for case in cases(options, size):
        job = job_of(case)
        if job is not None:
            jobs[case] = job
    taken: dict[Case, list[float]] = {case: [] for case in jobs}
    others: dict[Case, list[float]] = {case: [] for case in jobs if before and case.row in NFA}
    for number in range(options.rounds + 1):
        for case, job in jobs.items():
            this = seconds(job)
            other = before.seconds(case) if before and case in others else math.nan
            if number > 0:  # the first round warms up
                taken[case].append(this)
                others.get(case, []).append(other)
        print(f"{size} px: round {number} of {options.rounds}", file=sys.stderr, flush=True)
    fitted.cache_clear()
    compared = {}
    for case, found in others.items():
        ratios = [ours / theirs for ours, theirs in zip(taken[case], found, strict=True)]
        compared[case] = (statistics.median(found), statistics.median(ratios))
    return {case: statistics.median(found) for case, found in taken.items()}, compared


def print_table(sizes: Sequence[int], title: str, cells: dict[Case, str]) -> None:
    """A line for each row, type, p and batch, with a column for each size."""
    print(f"\n| {title} | {' | '.join(f'{size} px' for size in sizes)} |")
    print("|---" * (1 + len(sizes)) + "|")
    lines: dict[str, dict[int, str]] = {}
    for case, cell in cells.items():
        name = f"NFA {case.row}, p={case.p:g}" if case.p is not None else case.row
        lines.setdefault(f"{name}, {case.type}, batch {case.batch}", {})[case.size] = cell
    for line, columns in lines.items():
        print(f"| {line} | {' | '.join(columns.get(size, '-') for size in sizes)} |")


def shown(case: Case, taken: dict[Case, float]) -> str:
    """Milliseconds an image, and the ratio to RandAugment on the same images."""
    figure = f"{1000 * taken[case] / case.batch:.3g}"
    peer = taken.get(case._replace(row="RandAugment", p=None))
    return figure if peer is None else f"{figure} (x {taken[case] / peer:.2f})"


def main(words: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 128, 224, 384])
    parser.add_argument("--types", nargs="+", choices=list(TYPES), default=list(TYPES))
    parser.add_argument("--batch", nargs="+", type=int, default=[64])
    parser.add_argument("--p", nargs="+", type=float, default=[0.5, 1.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--tiny", action="store_true", help="one short round of small images")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(None if words is None else [*words])
    prepare()
    if options.serve:
        serve()
        return
    if options.tiny:
        options.sizes, options.batch, options.rounds = [16], [2], 1
    before = None if options.before is None else Before(options.before)
    taken: dict[Case, float] = {}
    compared: dict[Case, tuple[float, float]] = {}
    for size in options.sizes:
        found, ratios = measure(size, options, before)
        taken.update(found)
        compared.update(ratios)
    cells = {case: shown(case, taken) for case in taken}
    print_table(options.sizes, "ms an image (x RandAugment)", cells)
    if before is not None:
        before.close()
        cells = {
            case: f"{1000 * other / case.batch:.3g} -> {1000 * taken[case] / case.batch:.3g} "
            f"(x {ratio:.2f})"
            for case, (other, ratio) in compared.items()
        }
        print_table(options.sizes, "ms an image, before -> now (ratio)", cells)


if __name__ == "__main__":
    main()
