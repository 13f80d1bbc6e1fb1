"""A break of the adapter to timm beside accelerate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.data_loader import prepare_data_loader
from tools.nfa import batch_of, checkpoint
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from nfaug.augment.transform import NFAugment
from nfaug.integrations.timm import NFALoader


def test_a_loader_that_accelerate_does_not_share_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break 68: after `accelerator.prepare(NFALoader(...))` each process read all images."""
    images, labels = batch_of(24)
    loader: Any = DataLoader(TensorDataset(images, labels), batch_size=4, shuffle=True)
    nfa = NFAugment(checkpoint())
    assert len(list(NFALoader(loader, nfa))) == 6
    two = prepare_data_loader(loader, num_processes=2, process_index=0)
    monkeypatch.setattr("accelerate.state.is_initialized", lambda: True)
    monkeypatch.setattr("accelerate.state.PartialState", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match="prepare"):
        next(iter(NFALoader(loader, nfa)))
    assert len(list(NFALoader(two, nfa))) == 3, "half of the batches"
    own = DistributedSampler(loader.dataset, num_replicas=2, rank=0)
    shared: Any = DataLoader(loader.dataset, batch_size=4, sampler=own)
    assert len(list(NFALoader(shared, nfa))) == 3, "a sampler that shares out is fine"
