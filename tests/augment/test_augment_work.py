"""Images that will not change are neither encoded nor decoded."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from nfa_tools import CLASSES, Counted, checkpoint, images_of

from nfaug.augment.transform import NFAugment
from nfaug.flows.codec import PixelCodec


@pytest.mark.parametrize("exact", [True, False])
def test_only_images_that_change_are_encoded_and_decoded(
    counted: Counted, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    """On the CPU. Where the codec is not exact, their unmixed latents are decoded, too."""
    monkeypatch.setattr(PixelCodec, "exact", exact)
    labels = torch.arange(60) % CLASSES
    images = images_of(labels, seed=3)
    nfa = NFAugment(checkpoint(), p=0.3, gate=False)
    nfa(images, labels)
    assert sum(counted.encoded) == nfa.stats()["applied"] == 18
    assert sum(counted.decoded) == 18 * (1 if exact else 2)


def test_partners_of_the_batch_are_encoded_and_not_decoded(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PixelCodec, "exact", False)
    labels = torch.zeros(40, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    p = (0.3, *(0.0,) * (CLASSES - 1))
    nfa = NFAugment(checkpoint(memory=False), p=p, gate=False, generator=generator)
    params = nfa.make_params(labels)
    first = torch.arange(len(params.index)) < 4
    params = dataclasses.replace(params, chosen=first)
    needed = int(params.needed().sum())
    assert 4 < needed <= 8
    nfa(images_of(labels, seed=3), labels, params=params)
    assert sum(counted.encoded) == needed
    assert sum(counted.decoded) == 2 * 4
