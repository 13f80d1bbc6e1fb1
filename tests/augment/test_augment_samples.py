"""Samples as tuples, lists, mappings and tv_tensors, as torchvision's v2.MixUp takes them."""

from __future__ import annotations

import itertools
from collections import UserDict, defaultdict, namedtuple
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from tools.nfa import batch_of, checkpoint
from torchvision import tv_tensors
from torchvision.transforms import v2

from nfaug.augment.transform import NFAugment
from nfaug.run import seeds as seeds_module

Batch = namedtuple("Batch", ["images", "labels", "index"])


@pytest.fixture
def nfa() -> NFAugment:
    return NFAugment(checkpoint(), p=1.0)


def test_containers_keep_their_type(nfa: NFAugment) -> None:
    images, labels = batch_of(6)
    draws = nfa.draw(labels)
    new = nfa.replay(images, labels, draws)[0]
    index = torch.arange(6)
    samples: list[Any] = [
        (images, labels),
        [images, labels],
        (images, labels, index, "extra"),
        {"image": images, "labels": labels, "caption": torch.zeros(6, 28)},
        Batch(images, labels, index),
        (images, {"labels": labels, "id": index}),
        {"image": images, "Label": labels, "path": ["a"] * 6},
        {"x": images, "target": labels},
        {"x": images, "coarse_label_id": labels},
        UserDict({"pixel_values": images, "labels": labels}),
        {"inputs": {"image": images}, "labels": labels},
        defaultdict(list, image=images, labels=labels),
    ]
    for sample in samples:
        out = nfa.replay(sample, draws)
        assert (type(out), len(out)) == (type(sample), len(sample))
        old, found = (list(x.values()) if hasattr(x, "values") else x for x in (sample, out))
        first = found[0]["image"] if isinstance(found[0], dict) else found[0]
        assert torch.equal(first, new), sample
        assert found[1] is old[1] or isinstance(old[1], dict)
        assert getattr(out, "default_factory", None) is getattr(sample, "default_factory", None)


def test_tv_tensors_and_compose(nfa: NFAugment) -> None:
    images, labels = batch_of(6)
    pipeline = v2.Compose([nfa, v2.ToDtype(torch.float32, scale=True), v2.RandomHorizontalFlip()])
    new, same = pipeline(tv_tensors.Image(images), labels)
    assert type(new) is tv_tensors.Image
    assert new.dtype == torch.float32
    assert same is labels
    mixed, soft = v2.Compose([nfa, v2.MixUp(num_classes=3)])(images / 255, labels)
    assert mixed.shape == images.shape
    assert soft.shape == (6, 3)
    with pytest.raises(ValueError, match="cutmix"):
        v2.Compose([v2.MixUp(num_classes=3), nfa])(images / 255, torch.tensor([0, 1, 2] * 2))


@pytest.mark.parametrize(
    ("kind", "options"), [(v2.RandomApply, {"p": 1.0}), (v2.RandomChoice, {}), (v2.RandomOrder, {})]
)
def test_in_containers_of_torchvision(
    nfa: NFAugment, kind: type[v2.Transform], options: dict[str, float]
) -> None:
    """MixUp and CutMix come after it."""
    images, labels = batch_of(6)
    container = kind([nfa], **options)
    new, same = container(images, labels)
    assert same is labels
    assert (new != images).any()
    for mixing in (v2.MixUp, v2.CutMix):
        mixed, soft = v2.Compose([container, mixing(num_classes=3)])(images / 255, labels)
        assert mixed.shape == images.shape
        assert torch.allclose(soft.sum(1), torch.ones(6))


def test_metadata_is_no_mask(nfa: NFAugment) -> None:
    images, labels = batch_of(6)
    sample = {
        "pixel_values": images,
        "labels": labels,
        "attention_mask": torch.ones(6, 77),
        "token_masks": [torch.ones(77)] * 6,
        "segment_id": labels,
        "mask_ratio": torch.rand(6),
        "box_count": labels,
    }
    new = nfa(sample)
    assert (new["pixel_values"] != images).any()
    assert list(map(id, new.pop("token_masks"))) == list(map(id, sample.pop("token_masks")))
    assert all(new[name] is sample[name] for name in sample if name != "pixel_values")


