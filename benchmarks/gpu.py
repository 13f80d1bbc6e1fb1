"""What the flow, NFA in a training step and a bank cost on a GPU, in one report with its name.

    make gpu                     the CUDA tests, then this
    make gpu GPU_ARGS=--tiny     the same with tiny models, also on a CPU

1. Encode, decode and a training step: of the paper's flow beside the plain implementation
   (`flow.py` explains the columns), and of a bundled flow.
2. Images that come back bit for bit while the script around the flow has TF32 on.
3. A training step of ResNet-50, channels-last, automatic mixed precision, at 224 pixels and batch
   128, with NFA of the bundled flow at p = 0.5: plain calls, and torch.compile of encode and
   decode. Ratios are medians over rounds in which all take turns. Aim: at most 1.10.
4. Images/s of a bank of four variants, of whole images and of residuals.

`--tiny` shows that everything runs. Its figures say nothing.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from flow import HEADER, SIZES, example_flow, gemm_rate, measure, race, train_step
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from torchvision.models import resnet18, resnet50

import nfaug
from nfaug.augment.transform import NFAugment
from nfaug.bank import make_bank
from nfaug.flows.flow import Flow, FlowConfig
from nfaug.flows.mef import MefConfig

TINY = FlowConfig(3, (8, 8), MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8)))


def pictures(count: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    """Smooth random images (uint8) and labels of ten classes."""
    coarse = torch.rand(count, 3, max(2, size // 8), max(2, size // 8))
    images = F.interpolate(coarse, (size, size), mode="bilinear").mul(255).to(torch.uint8)
    return images.to(device), (torch.arange(count) % 10).to(device)


def flow_tables(args: argparse.Namespace, checkpoint: Any) -> Iterator[str]:
    batch = 2 if args.tiny else 128
    paper = example_flow(TINY if args.tiny else SIZES["cifar"], args.device)
    rate = 1e12 if args.tiny else gemm_rate(args.device, args.rounds)
    name = "a tiny flow" if args.tiny else "the paper's CIFAR flow"
    yield f"\n{name}\n\n{HEADER}"
    yield from measure(paper, batch, args.rounds, {"train"}, rate)
    bundled = Flow.from_tensors(checkpoint.flow.config, checkpoint.flow.state_dict())
    yield f"\n{args.flow}\n"
    yield from own_table(bundled.to(args.device), batch, args)


def own_table(flow: Flow, batch: int, args: argparse.Namespace) -> Iterator[str]:
    """Images/s as it trains and frozen; the plain implementation has no low-rank couplings."""
    images, _ = pictures(batch, flow.config.image_size[0], args.device)
    v, frozen = (images + 0.5) / 128 - 1, flow.freeze()
    with torch.no_grad():
        z = frozen.encode(images)[0]
    step = train_step(flow)
    jobs: dict[str, Callable[[], object]] = {
        "encode": lambda: flow.encode(images),
        "encode, frozen": lambda: frozen.encode(images),
        "decode": lambda: flow.decode(z),
        "decode, frozen": lambda: frozen.decode(z),
    }
    with torch.no_grad():
        times = race(jobs, args.rounds, args.device)
    times |= race({"train step": lambda: step(v)}, args.rounds, args.device)
    yield f"| batch of {batch} | images/s |\n|---|---|"
    for name, seconds in times.items():
        yield f"| {name} | {batch / statistics.median(seconds):.1f} |"


def exactness(args: argparse.Namespace, checkpoint: Any) -> Iterator[str]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    flow = checkpoint.flow.freeze()
    images, _ = pictures(8 if args.tiny else 1024, flow.config.image_size[0], args.device)
    with torch.no_grad():
        back = flow.decode(flow.encode(images)[0])
    off = (back.int() - images.int()).abs().flatten(1).amax(1)
    yield (
        f"\nTF32 on around {args.flow}: {int((off == 0).sum())} of {len(images)} images come back "
        f"bit for bit; the largest error is {int(off.max())} grey levels"
    )


class Step:
    """A training step of a classifier on normalized batches."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = args.device
        model: nn.Module = resnet18(num_classes=10) if args.tiny else resnet50(num_classes=10)
        self.model = model.to(args.device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        images = images.to(memory_format=torch.channels_last)
        kind = self.device.partition(":")[0]
        with torch.autocast(kind, torch.float16 if kind == "cuda" else torch.bfloat16):
            loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def online(args: argparse.Namespace, checkpoint: Any) -> Iterator[str]:
    """Seconds of a step without NFA and in both ways to run it."""
    size, batch, steps = (32, 8, 2) if args.tiny else (224, 128, 10)
    images, labels = pictures(batch, size, "cpu")
    host = images.float() / 255
    if args.device.startswith("cuda"):
        host, labels = host.pin_memory(), labels.pin_memory()
    step = Step(args)

    def loop(nfa: NFAugment | None) -> Callable[[], None]:
        def run() -> None:
            for _ in range(steps):
                x, y = (t.to(args.device, non_blocking=True) for t in (host, labels))
                step(*((x, y) if nfa is None else nfa(x, y)))

        return run

    compiled = NFAugment(checkpoint, p=0.5)
    flow: Any = compiled.engine.on(torch.device(args.device))[0]
    backend = "eager" if args.tiny else "inductor"  # which takes minutes
    flow.encode, flow.decode = (
        torch.compile(call, backend=backend) for call in (flow.encode, flow.decode)
    )
    jobs = {
        "no NFA": loop(None),
        "plain calls": loop(NFAugment(checkpoint, p=0.5)),
        "torch.compile": loop(compiled),
    }
    times = race(jobs, args.rounds, args.device)
    model = "ResNet-18" if args.tiny else "ResNet-50"
    yield f"\n{model}, batch {batch}, {size} x {size}, {args.flow}, p = 0.5"
    yield "\n| NFA | ms per step | ratio | lowest and highest |\n|---|---|---|---|"
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times["no NFA"], strict=True)]
        yield (
            f"| {name} | {1e3 * statistics.median(seconds) / steps:.2f} | "
            f"{statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"
        )


