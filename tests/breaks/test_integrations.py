"""Breaks of the adapters to kornia, timm and accelerate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from kornia import augmentation as kornia
from nfa_tools import NAMES, batch_of, checkpoint
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from nfaug.augment.config import MixConfig
from nfaug.augment.transform import NFAugment
from nfaug.integrations.kornia import NFAugmentation, with_labels
from nfaug.integrations.timm import NFALoader

# kornia


def made(**options: Any) -> NFAugmentation:
    return NFAugmentation(checkpoint(), **{"p": 1.0, "gate": None, **options})


def unit_batch() -> tuple[Tensor, Tensor]:
    images, labels = batch_of(12)
    return images / 255, labels


@pytest.mark.parametrize("how", ["eval", "enabled"])
def test_a_kornia_container_that_is_off_needs_no_labels(how: str) -> None:
    """Break 69: a container in eval() raised for want of labels."""
    images, _ = unit_batch()
    nfa = made()
    augment = with_labels(kornia.AugmentationSequential(nfa, data_keys=["input", "mask"]))
    if how == "eval":
        augment.eval()
    else:
        nfa.nfa.enabled = False
    mask = torch.ones(12, 1, 8, 8)
    new, same = augment(images, mask)
    assert torch.equal(new, images)
    assert torch.equal(same, mask)


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_class_names_in_a_kornia_container(p: float) -> None:
    """Break 69: names of classes, which `NFAugment` takes, were an AttributeError."""
    images, labels = unit_batch()
    names = [NAMES[label] for label in labels]
    nfa = made(p=p)
    augment = with_labels(kornia.AugmentationSequential(nfa, data_keys=["input", "class"]))
    new, same = augment(images, names)
    assert list(same) == names
    expected, _ = augment(images, labels, params=augment._params)
    assert torch.equal(new, expected)
    assert not torch.equal(new, images)
    assert torch.equal(nfa(images, names, params=nfa._params)[0], new)


SPATIAL = {
    "mask": torch.ones(12, 1, 8, 8),
    "bbox_xyxy": torch.tensor([[[1.0, 1.0, 5.0, 5.0]]] * 12),
    "keypoints": torch.ones(12, 2, 2),
}


@pytest.mark.parametrize("key", [*SPATIAL])
def test_what_mixing_does_not_move_in_a_kornia_container(key: str) -> None:
    """Break 69: masks passed unchanged, beside images whose regions had moved."""
    images, labels = unit_batch()
    augment = with_labels(
        kornia.AugmentationSequential(made(mix="regions"), data_keys=["input", key, "class"])
    )
    with pytest.raises(ValueError, match="cannot transform"):
        augment(images, SPATIAL[key], labels)
    by_key = with_labels(kornia.AugmentationSequential(made(), data_keys=None))
    with pytest.raises(ValueError, match="cannot transform"):
        by_key({key: SPATIAL[key], "image": images, "label": labels})


@pytest.mark.parametrize("same_on_frame", [True, False])
def test_a_video_in_a_kornia_container(same_on_frame: bool) -> None:
    """Break 69: a `VideoSequential` raised "only one element tensors can be converted"."""
    images, labels = unit_batch()
    inner = kornia.VideoSequential(made(), same_on_frame=same_on_frame)
    augment = with_labels(kornia.AugmentationSequential(inner, data_keys=["input", "class"]))
    with pytest.raises(ValueError, match="VideoSequential"):
        augment(images.view(4, 3, 3, 8, 8), labels[:4])
    with pytest.raises(ValueError, match="VideoSequential"):
        with_labels(inner)


def test_kornias_share_beside_settings() -> None:
    """Break 71: of p and settings the adapters used one and ignored the other."""
    settings = MixConfig(p=0.9, noise=0.1)
    assert NFAugmentation(checkpoint(), config=settings).p == 0.9
    with pytest.raises(ValueError, match="config="):
        NFAugmentation(checkpoint(), p=0.5, config=settings)
    with pytest.raises(ValueError, match="one number"):
        NFAugmentation(checkpoint(), config=MixConfig(p=(0.1, 0.2, 0.3)))


# accelerate


def test_a_loader_that_accelerate_does_not_share_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break 68: after `accelerator.prepare(NFALoader(...))` each process read all images."""
    images, labels = batch_of(24)
    loader: Any = DataLoader(TensorDataset(images, labels), batch_size=4, shuffle=True)
    nfa = NFAugment(checkpoint())
    assert len(list(NFALoader(loader, nfa))) == 6
    two = prepare_data_loader(loader, num_processes=2, process_index=0)
    monkeypatch.setattr("accelerate.state.is_initialized", lambda: True)
    monkeypatch.setattr("accelerate.state.PartialState", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match="prepare"):
        next(iter(NFALoader(loader, nfa)))
    assert len(list(NFALoader(two, nfa))) == 3, "half of the batches"
    own = DistributedSampler(loader.dataset, num_replicas=2, rank=0)
    shared: Any = DataLoader(loader.dataset, batch_size=4, sampler=own)
    assert len(list(NFALoader(shared, nfa))) == 3, "a sampler that shares out is fine"
