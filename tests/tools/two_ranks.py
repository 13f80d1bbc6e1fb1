"""Two processes of a distributed run, each with NFA inside its model; each saves what it saw.

A script of its own: in the tests' process, with its threads, no process should be forked.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nfaug.augment.transform import NFAugment
from tools.nfa import CLASSES, batch_of, checkpoint

RANKS = 2


class Model(nn.Module):
    def __init__(self, nfa: NFAugment) -> None:
        super().__init__()
        self.nfa = nfa
        self.head = nn.Linear(192, CLASSES)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        new, _ = self.nfa(images, labels)
        return self.head(new.flatten(1)), new


def work(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    torch.save([train() for _ in range(2)], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def train() -> dict[str, Any]:
    """Two epochs of one batch, which is the same on both ranks."""
    nfa = NFAugment(checkpoint(), p=1.0, generator=torch.Generator().manual_seed(0))
    model = nn.parallel.DistributedDataParallel(Model(nfa))
    images, labels = batch_of(8)
    seen = []
    for _ in range(2):
        logits, new = model(images / 255, labels)
        nn.functional.cross_entropy(logits, labels).backward()
        seen.append(new)
    return {
        "images": torch.stack(seen),
        "grad": model.module.head.weight.grad,
        "keys": list(model.state_dict()),
        "stats": nfa.stats(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).mkdir(exist_ok=True)
    torch.multiprocessing.start_processes(work, (sys.argv[1],), RANKS, start_method="fork")
