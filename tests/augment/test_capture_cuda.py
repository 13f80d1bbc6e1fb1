"""CUDA graphs and the second stream give the images of the plain calls."""

from __future__ import annotations

import pytest
import torch
from nfa_tools import batch_of, checkpoint

from nfaug.augment.prefetch import augmented_ahead
from nfaug.augment.transform import NFAugment

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@pytest.mark.parametrize("size", [(8, 8), (20, 20)])
def test_replays_equal_plain_calls(size: tuple[int, int]) -> None:
    plain, captured = NFAugment(checkpoint(), p=0.6), NFAugment(checkpoint(), p=0.6, capture=True)
    for step in range(6):
        images, labels = (x.to("cuda") for x in batch_of(20 - step % 2, seed=step, size=size))
        params = plain.make_params(labels)
        expected = plain(images, labels, params=params)[0]
        found = captured(images, labels, params=params)[0]
        assert (found.int() - expected.int()).abs().max() <= 1
    assert captured.stats()["seen"] == plain.stats()["seen"]
    graphs = captured._captured._graphs  # type: ignore[union-attr]
    assert len(graphs) == 1, "12 augmented images of 19 or 20 are padded to 16"
    assert all(graphs.values())


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_batches_ahead_are_those_of_a_plain_loop(place: str) -> None:
    loader = [[x.to(place) for x in batch_of(10, seed=seed)] for seed in range(5)]
    torch.manual_seed(0)
    nfa = NFAugment(checkpoint())
    expected = [nfa(images.cuda(), labels.cuda())[0] for images, labels in loader]
    torch.manual_seed(0)
    found = [images.clone() for images, _ in augmented_ahead(loader, nfa, "cuda")]
    for one, other in zip(found, expected, strict=True):
        assert (one.int() - other.int()).abs().max() <= 1
