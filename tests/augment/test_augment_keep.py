"""keep="consistent": variants that the flow takes for another class are not handed out."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from nfa_tools import CLASSES, batch_of, checkpoint, fitted
from torch.utils.data import TensorDataset

from nfaug import ClassGaussians, NFAugment
from nfaug.augment.views import gated_share
from nfaug.integrations.timm import format_stats


def augment(parts: Any, **settings: Any) -> NFAugment:
    generator = torch.Generator().manual_seed(0)
    return NFAugment(parts, p=1.0, gate=False, generator=generator, **settings)


def test_a_variant_of_another_class_stays_as_it_came() -> None:
    images, labels = batch_of(30)
    nfa = augment(fitted(shift=100.0), keep="consistent")
    new, _ = nfa(images, labels)
    zeros = labels == 0
    assert torch.equal(new[zeros], images[zeros]), "no latent is near that mean"
    stats = nfa.stats()
    assert stats["inconsistent"] >= int(zeros.sum()) > 0
    assert stats["applied"] + stats["inconsistent"] == 30
    assert stats["applied"] > 0
    everything, _ = augment(fitted(shift=100.0))(images, labels)
    kept = (new != images).flatten(1).any(1)
    assert torch.equal(new[kept], everything[kept]), "what is kept is what it would have been"


def test_what_is_kept_is_of_its_class() -> None:
    images, labels = batch_of(60)
    parts = fitted()
    nfa = augment(parts, keep="consistent", strength=30.0)
    new, _ = nfa(images, labels)
    kept = (new != images).flatten(1).any(1)
    assert 0 < int(kept.sum()) < 60
    assert parts.gaussians is not None
    guesses = parts.gaussians.classify(parts.flow.encode(new[kept])[0])
    # Decoding rounds to 8 bits, which moves a latent a little.
    assert float((guesses == labels[kept]).float().mean()) > 0.9


def test_it_is_off_unless_asked_for() -> None:
    nfa = augment(fitted(shift=100.0))
    nfa(*batch_of(12))
    assert "inconsistent" not in nfa.stats()
    assert nfa.stats()["applied"] == 12


def test_it_needs_gaussians_of_the_classes() -> None:
    with pytest.raises(ValueError, match="keep='consistent'"):
        augment(checkpoint(), keep="consistent")
    one = fitted()
    one.gaussians = ClassGaussians(torch.zeros(1, 192), torch.ones(1, 192))
    with pytest.raises(ValueError, match="keep='consistent'"):
        augment(one, keep="consistent")
    with pytest.raises(ValueError, match="keep"):
        augment(fitted(), keep="some")


def test_it_survives_a_worker() -> None:
    images, labels = batch_of(30)
    nfa = augment(fitted(shift=100.0), keep="consistent")
    expected, _ = copy.deepcopy(nfa)(images, labels)
    other = pickle.loads(pickle.dumps(nfa))
    assert torch.equal(other(images, labels)[0], expected)
    assert other.stats()["inconsistent"] > 0
    assert NFAugment(nfa.engine, keep="consistent").num_classes == CLASSES


def test_reports_count_it() -> None:
    images, labels = batch_of(30)
    nfa = augment(fitted(shift=100.0), keep="consistent")
    nfa(images, labels)
    assert f"inconsistent {nfa.stats()['inconsistent']}" in format_stats(nfa.stats())
    shares = gated_share(nfa, TensorDataset(images, labels))
    assert round(30 * shares["inconsistent"]) >= int((labels == 0).sum()) > 0
