"""Random valid and invalid batches: NFAugment raises ValueError or returns a valid result."""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytest
import torch
from tools.nfa import CLASSES, batch_of, checkpoint, images_of
from torch import Tensor

from nfaug.augment.transform import NFAugment

SIZES = [(8, 8), (8, 8), (8, 8), (5, 7), (16, 16), (33, 12), (1, 1), (4, 64)]
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
ALL = ("applied", "no_partner", "gated", "fell_back")
GAPS = (float("nan"), float("inf"), -float("inf"))


def random_augment(rng: random.Random, channels: int, normalised: bool) -> NFAugment:
    memory, mix = rng.random() < 0.6, rng.choice(["axis", "pair", "regions"])
    parts = checkpoint(channels=channels, memory=memory)
    return NFAugment(
        parts,
        p=rng.choice([0.0, 0.1, 0.5, 1.0, [0.2, 0.9, 0.5]]),
        alpha=rng.choice([0.05, 0.5, 1.0, 4.0]),
        mix=mix,
        partners=rng.choice(["auto", "batch", "memory"] if memory else ["auto", "batch"]),
        strength=rng.choice([0.0, 0.5, 1.0, 3.0, 30.0]),
        noise=rng.choice([0.0, 0.0, 0.3, 3.0]),
        gate=rng.choice([1.25, None, 0.7]),
        mean=0.45 if normalised else None,
        std=0.22 if normalised else None,
    )


def random_labels(rng: random.Random, count: int) -> tuple[Tensor, Any, bool]:
    """Class of each image, what is passed as labels, and whether that must be refused."""
    index = torch.randint(CLASSES, (count,))
    hot = torch.nn.functional.one_hot(index, CLASSES).float()
    kind = rng.randrange(12)
    if kind < 6:
        return index, index.to(rng.choice(INTEGERS)), False
    if kind < 8:
        return index, hot.to(rng.choice(FLOATS)), False
    if kind < 10:
        return index, hot.tolist(), False
    if kind == 10:
        return index, index + rng.choice([-CLASSES, CLASSES]), count > 0
    return index, 0.6 * hot + 0.4 * hot.roll(1, 1), count > 0


def same_bits(one: Tensor, two: Tensor) -> bool:
    return torch.equal(one.nan_to_num(7, 8, 9), two.nan_to_num(7, 8, 9))


def one_batch(seed: int) -> str:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    channels, eight_bit, normalised = rng.choice([1, 3]), rng.random() < 0.3, rng.random() < 0.3
    nfa = random_augment(rng, channels, normalised)
    count = rng.choice([0, 1, 2, 3, 7, 16])
    index, labels, refused = random_labels(rng, count)
    images = images_of(index, seed=seed, channels=channels, size=rng.choice(SIZES))
    if rng.random() < 0.2:
        images = torch.randint_like(images, 256)
    poisoned = torch.zeros(count, dtype=torch.bool)
    if not eight_bit:
        images = (images / 255 - 0.45) / 0.22 if normalised else images / 255
        if normalised and rng.random() < 0.3:  # random erasing with noise
            images[:, :, : rng.randrange(images.shape[2] + 1)].normal_()
        images = images.to(rng.choice(FLOATS))
        poisoned = torch.rand(count) < rng.choice([0.0, 0.0, 0.3, 1.0])
        for i in poisoned.nonzero().flatten().tolist():
            images[i].flatten()[rng.randrange(images[i].numel()) :] = rng.choice(GAPS)
    if rng.random() < 0.3:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    if refused:
        with pytest.raises(ValueError, match="labels"):
            nfa(images, labels)
        assert same_bits(images, before)
        return "refused"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "images hold NaN")
        torch.manual_seed(seed)
        draws = nfa.draw(labels)
        torch.manual_seed(seed)
        new, same = nfa(images, labels)
    assert same == labels if isinstance(labels, list) else same is labels
    assert same_bits(images, before), f"seed {seed}: changed in place"
    assert (new.shape, new.dtype, new.stride()) == (images.shape, images.dtype, images.stride())
    assert torch.isfinite(new[~poisoned]).all(), f"seed {seed}: not finite"
    assert same_bits(new[poisoned], images[poisoned]), f"seed {seed}: a poisoned image changed"
    differs = (new != images).flatten(1).any(1) & ~poisoned
    stats = nfa.stats()
    assert stats["seen"] == count
    assert stats["not_finite"] == poisoned.sum(), seed
    tried = draws.chosen & ~poisoned[draws.index]
    assert sum(stats[name] for name in ALL) == tried.sum(), f"seed {seed}: uncounted"
    assert differs.sum() <= stats["applied"], seed
    if nfa.config.noise:  # which needs no partner
        assert stats["no_partner"] == 0, seed
    if not normalised and not eight_bit:
        assert ((new[~poisoned] >= 0) & (new[~poisoned] <= 1)).all(), seed
    return "changed" if differs.any() else "unchanged"


def test_two_hundred_random_batches() -> None:
    kinds = [one_batch(seed) for seed in range(200)]
    assert min(kinds.count(kind) for kind in ("changed", "unchanged", "refused")) > 10


@pytest.mark.parametrize("settings", [{"strength": 3e38}, {"noise": 3e38}, {"noise": 6e37}])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_overflow_falls_back(settings: dict[str, float], dtype: torch.dtype) -> None:
    images, labels = batch_of(24)
    if dtype != torch.uint8:
        images = (images / 255).to(dtype)
    generator = torch.Generator().manual_seed(0)
    nfa = NFAugment(checkpoint(), p=0.75, gate=None, generator=generator, **settings)
    draws = nfa.draw(labels)
    new, _ = nfa.replay(images, labels, draws)
    assert torch.isfinite(new).all()
    # Of 6e37 it is the decoder that overflows, for some of the images.
    assert torch.isfinite(draws.noise).all() == (settings != {"noise": 3e38})
    changed = (new != images).flatten(1).any(1)
    stats = nfa.stats()
    assert stats["fell_back"] > 0
    assert stats["not_finite"] == 0
    assert sum(stats[name] for name in ALL) == draws.chosen.sum() == 18
    assert changed.sum() <= stats["applied"], "images that fell back are unchanged"
