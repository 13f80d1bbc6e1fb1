"""How fast the flow is: encode, decode and a training step, beside three yardsticks.

    python benchmarks/flow.py --size cifar --batch 64
    python benchmarks/flow.py --size small --batch 128
    python benchmarks/flow.py --size rgb32 --batch 64 --no-train
    python benchmarks/flow.py --load
    python benchmarks/flow.py --attention 6 --batch 64

Images/s of the flow as it trains and of the frozen one, beside

- plain: the same flow as research code writes it (see `plain_flow.py`); of rgb32, whose couplings
  have matrices of low rank, there is none. It forms every exponential
  by scaling and squaring in a loop that looks at the data, keeps norms apart from convolutions and
  computes exp(W) at each call. Its latents are checked against ours before anything is timed.
  `--tolerance 1e-8` has it stop its series early, which makes it faster: quote both.
- limit: the convolutions of the coupling networks alone, back to back, folded and in
  channels-last order (for the training step: unfolded, forward and backward).
- the machine's rate of matrix products: the last column is the share of it that the
  convolutions of the frozen flow (or of the training step) reach.

The last column is the pages of memory that a call touches for the first time (minor faults).

All of them compute in full float32, which is what `encode` and `decode` do in use. On a GPU the
training step has a second row, in which cuDNN rounds to TF32.

The contestants take turns in every round; rates are medians, and ratios are medians of the
rounds' ratios, so that a disturbance hits all of them. The aim on two CPU cores, float32: at
the paper's CIFAR size and batch 64, frozen at least 1.6 times plain and 0.85 of the limit,
training 1.5 times plain; small at batch 128, 3 times plain.

`--attention 6` compares the frozen flow with one that has self-attention of 6 heads, and nothing
else.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef import MatrixExpCoupling
from nfaug.flows.mef_config import MefConfig
from nfaug.training.config import recipe_config

sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.convolutions import Convolutions
from benchmarks.plain_flow import PlainFlow

SIZES = {
    "cifar": FlowConfig(),
    "small": FlowConfig(
        channels=1,
        image_size=(32, 32),
        backbone=MefConfig(steps=(4, 4), blocks=(1, 1), width=(32, 32)),
    ),
    "rgb32": FlowConfig(3, (32, 32), recipe_config("rgb32").flow),
}


def example_flow(config: FlowConfig, device: str) -> Flow:
    """A random flow with the statistics of a trained one.

    After a few hundred steps on Fashion-MNIST the couplings' matrices have norms of 0.7 on
    average and up to 1.9; a fresh flow's are zero, and any series ends at once.
    """
    flow = Flow(config).to(device)
    with torch.no_grad():
        for coupling in couplings(flow):
            coupling.rescale.fill_(1.9 / coupling.n)
            for block in coupling.net.layers[1:]:
                block.conv3.norm.scale.fill_(0.1)
            weight = coupling.net.out_layer.weight
            weight.normal_(0, weight[0].numel() ** -0.5)
            weight[coupling.n :] *= 6  # the matrices; the first n channels are shifts
    flow.initialize(torch.rand(64, *config.shape, device=device) * 2 - 1)
    return flow


def couplings(flow: Flow) -> list[MatrixExpCoupling]:
    return [module for module in flow.modules() if isinstance(module, MatrixExpCoupling)]


def train_step(flow: nn.Module) -> Callable[[Tensor], None]:
    """One step of maximum likelihood under a standard gaussian."""
    optimizer = torch.optim.Adamax(flow.parameters(), lr=1e-6)

    def step(v: Tensor) -> None:
        z, logdet = flow(v)
        loss = (z.square().sum((1, 2, 3)) / 2 - logdet).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def sync(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def timed(job: Callable[[], object], device: str) -> float:
    sync(device)
    start = clock()
    job()
    sync(device)
    return clock() - start


def faults_of(job: Callable[[], object]) -> int:
    """Pages that the second of two calls touches for the first time."""
    job()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    job()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def race(jobs: dict[str, Callable[[], object]], repeat: int, device: str) -> dict[str, list[float]]:
    """Seconds of every job in every round; one round first that does not count."""
    for job in jobs.values():
        timed(job, device)
    rounds = [{name: timed(job, device) for name, job in jobs.items()} for _ in range(repeat)]
    return {name: [seconds[name] for seconds in rounds] for name in jobs}


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times faster `fast` is: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def gemm_rate(device: str, repeat: int) -> float:
    """FLOP/s of a float32 matrix product."""
    n = 8192 if device.startswith("cuda") else 2048
    a = torch.randn(n, n, device=device)
    return 2 * n**3 / statistics.median(timed(lambda: a @ a, device) for _ in range(repeat + 2))


def measure(
    flow: Flow, batch: int, repeat: int, extras: set[str], rate: float, tolerance: float = 0.0
) -> list[str]:
    """The table's rows of one batch size."""
    device = str(flow.device)
    torch.backends.cudnn.allow_tf32 = False  # `encode` turns it off by itself, the others do not
    frozen = flow.freeze()
    low_rank = any(coupling.rank is not None for coupling in couplings(flow))
    plain = None if low_rank else PlainFlow(flow, tolerance)
    convs = Convolutions(flow, batch)
    images = torch.randint(
        256, (batch, flow.config.channels, *flow.config.image_size), dtype=torch.uint8
    ).to(device)
    v = (images + 0.5) / 128 - 1
    with torch.no_grad():
        z = frozen.encode(images)[0]
        others = {"trained": flow(v)[0]}
        if plain is not None:
            others["plain"] = plain(v)[0]
        for name, other in others.items():
            error = float((other - z).abs().max() / z.abs().max())
            assert error < 1e-4, f"the {name} flow is another map: {error}"
        jobs: dict[str, dict[str, Callable[[], object]]] = {
            "encode": {
                "flow": lambda: flow.encode(images),
                "frozen": lambda: frozen.encode(images),
            },
            "decode": {
                "flow": lambda: flow.decode(z),
                "frozen": lambda: frozen.decode(z),
            },
        }
        if plain is not None:
            jobs["encode"]["plain"] = lambda: plain(v)
            jobs["decode"]["plain"] = lambda: plain.inverse(z)
        if "compile" in extras:
            encode, decode = torch.compile(frozen.encode), torch.compile(frozen.decode)
            jobs["encode"]["compiled"] = lambda: encode(images)
            jobs["decode"]["compiled"] = lambda: decode(z)
        times = {name: race({**job, "limit": convs}, repeat, device) for name, job in jobs.items()}
        faults = {name: faults_of(job["frozen"]) for name, job in jobs.items()}
    rows = []
    for name, seconds in times.items():
        rows.append(row(name, batch, seconds, rate, convs.flop, faults[name]))
    if "train" in extras:
        ours, theirs = train_step(flow), train_step(PlainFlow(copy.deepcopy(flow), tolerance))
        steps: dict[str, Callable[[], object]] = {
            "plain": lambda: theirs(v),
            "flow": lambda: ours(v),
            "limit": convs.train,
        }
        seconds = race(steps, repeat, device)
        pages = faults_of(steps["flow"])
        rows.append(row("train step", batch, seconds, rate, 3 * convs.flop, pages))
        if device.startswith("cuda"):
            torch.backends.cudnn.allow_tf32 = True  # torch's default
            seconds = race(steps, repeat, device)
            rows.append(row("train step, TF32", batch, seconds, rate, 3 * convs.flop, pages))
            torch.backends.cudnn.allow_tf32 = False
    return rows


