"""NFAugmentation alone and in kornia's own containers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from kornia import augmentation as kornia
from nfa_tools import batch_of, checkpoint
from torch import Tensor

import nfaug
from nfaug.augment.draws import SharedGenerator
from nfaug.integrations.kornia import NFAugmentation, with_labels

KEYS = ["input", "class"]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    images, labels = batch_of(24)
    return images / 255, labels


def made(**options: Any) -> NFAugmentation:
    return NFAugmentation(checkpoint(), **{"p": 1.0, "gate": None, **options})


def contained(*augmentations: Any, **options: Any) -> Any:
    return with_labels(
        kornia.AugmentationSequential(*augmentations, **{"data_keys": KEYS, **options})
    )


def test_alone(batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """With p = 1 it is `NFAugment` with the seed of its parameters, on every rank."""
    images, labels = batch
    nfa = made()
    torch.manual_seed(0)
    new, same = nfa(images, labels)
    drawn = nfa._params
    assert same is labels
    assert nfa.nfa.stats()["applied"] == len(images)
    generator = SharedGenerator().manual_seed(int(drawn["seed"]))
    other = nfaug.NFAugment(checkpoint(), p=1.0, gate=None, generator=generator)
    assert torch.equal(other(images, labels)[0], new)
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


@pytest.mark.parametrize("flip", [False, True])
def test_in_a_container(flip: bool, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    nfa = made(p=0.5)
    augment = contained(nfa, *([kornia.RandomHorizontalFlip(p=1.0)] if flip else []))
    torch.manual_seed(7)
    new, same = augment(images, labels)
    assert torch.equal(same, labels)
    assert nfa.labels is None, "a container keeps no labels"
    params = augment._params
    assert torch.equal(augment(images, labels, params=params)[0], new)
    alone, _ = nfa(images, labels, params=params[0].data)
    assert torch.equal(new, alone.flip(-1) if flip else alone)
    assert not torch.equal(new, augment(images, labels)[0])
    torch.manual_seed(7)
    assert torch.equal(augment(images, labels)[0], new), "a seed repeats a run"
    back, _ = augment.inverse(new, labels)
    assert torch.equal(back.flip(-1) if flip else back, new)


def test_other_ways_to_pass_labels(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    nfa = made(strength=0.0)
    by_key = contained(nfa, data_keys=None)
    out = by_key({"image": images, "label": labels})
    assert torch.allclose(out["image"], images, atol=1e-4)
    contained(nfa, data_keys=["input"])(images, labels, data_keys=KEYS)
    contained(kornia.ImageSequential(nfa), data_keys=["image", "label"])(images, labels)
    assert nfa.nfa.stats()["applied"] == 3 * len(images)


def test_evaluation_copies_and_state(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    augment = contained(made())
    assert augment.state_dict() == {}
    for other in (copy.deepcopy(augment), pickle.loads(pickle.dumps(augment))):
        torch.manual_seed(0)
        new, _ = augment(images, labels)
        torch.manual_seed(0)
        assert torch.equal(other(images, labels)[0], new)
    augment.eval()
    assert torch.equal(augment(images, labels)[0], images)


def test_one_image_and_keepdim(batch: tuple[Tensor, Tensor]) -> None:
    """`keepdim` returns an image without a batch as it came, in training and in evaluation."""
    images, labels = batch
    torch.manual_seed(1)
    kept, _ = made(keepdim=True)(images[0], labels[:1])
    torch.manual_seed(1)
    promoted, _ = made()(images[0], labels[:1])
    assert kept.shape == images[0].shape
    assert not torch.equal(kept, images[0])
    assert torch.equal(promoted, kept[None])
    nfa = made(keepdim=True)
    assert nfa(images, labels)[0].shape == images.shape
    assert torch.equal(nfa.eval()(images[0], labels[:1])[0], images[0])


def test_p_batch_switches_whole_batches(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    torch.manual_seed(0)
    changed = []
    nfa = made(p_batch=0.5)
    for _ in range(12):
        new, _ = nfa(images, labels)
        share = (new != images).flatten(1).any(1).float().mean().item()
        changed.append(share)
    assert set(changed) == {0.0, 1.0}
    assert torch.equal(made(p_batch=0.0)(images, labels)[0], images)


def test_apply_transform_takes_the_whole_batch(batch: tuple[Tensor, Tensor]) -> None:
    """As kornia's own tests call it, with the parameters and the matrix of the batch."""
    images, labels = batch
    nfa = made(p=0.5)
    new, _ = nfa(images, labels)
    params = nfa._params
    matrix = nfa.compute_transformation(images, params, nfa.flags)
    nfa.labels = labels
    assert torch.equal(nfa.apply_transform(images, params, nfa.flags, matrix), new)


def test_what_is_refused(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="same_on_batch"):
        made(same_on_batch=True)
    with pytest.raises(ValueError, match="p_batch"):
        made(p_batch=1.5)
    with pytest.raises(ValueError, match="same_on_batch"):
        contained(made(), same_on_batch=True)(*batch)
    with pytest.raises(ValueError, match="with_labels"):
        kornia.AugmentationSequential(made(), data_keys=KEYS)(*batch)
    with pytest.raises(ValueError, match="with_labels"):
        contained(made(), data_keys=["input"])(batch[0])
