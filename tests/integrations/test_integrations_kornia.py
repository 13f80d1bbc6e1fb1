"""NFAugmentation alone and in kornia's own containers."""

from __future__ import annotations

import copy
import doctest
import pickle
from typing import Any

import pytest
import torch
from kornia import augmentation as kornia
from nfa_tools import batch_of, checkpoint
from torch import Tensor

import nfaug
from nfaug.augment.params import SharedGenerator
from nfaug.augment.settings import MixSettings
from nfaug.integrations.kornia import NFAugmentation, with_labels

KEYS = ["input", "class"]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    images, labels = batch_of(24)
    return images / 255, labels


def made(**options: Any) -> NFAugmentation:
    return NFAugmentation(checkpoint(), **{"p": 1.0, "gate": False, **options})


def test_alone(batch: tuple[Tensor, Tensor]) -> None:
    """With p = 1 it is `NFAugment` with the seed of its parameters."""
    images, labels = batch
    nfa = made()
    new, same = nfa(images, labels)
    assert same is labels
    assert nfa.nfa.stats()["applied"] == len(images)
    generator = SharedGenerator().manual_seed(int(nfa._params["seed"]))
    other = nfaug.NFAugment(checkpoint(), p=1.0, gate=False, generator=generator)
    assert torch.equal(other(images, labels)[0], new)


def test_a_replay_on_another_rank(
    batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = batch
    nfa = made()
    torch.manual_seed(0)
    new, _ = nfa(images, labels)
    drawn = nfa._params
    monkeypatch.setenv("RANK", "1")
    assert torch.equal(nfa(images, labels, params=drawn)[0], new)
    torch.manual_seed(0)
    nfa(images, labels)
    assert nfa._params["seed"] != drawn["seed"], "ranks draw different numbers"


def test_batch_prob_says_what_changed(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    nfa = made(p=0.5)
    new, _ = nfa(images, labels)
    changed = (new != images).flatten(1).any(1)
    assert torch.equal(changed, nfa._params["batch_prob"] > 0.5)
    assert 0 < int(changed.sum()) < len(images)
    assert torch.equal(made(p=0.0)(images, labels)[0], images)


@pytest.mark.parametrize("flip", [False, True])
def test_in_a_container(flip: bool, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    nfa = made(p=0.5)
    after = [kornia.RandomHorizontalFlip(p=1.0)] if flip else []
    augment = with_labels(kornia.AugmentationSequential(nfa, *after, data_keys=KEYS))
    new, same = augment(images, labels)
    assert torch.equal(same, labels)
    assert nfa.labels is None, "a container keeps no labels"
    params = augment._params
    again, _ = augment(images, labels, params=params)
    assert torch.equal(new, again)
    alone, _ = nfa(images, labels, params=params[0].data)
    assert torch.equal(new, alone.flip(-1) if flip else alone)
    other, _ = augment(images, labels)
    assert not torch.equal(new, other)


def test_a_seed_repeats_a_run(batch: tuple[Tensor, Tensor]) -> None:
    augment = with_labels(
        kornia.AugmentationSequential(
            made(p=0.5), kornia.ColorJiggle(0.1, 0.1, 0.1, 0.1), data_keys=KEYS
        )
    )
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(augment(*batch)[0])
    assert torch.equal(*results)


def test_other_ways_to_pass_labels(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    mask = torch.ones(len(images), 1, 8, 8)
    nfa = made(strength=0.0)
    by_key = with_labels(kornia.AugmentationSequential(nfa, data_keys=None))
    out = by_key({"image": images, "mask": mask, "label": labels})
    assert torch.allclose(out["image"], images, atol=1e-4)
    assert torch.equal(out["mask"], mask)
    assert nfa.nfa.stats()["applied"] == len(images)
    late = with_labels(kornia.AugmentationSequential(nfa, data_keys=["input"]))
    late(images, labels, data_keys=KEYS)
    nested = with_labels(
        kornia.AugmentationSequential(kornia.ImageSequential(nfa), data_keys=["image", "label"])
    )
    nested(images, labels)
    assert nfa.nfa.stats()["applied"] == 3 * len(images)


def test_before_the_mix_augmentations(batch: tuple[Tensor, Tensor]) -> None:
    """As a user chains them: kornia's own containers take no labels through a mix augmentation."""
    images, labels = batch
    augment = with_labels(kornia.AugmentationSequential(made(), data_keys=KEYS))
    mixup = kornia.RandomMixUpV2(p=1.0, data_keys=KEYS)
    new, same = augment(images, labels)
    mixed, targets = mixup(new, same)
    assert mixed.shape == images.shape
    assert torch.equal(targets[:, 0].long(), labels)
    with pytest.raises(ValueError, match="mix"):
        augment(mixed, torch.nn.functional.one_hot(labels, 3) * 0.6 + 0.13)


def test_one_image_and_normalization() -> None:
    images, labels = batch_of(8)
    scaled = (images / 255 - 0.5) / 0.25
    nfa = made(mean=0.5, std=0.25, keepdim=True, noise=0.1, strength=0.0)
    one, _ = nfa(scaled[0], labels[0])
    assert one.shape == scaled[0].shape
    assert not torch.equal(one, scaled[0])
    half, _ = nfa(scaled.half(), labels)
    assert half.dtype == torch.float16


def test_inverse_and_matrix(batch: tuple[Tensor, Tensor]) -> None:
    augment = with_labels(
        kornia.AugmentationSequential(made(), kornia.RandomHorizontalFlip(p=1.0), data_keys=KEYS)
    )
    new, labels = augment(*batch)
    back, _ = augment.inverse(new, labels)
    assert torch.equal(back.flip(-1), new)
    assert augment.transform_matrix.shape == (len(labels), 3, 3)


def test_evaluation_copies_and_state(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    augment = with_labels(kornia.AugmentationSequential(made(), data_keys=KEYS))
    assert augment.state_dict() == {}
    for other in (copy.deepcopy(augment), pickle.loads(pickle.dumps(augment))):
        torch.manual_seed(0)
        new, _ = augment(images, labels)
        torch.manual_seed(0)
        assert torch.equal(other(images, labels)[0], new)
    augment.eval()
    assert torch.equal(augment(images, labels)[0], images)


def test_the_example_runs() -> None:
    assert doctest.testmod(nfaug.integrations.kornia) == (0, 7)


def test_what_is_refused(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="same_on_batch"):
        made(same_on_batch=True)
    strict = with_labels(kornia.AugmentationSequential(made(), data_keys=KEYS, same_on_batch=True))
    with pytest.raises(ValueError, match="partner"):
        strict(*batch)
    with pytest.raises(ValueError, match="with_labels"):
        kornia.AugmentationSequential(made(), data_keys=KEYS)(*batch)
    with pytest.raises(ValueError, match="labels"):
        with_labels(kornia.AugmentationSequential(made()))(batch[0])
    with pytest.raises(TypeError, match="strength"):
        made(strenght=1.0)
    assert made(settings=MixSettings(p=0.2, strength=0.5)).nfa.strength == 0.5
