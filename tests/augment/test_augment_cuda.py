"""On a GPU NFAugment never synchronizes the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tools.device import waiting_is_an_error
from tools.nfa import CLASSES, batch_of, checkpoint

from nfaug.augment.transform import NFAugment

NEEDS_CUDA = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="only CUDA detects synchronization"
)


@NEEDS_CUDA
@pytest.mark.parametrize("mix", ["axis", "regions"])
@pytest.mark.parametrize("partners", ["auto", "batch", "memory"])
@pytest.mark.parametrize("share", [0.8, [0.2, 0.5, 1.0]])
def test_no_synchronization(mix: Any, partners: Any, share: float | list[float]) -> None:
    images, labels = batch_of(16)
    unit, there, soft = (
        x.to("cuda")
        for x in (images / 255, labels, torch.nn.functional.one_hot(labels, CLASSES).float())
    )
    nfa = NFAugment(checkpoint(), p=share, mix=mix, partners=partners, noise=0.1, mean=0.0, std=1.0)
    for _ in range(8):  # the flow is copied to the GPU, and values of the first batches are checked
        nfa(unit, there)
    drawn = nfa.draw(there)
    torch.cuda.synchronize()
    with waiting_is_an_error():
        for given in (there, soft, labels):  # the last on the CPU, as some loops leave them
            nfa(unit, given)
        new, _ = nfa.replay(unit, there, drawn)
        empty, _ = nfa(unit[:0], there[:0])
    assert nfa.stats()["seen"] == 12 * 16
    expected, _ = nfa.replay(unit.cpu(), labels, drawn.to("cpu"))
    assert (new.cpu() - expected).abs().mean() < 1e-2, "the copies were complete"
    assert empty.shape == (0, 3, 8, 8)
