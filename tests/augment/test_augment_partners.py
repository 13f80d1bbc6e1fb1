"""Partners are other images of the same class."""

from __future__ import annotations

import dataclasses

import torch
from tools.nfa import checkpoint, images_of
from torch import Tensor

from nfaug.augment.draws import Draws, pick_in_memory
from nfaug.augment.transform import NFAugment

LABEL = 1
LABELS = torch.full((40,), LABEL)
FITTED = images_of(LABELS, seed=100 + LABEL)  # what the memory of `checkpoint` was made of


def drawn(nfa: NFAugment, partner: Tensor, fallback: Tensor) -> Draws:
    """Draws with row partner[i] of the class for image i, and row fallback[i] for self-matches."""
    draws = nfa.draw(LABELS)
    start = LABEL * 40
    rows = {"partner": start + partner, "fallback": start + fallback}
    return dataclasses.replace(draws, index=torch.arange(40), **rows)


def make_nfa() -> NFAugment:
    return NFAugment(checkpoint(), p=1.0, gate=None)


def test_self_matches_use_the_fallback_row() -> None:
    own = torch.arange(40)
    for images in (FITTED, FITTED / 255, FITTED.half() / 255):
        nfa = make_nfa()
        draws = drawn(nfa, own, own.roll(1))
        new = nfa.replay(images, LABELS, draws)[0]
        expected = nfa.replay(images, LABELS, dataclasses.replace(draws, partner=draws.fallback))[0]
        assert torch.equal(new, expected)
        assert (new != images).flatten(1).any(1).all()
    assert nfa.stats()["applied"] == 80


def test_without_other_images_there_is_no_partner() -> None:
    nfa = make_nfa()
    own = torch.arange(40)
    new = nfa.replay(FITTED, LABELS, drawn(nfa, own, own))[0]
    assert torch.equal(new, FITTED)
    assert nfa.stats()["no_partner"] == 40


def test_equal_images_are_not_partners() -> None:
    nfa = NFAugment(checkpoint(memory=False), p=1.0, gate=None)
    images, labels = FITTED[[3, 3]], LABELS[:2]
    assert torch.equal(nfa(images, labels)[0], images)
    assert nfa.stats()["no_partner"] == 2


def test_the_fallback_row_is_uniform() -> None:
    offsets = torch.tensor([0, 5, 5, 6])
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(2**31, (2, 4000), generator=generator)
    row, other, stored = pick_in_memory(first, second, torch.zeros(4000).long(), offsets)
    assert stored.all()
    assert (row != other).all()
    times = torch.bincount(5 * row + other, minlength=25).view(5, 5)
    assert not times.diagonal().any()
    assert (times.sum(1) - 800).abs().max() < 100
    assert (times + 200 * torch.eye(5) - 200).abs().max() < 50
    labels = torch.tensor([1, 2])
    row, other, stored = pick_in_memory(first[:2], second[:2], labels, offsets)
    assert stored.tolist() == [False, True]
    assert (int(row[1]), int(other[1])) == (5, 5)
