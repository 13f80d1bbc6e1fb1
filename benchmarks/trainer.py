"""The cost of the training loop around the flow: time and memory.

    python benchmarks/trainer.py
    python benchmarks/trainer.py --part memory

- loop: CPU seconds per step of the training loop (noise, skipping, clipping, average, report)
  and of the bare forward and backward pass and optimiser step, at 4 + 4 steps of width 32 and
  batches of 128 images of 1 x 32 x 32, in turns; the ratio is the median over rounds. Aim: under
  1.05. It also prints the time that two workers take to decode a batch of PNG files.
- memory: peak resident memory of two training steps at the paper's CIFAR size and batch 64,
  including the average and Adamax's moments, with and without `optim.recompute`, each in its own
  process; and the memory of that process before its first step. It takes minutes and several GB.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from torch.utils.data import TensorDataset

from nfaug.data.batches import Streamed, batches
from nfaug.data.open import open_dataset
from nfaug.flows.backbone import Recompute
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig
from nfaug.run.ranks import Ranks
from nfaug.training.config import DataConfig, TrainConfig, TrainPriorConfig
from nfaug.training.context import open_context
from nfaug.training.distributed import draw_noise, shared_batches
from nfaug.training.loop import FlowLoss, Loop
from nfaug.training.optimizer import FlowOptimizer
from nfaug.training.reporter import Reporter
from nfaug.training.run import Run

BATCH = 128


def loop_overhead(rounds: int, steps: int) -> None:
    """Time the loop and the bare steps in turns."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (steps * BATCH, 1, 32, 32), generator=generator)
    labels = torch.arange(len(images)) % 10
    config = TrainConfig(
        epochs=10**6,
        batch_size=BATCH,
        lr=1e-5,
        device="cpu",
        flow=MefConfig(steps=(4, 4), blocks=(1, 1), width=(32, 32)),
        dataset=DataConfig(test_fraction=0),
        prior=TrainPriorConfig(kind="data", statistics_images=2000),
    )
    data = open_dataset(TensorDataset(images.to(torch.uint8), labels))
    run = Run(None, Ranks())
    context = open_context(data, config, run.ranks, progress=False)
    state = context.start(context.new_flow())
    loop = Loop(run, context, state, Reporter(context, None))
    order = torch.arange(len(images))
    bare = FlowLoss(context.start(context.new_flow()).optimizer.flow)
    adamax = torch.optim.Adamax(bare.parameters(), lr=1e-5)
    noise = draw_noise(bare.flow, BATCH, generator)

    def with_loop() -> None:
        for share in shared_batches(context.data, order, BATCH, run.ranks):
            loop._between_steps(loop._step(share))

    def without() -> None:
        for pixels, classes in context.data.iterate(order, BATCH):
            adamax.zero_grad(set_to_none=True)
            (bare(pixels, noise, classes, state.gaussians) / BATCH).backward()
            adamax.step()

    found = {"loop": list[float](), "bare": list[float]()}
    for turn in range(rounds + 1):
        for name, job in (("loop", with_loop), ("bare", without)):
            began = time.process_time()
            job()
            if turn:  # the first one warms up
                found[name].append((time.process_time() - began) / steps)
    ratios = [a / b for a, b in zip(found["loop"], found["bare"], strict=True)]
    for name, seconds in found.items():
        print(f"{name:<28} {1e3 * statistics.median(seconds):8.1f} ms a step")
    print(f"{'ratio':<28} {statistics.median(ratios):8.3f}")
    _loading(1e3 * statistics.median(found["bare"]))


def _loading(step: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(10 * BATCH):
            path = Path(folder, str(number % 10), f"{number}.png")
            path.parent.mkdir(exist_ok=True)
            pixels = torch.randint(0, 256, (32, 32), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(path)
        dataset = open_dataset(folder)
        data = Streamed(dataset, dataset.targets, 2)
        order = torch.arange(len(dataset)).repeat(10)
        began = time.perf_counter()
        count = sum(1 for _ in batches(data, order.split(BATCH)))
        took = 1e3 * (time.perf_counter() - began) / count
    print(f"{'loading, two workers':<28} {took:8.1f} ms a batch, {took / step:.2f} of a bare step")


def memory() -> None:
    """Measure every setting of `optim.recompute` in a new process."""
    peaks = {}
    for way in get_args(Recompute):
        words = [sys.executable, __file__, "--step", way]
        ran = subprocess.run(words, capture_output=True, text=True, check=True)
        before, peaks[way] = map(float, ran.stdout.split())
        print(f"{way:<28} {peaks[way]:8.0f} MiB at the peak, {before:.0f} before the first step")
    print(f"{'none / steps':<28} {peaks['none'] / peaks['steps']:8.2f}")


def one_step(way: Recompute) -> None:
    """Two training steps; prints the peak before and after them in MiB."""
    import resource

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    flow = Flow(FlowConfig())
    flow.configure_training(recompute=way)
    optimizer = FlowOptimizer(flow, TrainConfig())
    before = peak()
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        z, logdet = flow.encode(images, draw_noise(flow, len(images), generator))
        loss = (z.square().flatten(1).sum(1) / 2 - logdet).mean() / flow.config.dim
        optimizer.step(loss, 0.0, loss.detach()[None])
    print(before, peak())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["loop", "memory", "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of each per round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--step", choices=get_args(Recompute), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.step:
        one_step(options.step)
        return
    if options.part in ("loop", "all"):
        loop_overhead(options.rounds, options.steps)
    if options.part in ("memory", "all"):
        memory()


if __name__ == "__main__":
    main()