def bank(args: argparse.Namespace, checkpoint: Any) -> Iterator[str]:
    size, count = (32, 20) if args.tiny else (224, 4096)
    images, labels = pictures(count, size, "cpu")
    yield "\n| bank of 4 variants | images/s |\n|---|---|"
    for residual in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            data = TensorDataset(images, labels)
            options: dict[str, Any] = {"residual": residual, "progress": False}
            make_bank(checkpoint, data, Path(folder) / "bank", batch_size=128, **options)
            rate = count / (time.perf_counter() - start)
        yield f"| {'residuals' if residual else f'whole, {size} x {size}'} | {rate:.1f} |"


def report(args: argparse.Namespace) -> Iterator[str]:
    """The lines of the report."""
    torch.manual_seed(0)
    cuda = args.device.startswith("cuda")
    card = torch.cuda.get_device_name() if cuda else f"no GPU ({platform.processor() or 'a CPU'})"
    yield f"{card}; PyTorch {torch.__version__}{'; tiny: a check, no figures' * args.tiny}"
    checkpoint = nfaug.load(args.flow).to(torch.device(args.device))
    for part in (flow_tables, exactness, online, bank):
        yield from part(args, checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny models: does everything run?")
    parser.add_argument("--flow", default="builtin:rgb32", help="the flow of parts 2 to 4")
    parser.add_argument("--rounds", type=int, help="rounds that count (7, or 1 with --tiny)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="a Markdown file to also write the report to")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.tiny else 7)
    if not args.tiny and not args.device.startswith("cuda"):
        parser.error("there is no GPU here; --tiny checks on a CPU that everything runs")
    lines = []
    for line in report(args):
        print(line, flush=True)
        lines.append(line)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
