from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from nfa_tools import CLASSES, checkpoint, images_of, tiny_flow
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

import nfaug
from nfaug.augment.transform import NFAugment
from nfaug.augment.views import AugmentedViews, gated_share
from nfaug.integrations.timm import training_transform

LABELS = torch.arange(36) % CLASSES
SOURCE = TensorDataset(images_of(LABELS, size=(24, 24)), LABELS)


def views(transform: Any, **settings: Any) -> AugmentedViews:
    return AugmentedViews(SOURCE, transform, image_size=(8, 8), **settings)


def test_views_are_random_and_yet_the_same_each_time() -> None:
    crop = v2.RandomResizedCrop(24, scale=(0.3, 1.0))
    data = views(crop, views=3)
    assert len(data) == 108
    assert data.targets.tolist() == LABELS.tolist() * 3
    assert data.classes == [str(label) for label in range(CLASSES)]
    state = torch.get_rng_state(), random.getstate()
    image, label = data[40]
    assert (torch.get_rng_state() == state[0]).all()
    assert random.getstate() == state[1]
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.uint8
    assert label == LABELS[4]
    assert torch.equal(data[40][0], image)
    assert torch.equal(data[-68][0], image)
    assert not torch.equal(data[4][0], image), "another view"
    assert not torch.equal(views(crop, views=3, seed=1)[40][0], image)
    with pytest.raises(ValueError, match="views"):
        views(crop, views=0)
    with pytest.raises(ValueError, match="per_class"):
        views(crop, per_class=0)


def test_no_view_is_one_of_another_seed() -> None:
    crop = v2.RandomResizedCrop(24, scale=(0.3, 1.0))
    fitted, fresh = views(crop, views=4), views(crop, views=2, seed=1)
    known = {fitted[i][0].numpy().tobytes() for i in range(len(fitted))}
    assert len(known) == len(fitted)
    again = known & {fresh[i][0].numpy().tobytes() for i in range(len(fresh))}
    assert len(again) <= 0.03 * len(fresh), "a small image has few crops: some coincide by chance"


def test_a_share_of_the_views_is_spread_over_the_images() -> None:
    crop = v2.RandomResizedCrop(24, scale=(0.3, 1.0))
    every, some = views(crop, views=3), views(crop, views=3, per_class=16)
    assert torch.bincount(some.targets).tolist() == [16] * CLASSES
    where = {every[i][0].numpy().tobytes(): i for i in range(len(every))}
    items = [where[some[i][0].numpy().tobytes()] for i in range(len(some))]
    assert [int(every.targets[i]) for i in items] == some.targets.tolist()
    times = torch.bincount(torch.tensor(items) % len(SOURCE), minlength=len(SOURCE))
    assert set(times.tolist()) == {1, 2}, "12 images of each class: all once, four twice"
    assert views(crop, views=3, per_class=99).targets.tolist() == every.targets.tolist()
    few = views(crop, views=3, per_class=5)
    assert len({where[few[i][0].numpy().tobytes()] % len(SOURCE) for i in range(15)}) == 15


def test_what_a_transform_may_return() -> None:
    plain = views(lambda image: image)[5][0]
    scaled = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    for transform in (v2.ToImage(), v2.PILToTensor(), scaled):
        assert torch.equal(views(transform)[5][0], plain), transform
    channels_first = views(lambda image: np.array(image).transpose(2, 0, 1))
    assert torch.equal(channels_first[5][0], plain)
    normalise = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32), lambda x: x / 50 - 2])
    for wrong in (normalise, lambda image: "text", lambda image: torch.zeros(8, 8)):
        with pytest.raises(ValueError, match="normali"):
            views(wrong)[0]


def test_a_fit_under_the_scripts_transforms_lets_its_images_pass() -> None:
    transform = training_transform("scale=(0.2,0.5) hflip=0.5 color_jitter=0.4", 24)
    plain = nfaug.fit(tiny_flow(), views(lambda image: image), rank=6, progress=False)
    augmented = nfaug.fit(tiny_flow(), views(transform, views=6), rank=6, progress=False)
    fresh = views(transform, views=2, seed=1)
    nfa = NFAugment(plain)
    before, after = gated_share(nfa, fresh), gated_share(NFAugment(augmented), fresh)
    assert before["gated"] > 0.5
    assert after["gated"] < 0.2
    assert sum(after.values()) == pytest.approx(1.0)
    assert nfa.stats()["seen"] == 0
    assert gated_share(NFAugment(plain, gate=False), fresh)["gated"] == 0
    assert gated_share(NFAugment(checkpoint(memory=False)), [])["applied"] == 0


def test_timm_transforms_from_text() -> None:
    transform = training_transform("scale=(0.5,1) auto_augment=rand-m9-mstd0.5", 20)
    image, _ = AugmentedViews(SOURCE, transform, image_size=(8, 8))[0]
    assert image.shape == (3, 8, 8)
    assert training_transform("", (10, 12))(v2.functional.to_pil_image(SOURCE[0][0])).shape == (
        3, 10, 12,
    )  # fmt: skip
    for spec, word in (
        ("scale", "scale"),
        ("hflip=1 zoom=2", "zoom=2"),
        ("scale=(0.4, 1)", "1\\)"),
    ):
        with pytest.raises(ValueError, match=f"'{word}'"):
            training_transform(spec, 20)
    for word in ("mean=0.5", "re_prob=0.25"):
        with pytest.raises(ValueError, match=f"'{word}'"):
            training_transform(word, 20)