def row(
    name: str, batch: int, times: dict[str, list[float]], rate: float, flop: int, faults: int
) -> str:
    """One line of the table."""
    best = "frozen" if "frozen" in times else "flow"
    speeds = {key: batch / statistics.median(value) for key, value in times.items()}
    columns = ("plain", "flow", "frozen", "compiled", "limit")
    cells = [name, str(batch)]
    cells += [f"{speeds[key]:.1f}" if key in speeds else "" for key in columns]
    for ours in ("flow", "frozen"):
        both = {"plain", ours} <= times.keys()
        cells.append(f"{ratio(times, 'plain', ours):.2f}" if both else "")
    cells += [f"{ratio(times, best, 'limit') ** -1:.2f}", f"{speeds[best] * flop / rate:.0%}"]
    cells.append(str(faults))
    return "| " + " | ".join(cells) + " |"


HEADER = """\
| images/s | batch | plain | flow | frozen | compiled | limit | flow/plain | frozen/plain \
| best/limit | of GEMM rate | faults |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def load_time(config: FlowConfig, repeat: int) -> str:
    """Seconds from a weights file to the first decoded image, imports excluded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(Flow(config).state_dict(), path)
        seconds = []
        for _ in range(repeat):
            start = clock()
            flow = Flow.from_tensors(config, load(path.read_bytes())).freeze()
            with torch.no_grad():
                flow.decode(torch.randn(1, *config.shape))
            seconds.append(clock() - start)
    return (
        f"load to first image: first {seconds[0]:.2f} s, median {statistics.median(seconds):.2f} s"
    )


