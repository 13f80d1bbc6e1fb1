"""A process of `torchrun`: steps of a flow's training, whose gradients a group averages.

It writes the backend, milliseconds a step, and the largest difference of the weights from those
that are trained without a group, which must be 0 or rounding.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from nfaug.classes.gaussians import ClassGaussians
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig
from nfaug.run.ranks import Ranks
from nfaug.training import TrainConfig
from nfaug.training.distributed import averaging
from nfaug.training.loop import FlowLoss
from nfaug.training.optimizer import FlowOptimizer


def trained(ranks: Ranks, tiny: bool) -> tuple[Tensor, float]:
    """Weights after some steps, and milliseconds of a step."""
    mef = MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8)) if tiny else MefConfig()
    count = 8 if tiny else 64
    torch.manual_seed(0)
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8).to(ranks.device)
    noise = torch.rand(count, 3, 32, 32).to(ranks.device)
    labels = torch.arange(count).to(ranks.device) % 10
    flow = Flow(FlowConfig(3, (32, 32), mef)).to(ranks.device)
    flow.initialize(images / 127.5 - 1)
    flow.train()
    means = torch.zeros(10, flow.config.dim)
    gaussians = ClassGaussians(means, torch.ones_like(means)).to(ranks.device)
    optimizer = FlowOptimizer(flow, TrainConfig(lr=1e-4))
    model = averaging(FlowLoss(flow), ranks)
    steps = 2 if tiny else 20
    start = 0.0
    for number in range(steps + 2):
        if number == 2:
            _sync(ranks)
            start = time.perf_counter()
        loss = model(images, noise, labels, gaussians).sum() / count
        stepped, _ = optimizer.step(loss, 0.5, loss.detach()[None])
        if not stepped:
            raise ArithmeticError("the step was skipped: its loss or gradient is not finite")
        ranks.sum(loss.detach())
    _sync(ranks)
    ms = 1e3 * (time.perf_counter() - start) / steps
    weights = torch.cat([each.detach().flatten().cpu() for each in flow.parameters()])
    return weights, ms


def _sync(ranks: Ranks) -> None:
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)


def main(device: str, file: str, *options: str) -> None:
    """Train with and without a group, and write the figures."""
    place = torch.device(device)
    backend = "gloo"
    if place.type == "cuda":
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend)
    tiny = "--tiny" in options
    # More than one process, as far as nfaug can tell: a single one would take no part in a group.
    together, ms = trained(Ranks(2, 0, place), tiny)
    torch.distributed.destroy_process_group()
    alone, _ = trained(Ranks(1, 0, place), tiny)
    difference = float((together - alone).abs().max())
    Path(file).write_text(f"{backend} {ms} {difference}")


if __name__ == "__main__":
    main(*sys.argv[1:])
