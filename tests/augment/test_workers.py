"""NFAugment in data-loader workers of all start methods."""

from __future__ import annotations

import pytest
import torch
from tools.nfa import batch_of, checkpoint
from torch.utils.data import DataLoader, TensorDataset

from nfaug.augment.transform import NFAugment
from nfaug.integrations.torchvision import NFACollate


@pytest.mark.parametrize(
    ("method", "sharing"),
    [("fork", None), ("spawn", None), ("forkserver", None), ("spawn", "file_system")],
)
def test_workers_of_every_start_method(
    method: str, sharing: str | None, request: pytest.FixtureRequest
) -> None:
    if sharing is not None:
        before = torch.multiprocessing.get_sharing_strategy()
        request.addfinalizer(lambda: torch.multiprocessing.set_sharing_strategy(before))
        torch.multiprocessing.set_sharing_strategy(sharing)
    if method not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform has no start method {method!r}")
    images, labels = batch_of(16)
    nfa = NFAugment(checkpoint(), p=1.0, gate=None, generator=torch.Generator())
    nfa(images, labels)  # counters that hold counts travel to the workers too
    loader = DataLoader(
        TensorDataset(images, labels),
        batch_size=8,
        collate_fn=NFACollate(nfa),
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=method,
    )
    first = torch.cat([batch for batch, _ in loader])
    assert (first != images).flatten(1).any(1).all()
    nfa.enabled = False
    assert torch.equal(torch.cat([batch for batch, _ in loader]), images), "shared with workers"
    assert nfa.stats()["seen"] == 32, "workers count, too"