def test_a_mapping_that_cannot_be_changed_is_refused(nfa: NFAugment) -> None:
    """It came back as it was, and its images were counted as applied."""
    images, labels = batch_of(6)
    with pytest.raises(ValueError, match="mappingproxy, which cannot be changed"):
        nfa(MappingProxyType({"image": images, "label": labels}))
    more = MappingProxyType({"name": "a"})
    assert nfa({"image": images, "label": labels, "more": more})["more"] is more
    hidden = MappingProxyType({"mask": tv_tensors.Mask(torch.zeros(6, 8, 8))})
    with pytest.raises(ValueError, match="mask"):
        nfa({"image": images, "label": labels, "target": hidden})


def test_unsupported_samples_raise(nfa: NFAugment) -> None:
    images, labels = batch_of(6)
    boxes = tv_tensors.BoundingBoxes(torch.ones(6, 4), format="XYXY", canvas_size=(8, 8))
    mask = torch.zeros(6, 8, 8)
    pil = v2.functional.to_pil_image(images[0])
    cases: list[Any] = [
        (images, {"labels": labels, "boxes": boxes}),
        (images, labels, tv_tensors.Mask(mask)),
        {"image": images, "labels": labels, "masks": mask},
        {"image": images, "labels": labels, "bboxes": torch.ones(9, 4)},
        {"image": images, "labels": labels, "bbox": [labels] * 4},  # default_collate
        {"image": images, "labels": labels, "keypoints": [[labels] * 2]},
        {"image": images, "labels": labels, "masks": [*mask]},
        (tv_tensors.Video(images[None]), labels),
        (tv_tensors.Video(images[:, None]), labels),  # (B, T, C, H, W), as MixUp takes them
        (images[:, None], labels),
        ([pil] * 6, labels),
        (images, labels, mask),
        [images, labels, mask[:, None].long()],
        (images, labels, "name", torch.ones(6, 5, 4)),
        (images, {"labels": labels, "more": [mask]}),
        Batch(images, labels, mask > 0),
        (images, labels, images.clone()),  # AugMix
        (images, labels, images[..., :4, :4]),  # multi-crop
        ([images, images], labels),
        {"patches": mask, "labels": labels},  # NaFlex
        (),
    ]
    for sample in cases:
        with pytest.raises(ValueError, match="masks"):
            nfa(sample)
    for sample in ({"image": images, "kind": labels}, images, (images,)):
        with pytest.raises(ValueError, match="labels"):
            nfa(sample)


def test_ranks_and_workers_do_not_share_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of rank and worker coincide: worker 1 of rank 0 and worker 0 of rank 1."""
    seeds = []
    for rank, worker in itertools.product(range(3), range(3)):
        monkeypatch.setenv("RANK", str(rank))
        info = SimpleNamespace(seed=1234 + worker)
        monkeypatch.setattr(seeds_module, "get_worker_info", lambda info=info: info)
        seeds.append(seeds_module.own_seed(torch.Generator().manual_seed(0)))
    assert len(set(seeds)) == 9


def test_a_getter_of_labels() -> None:
    """As torchvision's MixUp takes one, for samples whose labels lie elsewhere."""
    images, labels = batch_of(6)
    nfa = NFAugment(checkpoint(), p=1.0, labels_getter=lambda sample: sample["info"]["kind"])
    draws = nfa.draw(labels)
    sample = {"image": images, "info": {"kind": labels}}
    new = nfa.replay(sample, draws)
    nfa.labels_getter = None
    expected = nfa.replay(images, labels, draws)[0]
    assert torch.equal(new["image"], expected)
    assert new["info"]["kind"] is labels
    with pytest.raises(ValueError, match="labels_getter="):
        nfa(sample)
    torchvisions: Any = "default"  # its name for what is None here
    with pytest.raises(ValueError, match=r"labels_getter must be .*'default'"):
        NFAugment(checkpoint(), labels_getter=torchvisions)
