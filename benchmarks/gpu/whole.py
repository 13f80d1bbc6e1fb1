"""Parts on whole jobs: a comparison on the card and on the CPU, and a training step by NCCL."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nfaug
from nfaug.compare import CompareConfig
from nfaug.compare import compare as compare_augmentations
from nfaug.run.ranks import own_cores

from .card import Card

__all__ = ["compare", "nccl"]

_RANK = Path(__file__).with_name("rank.py")


def compare(card: Card) -> None:
    """The same small comparison on the card and on the CPU: seconds, and accuracies."""
    images = nfaug.open_dataset("builtin:clothes", image_size=32, progress=False)
    places = {"one process on the card": (str(card.device), 1)}
    if card.is_gpu:
        places["one process on the CPU"] = ("cpu", 1)
    processes = 2 if card.tiny else min(16, own_cores())
    places[f"{processes} processes on the CPU"] = ("cpu", processes)
    for name, (device, count) in places.items():
        with card.case(name), tempfile.TemporaryDirectory() as folder:
            config = CompareConfig(
                per_class=4 if card.tiny else 10, augment="flip,crop",
                methods="none,randaugment,nfa", test_images=60 if card.tiny else 2000, seeds=3,
                steps=2 if card.tiny else 400, variants=2 if card.tiny else 20, device=device,
            )  # fmt: skip
            start = time.perf_counter()
            found = compare_augmentations(
                images, folder, config=config, processes=count, progress=False
            )
            card.note(name, seconds=time.perf_counter() - start)
            for method in found.methods:
                card.note(name, **{method.name: found.accuracy(method)})


def nccl(card: Card) -> None:
    """Steps of distributed training in one process under torchrun."""
    with card.case("one process"), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.txt"
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        words += ["--nproc-per-node", "1", str(_RANK), str(card.device), str(file)]
        words += ["--tiny"] * card.tiny
        done = subprocess.run(words, text=True, capture_output=True)
        print(done.stderr, file=sys.stderr)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "Error:" in line]
            raise ChildProcessError(lines[0] if lines else done.stderr[-200:])
        backend, ms, difference = file.read_text().split()
        card.note("one process", backend=backend, ms=float(ms), difference=float(difference))
