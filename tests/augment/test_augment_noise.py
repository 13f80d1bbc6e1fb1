"""Gaussian noise in the latent space, with mixing and without."""

from __future__ import annotations

import pytest
import torch
from nfa_tools import batch_of, checkpoint, tiny_flow

from nfaug.augment.pixels import resize
from nfaug.augment.transform import NFAugment
from nfaug.data.preprocess import round_levels

DIM = 3 * 8 * 8


def test_the_formula() -> None:
    nfa = NFAugment(checkpoint(), p=0.6, strength=0.0, noise=0.3, gate=False)
    images, labels = batch_of(20)
    (new, _), params = nfa(images, labels, return_params=True)
    assert params.noise.shape == (12, DIM)
    assert params.noise.std() == pytest.approx(0.3, rel=0.1)
    assert params.noise.mean() == pytest.approx(0, abs=0.03)
    flow = tiny_flow()
    z = flow.encode(images)[0]
    expected = images.clone()
    expected[params.index] = flow.decode(z[params.index] + params.noise.view(12, 3, 8, 8))
    off = (new.int() - expected.int()).abs()
    assert off.max() <= 1, "a rounding at most"
    assert (off > 0).float().mean() < 1e-3
    assert nfa.stats()["applied"] == 12
    assert torch.equal(nfa(images, labels, params=params)[0], new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 8), (16, 20)])
def test_every_type_and_size_of_images(dtype: torch.dtype, size: tuple[int, int]) -> None:
    nfa = NFAugment(checkpoint(), p=0.5, strength=0.0, noise=0.5, gate=False)
    images, labels = batch_of(12, size=size)
    images = (images / 255).to(dtype)
    (new, _), params = nfa(images, labels, return_params=True)
    assert (new.shape, new.dtype) == (images.shape, dtype)
    unit, flow = images[params.index].float(), tiny_flow()
    levels = resize(unit, (8, 8)) * 255
    if size != (8, 8):
        levels = round_levels(levels)  # as the images that a flow is fitted to
    moved = flow.encode(levels)[0] + params.noise.view(6, 3, 8, 8)
    change = resize(flow.decode(moved, quantize=False) - levels / 255, size)
    expected = images.clone()
    expected[params.index] = (unit + change).clamp(0, 1).to(dtype)
    off = (new.float() - expected.float()).abs().max()
    assert off <= (1e-4 if dtype == torch.float32 else torch.finfo(dtype).eps), "a rounding at most"
    assert change.abs().amax((1, 2, 3)).min() > 0.01, "each moves"
    assert nfa.stats()["applied"] == 6
    assert torch.equal(nfa(images, labels, params=params)[0], new)


def test_noise_leaves_the_other_draws_as_they_are() -> None:
    labels = batch_of(16)[1]
    plain, noisy = (
        NFAugment(checkpoint(), noise=noise, generator=torch.Generator().manual_seed(1))
        for noise in (0.0, 1.0)
    )
    one, two = plain.make_params(labels), noisy.make_params(labels)
    assert one.noise.shape == (8, 0)
    for name in ("index", "chosen", "partner", "fallback", "from_memory", "paired", "weights"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name


def test_noise_needs_no_partner() -> None:
    images, labels = batch_of(1)
    bare = checkpoint(memory=False)
    for noise, name in ((0.0, "no_partner"), (0.3, "applied")):
        nfa = NFAugment(bare, p=1.0, noise=noise, gate=False)
        new = nfa(images, labels)[0]
        assert torch.equal(new, images) == (noise == 0)
        assert nfa.stats()[name] == 1
