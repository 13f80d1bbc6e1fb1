"""mix="regions": masks over positions in the place of weights of axes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tools.nfa import CLASSES, batch_of, checkpoint, images_of, tiny_flow
from torch import Tensor
from torch.nn import functional as F

import nfaug
from nfaug.augment.draws import draw
from nfaug.augment.regions import draw_masks, mix_by_region
from nfaug.augment.transform import NFAugment


def regions(parts: Any = None, **settings: Any) -> NFAugment:
    settings = {"p": 1.0, "strength": 1.0, "gate": None, **settings}
    return NFAugment(checkpoint() if parts is None else parts, mix="regions", **settings)


def changed(one: Tensor, two: Tensor) -> Tensor:
    return (one != two).flatten(1).any(1)


def test_masks_choose_between_two_images() -> None:
    masks = draw_masks(np.random.default_rng(0), 500, alpha=1.0, strength=1.0)
    assert (masks.shape, masks.dtype) == ((500, 32, 32), np.float32)
    assert masks.min() == 0
    assert masks.max() == 1
    assert abs(masks.mean() - 0.5) < 0.02
    share = masks.mean((1, 2))
    assert ((share > 0.05) & (share < 0.95)).all(), "each has a part of both images"
    assert 0.6 < ((masks == 0) | (masks == 1)).mean() < 0.75, "most positions are of one image"
    steps = np.concatenate([np.diff(masks, axis=1).ravel(), np.diff(masks, axis=2).ravel()])
    assert np.quantile(abs(steps), 0.99) < 0.5, "with soft borders"
    variance = 1 - 2 * masks.mean() + 2 * np.square(masks).mean()
    assert variance == pytest.approx(0.89, abs=0.02), "of the class"


def test_strength_and_alpha_of_masks() -> None:
    def drawn(alpha: float, strength: float) -> np.ndarray:
        return draw_masks(np.random.default_rng(0), 100, alpha=alpha, strength=strength)

    one = drawn(1.0, 1.0)
    assert not drawn(1.0, 0.0).any()
    assert np.array_equal(drawn(1.0, 0.5), 0.5 * one)
    assert np.array_equal(drawn(1.0, 1.5), np.minimum(1, np.float32(1.5) * one))
    assert drawn(0.1, 1.0).std() > one.std() > 2 * drawn(50.0, 1.0).std()
    assert draw_masks(np.random.default_rng(0), 0, alpha=1.0, strength=1.0).shape == (0, 32, 32)


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (24, 40), (8, 8), (1, 1)])
def test_masks_fit_latents_of_any_size(size: tuple[int, int]) -> None:
    masks = torch.from_numpy(draw_masks(np.random.default_rng(0), 4, alpha=1.0, strength=1.0))
    z1, z2 = torch.zeros(4, 3, *size), torch.ones(4, 3, *size)
    mixed = mix_by_region(z1, z2, masks)
    assert mixed.shape == z1.shape
    assert torch.equal(mixed.clamp(0, 1 + 1e-6), mixed)
    assert torch.equal(mixed[:, 0], mixed[:, 2]), "channels share the mask"
    assert torch.allclose(mixed.mean((1, 2, 3)), masks.mean((1, 2)), atol=0.06)
    if size == (32, 32):
        assert torch.equal(mixed[:, 0], masks)


@pytest.mark.parametrize("partners", ["batch", "memory"])
def test_the_formula(partners: Any) -> None:
    parts, flow = checkpoint(), tiny_flow()
    pca: Any = parts.pca
    nfa = regions(p=0.7, partners=partners, generator=torch.Generator().manual_seed(0))
    images, labels = batch_of(21)
    draws = nfa.draw(labels)
    new, _ = nfa.replay(images, labels, draws)
    assert draws.weights.shape == (15, 32, 32)
    assert draws.from_memory.any() == (partners != "batch")
    assert draws.from_memory.all() == (partners == "memory")
    z = flow.encode(images)[0]
    expected = images.clone()
    for slot, i in enumerate(draws.index.tolist()):
        axes, mean = pca.axes[labels[i]], pca.mean[labels[i]]
        partner = int(draws.partner[slot])
        if draws.from_memory[slot]:
            z2 = (mean + pca.memory[partner].float() @ axes).view_as(z[i])
        else:
            z2 = z[draws.index[partner]]
        mask = draws.weights[slot][None, None]
        w = F.interpolate(mask, (8, 8), mode="bilinear", antialias=True)
        expected[i] = flow.decode(z[i : i + 1] + w * (z2 - z[i]))[0]
    assert (new.int() - expected.int()).abs().max() <= 1, "a rounding edge is worth one level"
    assert (new != expected).float().mean() < 1e-3
    assert changed(new, images).sum() == nfa.stats()["applied"] == 15


def test_a_memory_that_spans_its_images_is_as_good_as_the_batch() -> None:
    """Of classes of at most rank + 1 images the partner is the same, but for float16."""
    labels = torch.arange(24) % CLASSES
    images = images_of(labels, seed=3, size=(16, 16))
    fitted = nfaug.fit(
        "builtin:pixels", torch.utils.data.TensorDataset(images, labels), rank=7, progress=False
    )
    assert fitted.pca is not None
    nfa = regions(fitted, partners="batch")
    draws = nfa.draw(labels)
    new, _ = nfa.replay(images, labels, draws)
    row = labels.argsort(stable=True).argsort()[draws.index]  # in the memory, sorted by class
    assert torch.equal(fitted.pca.memory_labels[row], labels[draws.index])
    partner, stored = row[draws.partner], torch.ones_like(draws.from_memory)
    stored = dataclasses.replace(draws, partner=partner, fallback=partner, from_memory=stored)
    again = nfa.replay(images, labels, stored)[0]
    assert changed(new, images).all()
    assert (again.int() - new.int()).abs().max() <= 1


def test_auto_takes_blurred_partners_only_if_the_batch_has_none() -> None:
    """The memory of `checkpoint` has 40 images a class and 8 axes."""
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    draws = regions().draw(labels)
    assert torch.equal(draws.from_memory, labels[draws.index] == 1)
    assert draws.paired.all()
    parts = checkpoint()
    pca: Any = parts.pca
    parts.pca = type(pca)({**pca.tensors(), "counts": torch.tensor([9, 9, 10])})
    draws = regions(parts).draw(labels)
    assert torch.equal(draws.from_memory, labels[draws.index] != 2)


def test_replay_and_seeds() -> None:
    images, labels = batch_of(16)
    nfa = regions(partners="memory", generator=torch.Generator().manual_seed(1))
    draws = nfa.draw(labels)
    first, _ = nfa.replay(images, labels, draws)
    assert torch.equal(nfa.replay(images, labels, draws.to("cpu"))[0], first)
    for seed in (1, 2):
        again = regions(partners="memory", generator=torch.Generator().manual_seed(seed))
        assert torch.equal(again(images, labels)[0], first) == (seed == 1)
    axis = dataclasses.replace(nfa.config, mix="axis")
    pca: Any = checkpoint().pca
    drawn = draw(axis, labels, labels >= 0, pca, torch.Generator().manual_seed(1))
    assert torch.equal(drawn.index, draws.index), "images are drawn as with axes"
    assert torch.equal(drawn.partner, draws.partner)


def test_permuting_the_batch_permutes_the_result() -> None:
    images, labels = batch_of(12)
    nfa = regions(partners="batch")
    draws = nfa.draw(labels)
    new, _ = nfa.replay(images / 255, labels, draws)
    rows = torch.randperm(12)
    moved = dataclasses.replace(draws, index=rows.argsort()[draws.index])
    again = nfa.replay(images[rows] / 255, labels[rows], moved)[0]
    assert changed(new, images / 255).sum() > 8
    assert (again - new[rows]).abs().max() < 1e-5


def test_without_partners_nothing_changes() -> None:
    nfa = regions(checkpoint(memory=False))
    images, labels = images_of(torch.tensor([0, 0, 2])), torch.tensor([0, 0, 2])
    assert nfa(images[:0], labels[:0])[0].shape == (0, 3, 8, 8)
    new, _ = nfa(images, labels)
    assert changed(new, images).tolist() == [True, True, False]
    assert nfa.stats()["no_partner"] == 1
    nfa.config = dataclasses.replace(nfa.config, noise=0.3)
    assert changed(nfa(images, labels)[0], images).all()


@pytest.mark.parametrize("partners", ["batch", "memory"])
def test_strength_zero_is_exact(partners: Any) -> None:
    images, labels = batch_of(32)
    nfa = regions(partners=partners, strength=0.0)
    assert torch.equal(nfa(images, labels)[0], images)
    assert nfa.stats()["applied"] == 32


def test_the_gate_judges_the_whole_partner() -> None:
    """A partner can be outside of the span of the axes, where the gate of axes does not look."""
    labels = torch.zeros(2, dtype=torch.int64)
    images = images_of(labels, seed=1)
    images[1] = torch.randint(256, (3, 8, 8), generator=torch.Generator().manual_seed(0))
    open_, shut = regions(partners="batch"), regions(partners="batch", gate=1.25)
    draws = open_.draw(labels)
    new, _ = open_.replay(images, labels, draws)
    assert changed(new, images).all()
    kept = shut.replay(images, labels, draws)[0]
    assert torch.equal(kept, images)
    assert shut.stats()["gated"] == 2
    shut.config = dataclasses.replace(shut.config, gate=1e4)
    assert torch.equal(shut.replay(images, labels, draws)[0], new)


@pytest.mark.parametrize("size", [(8, 8), (21, 17), (57, 64)])
def test_images_of_any_size_and_type(size: tuple[int, int]) -> None:
    images, labels = batch_of(12, size=size)
    nfa = regions()
    draws = nfa.draw(labels)
    eight, _ = nfa.replay(images, labels, draws)
    unit = nfa.replay(images / 255, labels, draws)[0]
    assert changed(eight, images).all()
    assert (unit * 255 - eight).abs().max() < 0.51
