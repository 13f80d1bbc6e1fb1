"""Banks and fits on several processes, and a bank of ImageNet's shape.

    python benchmarks/bank_scale.py --part ranks
    python benchmarks/bank_scale.py --part killed
    python benchmarks/bank_scale.py --part imagenet --per-class 50

ranks: `nfaug bank --residual` and `nfaug fit` on one process and under torchrun on two and four,
one thread each: the files compared, and the wall time from the moment when all processes are ready
until the last one is done. Rounds alternate; ratios are medians. A fit may differ by 1e-5 of the
largest value of a tensor, a bank not at all; DIFFERENT means more. Aim on two cores: at most 0.6
for two.

killed: one of two torchrun processes is killed in the middle of a bank; the same command again, and
the files compared with those of one process.

imagenet: 1,000 classes of made images of 224 x 224 pixels as JPEG files, a residual bank of four
variants in eight shards, two at a time, merged: bytes, time, memory of a process, and the figures
for 1,281,167 images beside a bank of whole images. --per-class 50 takes ten times as long as 5.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from nfaug.bank import Bank, bank_bytes, merge_bank
from nfaug.bank.format import Manifest
from nfaug.cli import main as nfaug

IMAGENET, SIZE, VARIANTS = 1_281_167, 224, 4
FIT_ERROR = 1e-5  # relative; sums over processes are rounded in another order
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def write_images(root: Path, classes: int, per_class: int) -> Path:
    """Made photographs: a smooth pattern for each class, with a smooth variation for each image."""

    def write(label: int) -> None:
        draws = np.random.default_rng(label)
        folder = root / f"{label:04}"
        folder.mkdir(parents=True)
        base = draws.integers(0, 256, (7, 7, 3))
        for number in range(per_class):
            coarse = np.clip(base + draws.normal(0, 40, base.shape), 0, 255).astype(np.uint8)
            image = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            image.save(folder / f"{number:03}.jpg", quality=90)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(classes)))
    return root


def job(folder: Path, words: list[str]) -> None:
    """Run an nfaug command when all processes are ready; write its seconds and memory."""
    rank, count = int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
    torch.set_num_threads(1)
    (folder / f"ready-{rank}").write_text(str(os.getpid()))
    while sum(1 for _ in folder.glob("ready-*")) < count:
        time.sleep(0.01)
    start = time.perf_counter()
    code = nfaug(words)
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,  # with imports and loading
        "gib": used.ru_maxrss / 2**20,
    }
    (folder / f"done-{rank}.json").write_text(json.dumps(told))
    if code:
        raise SystemExit(code)


def launch(folder: Path, count: int, words: list[str]) -> subprocess.Popen[str]:
    """Start `job` on so many processes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += [__file__, "--job", str(folder), *words]
    with (folder / "log").open("w") as log:
        environment = os.environ | ONE_THREAD
        return subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)


def wait(process: subprocess.Popen[str], folder: Path) -> list[dict[str, float]]:
    """What the processes wrote."""
    if process.wait():
        raise SystemExit((folder / "log").read_text())
    return [json.loads(file.read_text()) for file in sorted(folder.glob("done-*.json"))]


def same_bank(one: Path, other: Path) -> bool:
    banks = Bank(one), Bank(other)
    names = ("residuals", "steps", "applied", "labels")
    return all(
        (np.asarray(getattr(banks[0], name)) == np.asarray(getattr(banks[1], name))).all()
        for name in names
    )


def fit_difference(one: Path, other: Path) -> float:
    """The largest relative difference of a tensor; 0 if all are bit for bit the same."""
    worst = 0.0
    for name in ("pca.safetensors", "gaussians.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        for key, tensor in first.items():
            scale = tensor.double().abs().max().clamp(min=1e-30)
            worst = max(worst, float((tensor.double() - second[key].double()).abs().max() / scale))
    return worst


def fit_result(difference: float) -> str:
    """A difference in words."""
    if not difference <= FIT_ERROR:  # NaN is different
        return f"DIFFERENT: {difference:.0e}"
    return f"within {difference:.0e}" if difference else "identical"


def prepared(args: argparse.Namespace, work: Path) -> tuple[Path, Path]:
    """Images, and the flow fitted to them."""
    images = write_images(work / "images", args.classes, args.per_class)
    words = ["fit", "--flow", args.flow, "--data", str(images), "--out", str(work / "flow")]
    if nfaug([*words, "--rank", "4"]):
        raise SystemExit("the fit failed")
    return images, work / "flow"


def ranks(args: argparse.Namespace, work: Path) -> None:
    images, flow = prepared(args, work)
    commands = {
        "bank": ["bank", "--residual", "--flow", str(flow), "--variants", str(VARIANTS)],
        "fit": ["fit", "--flow", str(flow), "--rank", "4"],
    }
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(args.rounds):
        for name, words in commands.items():
            for count in (1, 2, 4):
                out = work / f"{name}-{count}"
                shutil.rmtree(out, ignore_errors=True)
                command = [*words, "--data", str(images), "--out", str(out)]
                told = wait(launch(work / "job", count, command), work / "job")
                seconds.setdefault((name, count), []).append(max(x["seconds"] for x in told))
    print("| command | processes | seconds | ratio to one | result |\n|---|---|---|---|---|")
    for (name, count), times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, seconds[name, 1], strict=True))
        one, own = work / f"{name}-1", work / f"{name}-{count}"
        if name == "bank":
            result = "identical" if same_bank(one, own) else "DIFFERENT"
        else:
            result = fit_result(fit_difference(one, own))
        shown = statistics.median(times)
        print(f"| {name} | {count} | {shown:.1f} | {ratio:.2f} | {result} |")
    print(
        f"\n{args.classes} classes x {args.per_class} images, {VARIANTS} variants, {args.flow}, "
        f"one thread a process, {args.rounds} rounds, {os.cpu_count()} cores"
    )


