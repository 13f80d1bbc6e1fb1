"""The cost of the training loop around the flow: time and memory.

    python benchmarks/trainer.py
    python benchmarks/trainer.py --part memory
    python benchmarks/trainer.py --part bundled

- loop: CPU seconds per step of the training loop (noise, skipping, clipping, average, report)
  and of the bare forward and backward pass and optimiser step, at 4 + 4 steps of width 32 and
  batches of 128 images of 1 x 32 x 32, in turns; the ratio is the median over rounds. Aim: under
  1.05. It also prints the time that two workers take to decode a batch of PNG files.
- bundled: CPU seconds per 1,000 training images (forward and backward pass) of the bundled flows
  in float32, with `optim.bf16`, and with the code and flows of another checkout (--before), in
  turns; ratios are medians over rounds.
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

from nfaug.data.batches import LoaderBatches
from nfaug.data.open import open_dataset, wrap_dataset
from nfaug.flows.flow import Flow, FlowConfig, Recompute
from nfaug.flows.mef import MefSettings
from nfaug.training.config import DataConfig, PriorConfig, TrainConfig
from nfaug.training.run.context import open_context
from nfaug.training.run.distributed import Processes, draw_noise, shared_batches
from nfaug.training.run.loop import FlowLoss, Loop
from nfaug.training.run.optimizer import FlowOptimizer
from nfaug.training.run.reporter import Reporter
from nfaug.training.run.snapshots import Snapshots

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
        flow=MefSettings(steps=(4, 4), blocks=(1, 1), width=(32, 32)),
        dataset=DataConfig(val_fraction=0),
        prior=PriorConfig(kind="data", statistics_images=2000),
    )
    data = wrap_dataset(TensorDataset(images.to(torch.uint8), labels))
    context = open_context(data, config, Processes("cpu"), progress=False)
    state = context.start(context.new_flow())
    loop = Loop(context, state, Snapshots(None), Reporter(context, None))
    order = torch.arange(len(images))
    bare = FlowLoss(context.start(context.new_flow()).optimizer.flow)
    adamax = torch.optim.Adamax(bare.parameters(), lr=1e-5)
    noise = draw_noise(bare.flow, BATCH, generator)

    def with_loop() -> None:
        for share in shared_batches(context.data, order, BATCH, context.processes):
            loop._between_steps(loop._step(share))

    def without() -> None:
        for pixels, classes in context.data.iterate(order, BATCH):
            adamax.zero_grad(set_to_none=True)
            (bare(pixels, noise, classes, state.gaussians) / BATCH).backward()
            adamax.step()

    found = {"loop": list[float](), "bare": list[float]()}
    for turn in range(rounds + 1):
        for name, run in (("loop", with_loop), ("bare", without)):
            began = time.process_time()
            run()
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
        batches = LoaderBatches(dataset, dataset.targets, 2)
        order = torch.arange(len(dataset)).repeat(10)
        began = time.perf_counter()
        count = sum(1 for _ in batches.iterate(order, BATCH))
        took = 1e3 * (time.perf_counter() - began) / count
    print(f"{'loading, two workers':<28} {took:8.1f} ms a batch, {took / step:.2f} of a bare step")


# Run in a process of its own, so that another checkout can be timed by the same code.
_TRAINING_STEPS = """
import statistics, sys, time
import torch
import nfaug

name, bf16, threads = sys.argv[1], sys.argv[2] == "bf16", int(sys.argv[3])
torch.set_num_threads(threads)
flow = nfaug.load(name).flow.train()
if bf16:
    flow.configure_training(bf16=True)
images = torch.randint(0, 256, (64, flow.config.channels, *flow.config.image_size))
images = images.to(torch.uint8)
seconds = []
for step in range(6):
    began = time.process_time()
    z, logdet = flow.encode(images, 0.3)
    ((z.square().flatten(1).sum(1) / 2 - logdet).mean() / z[0].numel()).backward()
    flow.zero_grad(set_to_none=True)
    if step:  # the first one warms up
        seconds.append((time.process_time() - began) / len(images) * 1000)
print(statistics.median(seconds))
"""


def bundled(rounds: int, threads: int, before: Path | None) -> None:
    """Time training steps of the bundled flows: float32, bfloat16, and another checkout's."""
    here = Path(__file__).resolve().parents[1]
    arms = {"float32": (here, "float32"), "bf16": (here, "bf16")}
    if before is not None:
        arms["before"] = (before.resolve(), "float32")
    for name in ("builtin:rgb32", "builtin:fashion-mnist"):
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(rounds):
            for arm, (checkout, kind) in arms.items():
                ran = subprocess.run(
                    [sys.executable, "-c", _TRAINING_STEPS, name, kind, str(threads)],
                    capture_output=True,
                    text=True,
                    check=True,
                    cwd=checkout,
                )
                seconds[arm].append(float(ran.stdout))
        for arm, taken in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(taken, seconds["float32"], strict=True))
            print(
                f"{name:<22} {arm:<8} {statistics.median(taken):6.2f} s per 1,000 images, "
                f"{ratio:.2f} of float32"
            )


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
        optimizer.step(loss, 0.0)
    print(before, peak())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["loop", "bundled", "memory", "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of each per round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--before", type=Path, help="another checkout, for --part bundled")
    parser.add_argument("--step", choices=get_args(Recompute), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.step:
        one_step(options.step)
        return
    if options.part in ("loop", "all"):
        loop_overhead(options.rounds, options.steps)
    if options.part in ("bundled", "all"):
        bundled(options.rounds, options.threads, options.before)
    if options.part in ("memory", "all"):
        memory()


if __name__ == "__main__":
    main()