def attention_cost(
    config: FlowConfig, heads: int, batch: int, repeat: int, device: str
) -> list[str]:
    """A table: images/s of the frozen flow without and with self-attention."""
    backbone = replace(config.backbone, attention_heads=heads)
    frozen = {
        "without": example_flow(config, device).freeze(),
        "with": example_flow(replace(config, backbone=backbone), device).freeze(),
    }
    shape = (batch, config.channels, *config.image_size)
    images = torch.randint(256, shape, dtype=torch.uint8).to(device)
    z = torch.randn(batch, *config.shape, device=device)
    jobs: dict[str, dict[str, Callable[[], object]]] = {
        "encode": {name: lambda flow=flow: flow.encode(images) for name, flow in frozen.items()},
        "decode": {name: lambda flow=flow: flow.decode(z) for name, flow in frozen.items()},
    }
    lines = ["| images/s | batch | without | with | with/without |", "|---|---|---|---|---|"]
    with torch.no_grad():
        for direction, both in jobs.items():
            times = race(both, repeat, device)
            speeds = [batch / statistics.median(seconds) for seconds in times.values()]
            cells = [direction, str(batch), *(f"{speed:.1f}" for speed in speeds)]
            lines.append(f"| {' | '.join(cells)} | {ratio(times, 'without', 'with'):.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="cifar")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--repeat", type=int, default=5, help="rounds that count")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: one thread and the CPU seconds it used, for a machine shared with others",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="a plain flow that ends its series once terms are this small; by default at 0",
    )
    parser.add_argument("--no-train", action="store_true", help="leave out the training step")
    parser.add_argument("--compile", action="store_true", help="add torch.compile")
    parser.add_argument(
        "--attention", type=int, metavar="HEADS", help="time self-attention, and nothing else"
    )
    parser.add_argument("--load", action="store_true", help="time loading, and nothing else")
    options = parser.parse_args()
    global clock
    clock = CLOCKS[options.clock]
    if options.clock == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.load:
        print(load_time(SIZES[options.size], options.repeat))
        return
    if options.attention:
        config = SIZES[options.size]
        for batch in options.batch:
            table = attention_cost(config, options.attention, batch, options.repeat, options.device)
            print("\n".join(table), flush=True)
        return
    extras = {"compile"} if options.compile else set()
    extras |= set() if options.no_train else {"train"}
    flow = example_flow(SIZES[options.size], options.device)
    cuda = options.device.startswith("cuda")
    where = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads"
    rate = gemm_rate(options.device, options.repeat)
    print(
        f"{options.size}, float32, {where}, {options.clock} clock, "
        f"{rate / 1e9:.0f} GFLOP/s of matrix products\n"
    )
    print(HEADER)
    for batch in options.batch:
        for line in measure(flow, batch, options.repeat, extras, rate, options.tolerance):
            print(line, flush=True)


if __name__ == "__main__":
    main()
