"""What it costs that OpenMP's threads spin, or sleep, while they wait, alone and beside a busy job.

    python benchmarks/threads.py

Each measurement is a process of its own, since torch reads GOMP_SPINCOUNT when it starts: 60 steps
of the small network on 128 images of 48 x 48, with one thread and with --threads. Spinning is the
default of OpenMP; the commands of nfaug set GOMP_SPINCOUNT=0, and threads sleep. The ways alternate
over --rounds. The table has the median of the seconds, from the lowest to the highest.
"""

import argparse
import os
import statistics
import subprocess
import sys

STEPS = """
import sys, time, torch
from nfaug.compare.classifier import Classifier
from nfaug.compare.config import CompareConfig

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
images = torch.randint(0, 256, (128, 3, 48, 48), dtype=torch.uint8)
labels = torch.arange(128) % 10

def seconds(steps):
    classifier = Classifier(CompareConfig(steps=steps, device="cpu"), (3, 48, 48), 10, seed=0)
    started = time.monotonic()
    classifier.train(lambda rows: (images[rows], labels[rows]), len(labels))
    return time.monotonic() - started

seconds(5)
print(seconds(60))
"""
WAYS = {"spin": {}, "sleep": {"GOMP_SPINCOUNT": "0"}}


def measured(threads: int, way: str) -> float:
    """Seconds of 60 steps in a new process."""
    environment = {**os.environ, **WAYS[way]}
    command = [sys.executable, "-c", STEPS, str(threads)]
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(ran.stdout)


def table(rounds: int, threads: list[int]) -> list[str]:
    """A line for each number of threads and each way to wait."""
    found: dict[tuple[int, str], list[float]] = {}
    for _ in range(rounds):
        for count in threads:
            for way in WAYS:
                found.setdefault((count, way), []).append(measured(count, way))
    lines = []
    for (count, way), times in found.items():
        middle = statistics.median(times)
        ratio = middle / statistics.median(found[count, "spin"])
        seconds = f"{middle:.2f} ({min(times):.2f} to {max(times):.2f})"
        lines.append(f"| {count} | {way} | {seconds} | {ratio:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        os.environ.pop(name, None)
    threads = sorted({1, args.threads})
    print("| threads | waiting | alone, s | of spinning |\n|---|---|---|---|")
    print("\n".join(table(args.rounds, threads)))
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        print("\n| threads | waiting | beside a busy job, s | of spinning |\n|---|---|---|---|")
        print("\n".join(table(args.rounds, threads)))
    finally:
        busy.kill()
        busy.wait()


if __name__ == "__main__":
    main()