def half_written(shard: Path) -> bool:
    """Whether half of the bytes of a shard are in its file."""
    if not (shard / "manifest.json").is_file():
        return False
    made = Manifest.load(shard)
    size = (shard / "residuals.npy").stat().st_size
    return size > made.images * made.variants * math.prod(made.shape) / 2


def killed(args: argparse.Namespace, work: Path) -> None:
    images, flow = prepared(args, work)
    words = ["bank", "--residual", "--flow", str(flow), "--data", str(images), "--batch-size", "16"]
    wait(launch(work / "job", 1, [*words, "--out", str(work / "one")]), work / "job")
    out, folder = work / "two", work / "job"
    process = launch(folder, 2, [*words, "--out", str(out)])
    shard = out / "shard-00001-of-00002"
    while not half_written(shard):
        if process.poll() is not None:
            raise SystemExit("process 1 ended before it could be killed: use more images")
        time.sleep(0.01)
    os.kill(int((folder / "ready-1").read_text()), signal.SIGKILL)
    code = process.wait()
    done = {path.name: Manifest.load(path).done for path in sorted(out.glob("shard-*"))}
    print(f"process 1 was killed; torchrun ended with {code}; images done: {done}")
    wait(launch(folder, 2, [*words, "--out", str(out)]), folder)
    result = "identical" if same_bank(work / "one", out) else "DIFFERENT"
    print(f"after the same command again, {len(Bank(out))} images: {result} to one process")


def imagenet(args: argparse.Namespace, work: Path) -> None:
    images, flow = prepared(args, work)
    out, shards, told = work / "bank", 8, list[dict[str, float]]()
    words = ["bank", "--residual", "--flow", str(flow), "--data", str(images), "--out", str(out)]
    start = time.perf_counter()
    for first in range(0, shards, 2):
        running = []
        for index in (first, first + 1):
            command = [*words, "--shard", f"{index}/{shards}", "--variants", str(VARIANTS)]
            running.append((work / f"job-{index}", command))
        processes = [(launch(folder, 1, command), folder) for folder, command in running]
        told += [wait(process, folder)[0] for process, folder in processes]
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    bank = merge_bank(out)
    merging = time.perf_counter() - start
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    own = sum(x["cpu_seconds"] for x in told)
    shape = bank.manifest.shape
    residual = bank_bytes(IMAGENET, VARIANTS, shape, residual=True)
    whole = bank_bytes(IMAGENET, VARIANTS, (3, SIZE, SIZE))
    rows: dict[str, Any] = {
        "images": f"{len(bank):,} of {args.classes} classes, {VARIANTS} variants, {shards} shards",
        "seconds, two shards at a time": f"{seconds:.0f}",
        "CPU seconds": f"{own:.0f}, {1e3 * own / len(bank):.1f} ms per image",
        "seconds to merge": f"{merging:.2f}",
        "largest process": f"{max(x['gib'] for x in told):.2f} GiB",
        "bytes on disk": f"{size:,}, {size / len(bank) / VARIANTS:,.0f} per variant",
        "1,281,167 images, residual": f"{residual / 1e9:.1f} GB",
        "1,281,167 images, whole": f"{whole / 1e9:.0f} GB",
        "1,281,167 images, CPU hours": f"{own / len(bank) * IMAGENET / 3600:.1f}",
    }
    print("| figure | value |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    print(f"\n{args.flow}, one thread a process, {os.cpu_count()} cores")


PARTS = {"ranks": ranks, "killed": killed, "imagenet": imagenet}


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        job(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--flow", default="builtin:rgb32")
    parser.add_argument("--classes", type=int, help="40, or 1,000 for imagenet")
    parser.add_argument("--per-class", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.classes = args.classes or (1000 if args.part == "imagenet" else 40)
    with tempfile.TemporaryDirectory() as folder:
        PARTS[args.part](args, Path(folder))


if __name__ == "__main__":
    main()
