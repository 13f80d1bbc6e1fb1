"""What goes through the flow, and far images, whose round trip float32 cannot do."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import pytest
import torch
from tools.device import pretended_gpu
from tools.nfa import CLASSES, NAMES, Counted, TensorImages, checkpoint, images_of
from torch import Tensor

import nfaug
from nfaug.augment import engine
from nfaug.augment.counters import Outcome, outcomes
from nfaug.augment.mixing import Batch
from nfaug.augment.transform import NFAugment
from nfaug.checkpoint.checkpoint import Checkpoint


@functools.cache
def steep() -> Checkpoint:
    """A bundled flow whose first scale is raised, so that some images lie beyond the limit."""
    loaded = nfaug.load("builtin:fashion-mnist")
    scale = loaded.flow.get_parameter("blocks.0.0.actnorm.scale")
    with torch.no_grad():
        scale.copy_(torch.nn.functional.softplus(scale).mul(1.5).expm1().log())
    return loaded


@functools.cache
def foreign() -> Tensor:
    """Noise, black or white pixels, gradients and their inversions, single pixels and rolls."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (12, 1, 28, 28), generator=generator, dtype=torch.uint8)
    extreme = (noise > 127).to(torch.uint8) * 255
    smooth = (torch.linspace(0, 255, 28)[:, None] * torch.linspace(0.1, 1, 28)).to(torch.uint8)
    smooth = torch.stack([smooth.roll(3 * i, 1) for i in range(8)])[:, None]
    single = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    single[range(4), 0, [0, 27, 14, 0], [0, 27, 14, 27]] = 255
    flat = torch.tensor([0, 255, 128, 1], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 28, 28)
    return torch.cat([noise, extreme, smooth, 255 - smooth, single, 255 - single, flat])


def far(images: Tensor) -> Tensor:
    return steep().flow.encode(images)[0].abs().flatten(1).amax(1) > engine.FAR


def unchanged(**settings: Any) -> NFAugment:
    nfa = NFAugment(steep(), p=1.0, noise=1e-9, strength=0.0, gate=None, **settings)
    nfa.check_classes(nfa.classes)
    return nfa


@pytest.mark.parametrize("batch", [7, 64])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_foreign_images_come_back_bit_for_bit(batch: int, device: str) -> None:
    """Far images stay as they are, and are counted, on every device."""
    images = foreign()
    nfa = unchanged()
    context = pretended_gpu() if device == "cuda" else contextlib.nullcontext()
    with context:
        for part in images.split(batch):
            labels = torch.zeros(len(part), dtype=torch.int64)
            new = nfa(part.to(device), labels.to(device))[0]
            assert torch.equal(new.cpu(), part)
        stats = nfa.stats()
    assert stats["seen"] == len(images)
    assert stats["far"] == far(images).sum()
    assert 0 < stats["far"] < len(images)
    assert stats["applied"] == len(images) - stats["far"]


@pytest.mark.parametrize("memory", [True, False])
def test_chosen_images_and_partners_are_encoded_and_changed_ones_decoded(
    counted: Counted, memory: bool
) -> None:
    """On the CPU. Images that the gate then leaves unchanged were encoded; partners are, too."""
    labels = torch.arange(60) % CLASSES
    images = images_of(labels, seed=3)
    torch.manual_seed(0)
    nfa = NFAugment(checkpoint(memory=memory), p=0.3, gate=0.9)
    draws = nfa.draw(labels)
    new, _ = nfa.replay(images, labels, draws)
    through = set(draws.index[draws.chosen].tolist())
    assert len(through) == 18
    if not memory:
        through |= set(draws.index[draws.partner[draws.chosen]].tolist())
    changed = int((new != images).flatten(1).any(1).sum())
    assert sum(counted.encoded) == len(through)
    assert sum(counted.decoded) == changed == nfa.stats()["applied"]
    assert 0 < nfa.stats()["gated"] < 18


class Means(torch.nn.Module):
    """An autoencoder that loses what lies between pixels."""

    latent_channels = 3
    factor = 2
    input_range = (0.0, 1.0)

    def encode(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 2)

    def decode(self, z: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(z, scale_factor=2)


def test_latents_are_decoded_with_their_change_and_without(counted: Counted) -> None:
    """Since the change alone is added to the image. Images outside of the gate are not decoded."""
    labels = torch.arange(60) % CLASSES
    data = TensorImages(images_of(labels, seed=3), labels, NAMES)
    fitted = nfaug.fit("builtin:pixels", data, rank=8, autoencoder=Means(), progress=False)
    assert fitted.pca is not None
    z = fitted.flow.encode(data.images)[0]
    inside = fitted.pca.gate(z, labels, radius=0.9)
    torch.manual_seed(0)
    nfa = NFAugment(fitted, p=0.3, gate=0.9)
    counted.decoded.clear()
    draws = nfa.draw(labels)
    nfa.replay(data.images, labels, draws)
    applied = nfa.stats()["applied"]
    unmixed = int(inside[draws.index[draws.chosen]].sum())
    assert counted.decoded == [unmixed, applied]
    assert 0 < applied < unmixed < 18, "the gate leaves out an image, and a variant"


def test_the_first_reason_of_an_image_counts() -> None:
    """Image 0 has all reasons to stay as it is, each other one reason less, and the last none."""
    reasons = ["NOT_FINITE", "UNCHOSEN", "FELL_BACK", "NO_PARTNER", "GATED", "FAR"]
    position = torch.arange(len(reasons) + 1)
    ok, chosen, finite, paired, inside, near = (position > number for number in range(6))
    labels = torch.zeros_like(position)
    nfa = NFAugment(checkpoint(), p=1.0, partners="memory")
    batch = Batch(images_of(labels, seed=3), labels, ok, nfa.normalization)
    encoded = nfa.engine.encode(batch, position, None)
    z = torch.where(finite[:, None, None, None], encoded.z, torch.inf)
    encoded = encoded._replace(z=z, inside=inside, near=near)
    draws = dataclasses.replace(nfa.draw(labels), index=position, chosen=chosen, paired=paired)
    checks = nfa.engine.mix(encoded, draws, None).checks
    outcome = outcomes(ok, position, checks)
    assert [Outcome(code).name for code in outcome.tolist()] == [*reasons, "APPLIED"]
