from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no version check over the network

import albumentations as A
import numpy as np
import pytest
import torch
from nfa_tools import NAMES, checkpoint, images_of
from torch.utils.data import DataLoader, Dataset

from nfaug.augment.settings import MixSettings
from nfaug.augment.transform import NFAugment
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.integrations import albumentations as module
from nfaug.integrations.albumentations import NFATransform


def save(path: Path, **changes: Any) -> str:
    parts = checkpoint(**changes)
    config = CheckpointConfig(parts.flow.config, class_names=NAMES)
    return str(Checkpoint(parts.flow, config, pca=parts.pca).save(path))


@pytest.fixture(scope="module")
def flow_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("flow") / "tiny")


def picture(label: int = 1, size: tuple[int, int] = (8, 8), channels: int = 3) -> np.ndarray:
    image = images_of(torch.tensor([label]), size=size, channels=channels)[0]
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mix", ["axis", "pair"])
def test_equals_the_batch_transform_with_the_memory(flow_dir: str, mix: str) -> None:
    transform = NFATransform(flow_dir, mix=mix, alpha=0.7, gate=False, p=1.0)
    transform.set_random_seed(3)
    image = picture()
    before = image.copy()
    out = transform(image=image, label=1)
    assert (image == before).all()
    assert out["label"] == 1
    assert out["image"].dtype == np.uint8
    assert (out["image"] != image).any()
    draws = transform.get_applied_params()["draws"]
    pca = checkpoint().pca
    assert pca is not None
    assert pca.memory is not None
    assert pca.memory_labels is not None
    assert pca.memory_labels[draws.partner] == 1
    flow = transform.nfa._engine.on(torch.device("cpu"))[0]
    labels = torch.tensor([1])
    z = flow.encode(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    a = pca.project(z, labels)
    delta = draws.weights * (pca.memory[draws.partner].float() - a)
    expected = flow.decode(pca.add(z, labels, delta))[0].permute(1, 2, 0).numpy()
    assert abs(out["image"].astype(int) - expected).max() <= 1


def test_a_refit_to_the_same_folder_is_read_by_new_transforms(tmp_path: Path) -> None:
    path = save(tmp_path / "flow")
    first = NFATransform(path, p=1.0).nfa
    assert NFATransform(path, p=1.0).nfa is first
    parts = checkpoint()
    assert parts.pca is not None
    pca = copy.deepcopy(parts.pca)
    pca.mean += 1
    config = CheckpointConfig(parts.flow.config, class_names=NAMES)
    Checkpoint(parts.flow, config, pca=pca).save(path, overwrite=True)
    second = NFATransform(path, p=1.0).nfa
    assert torch.equal(second.engine.on(torch.device("cpu"))[1].mean, pca.mean)


def test_a_seed_reproduces(flow_dir: str) -> None:
    def run(seed: int) -> np.ndarray:
        pipeline = A.Compose([NFATransform(flow_dir, p=0.9), A.HorizontalFlip()], seed=seed)
        return np.stack([pipeline(image=picture(), label=1)["image"] for _ in range(6)])

    assert (run(1) == run(1)).all()
    assert (run(1) != run(2)).any()


def test_image_types_and_shapes(flow_dir: str, tmp_path: Path) -> None:
    transform = NFATransform(flow_dir, gate=False, p=1.0)
    unit = (picture() / 255).astype(np.float32)
    out = transform(image=unit, label=np.int64(1))["image"]
    assert out.dtype == np.float32
    assert 0 <= out.min() <= out.max() <= 1
    assert transform(image=picture(size=(40, 30)), label=2)["image"].shape == (40, 30, 3)
    gray = NFATransform(save(tmp_path / "gray", channels=1), gate=False, p=1.0)
    flat = picture(channels=1)[..., 0]
    assert gray(image=flat, label=0)["image"].shape == (8, 8)
    assert gray(image=flat[..., None], label=0)["image"].shape == (8, 8, 1)
    assert (
        NFATransform(flow_dir, strength=0.0, p=1.0)(image=picture(), label=1)["image"] == picture()
    ).all()
    assert (
        NFATransform(flow_dir, strength=0.0, noise=0.5, p=1.0)(image=picture(), label=1)["image"]
        != picture()
    ).any()


def test_to_dict_and_back(flow_dir: str) -> None:
    transform = NFATransform(
        flow_dir, alpha=0.5, mix="pair", strength=0.8, noise=0.1, axes=3, gate=0.9, p=0.7
    )
    pipeline = A.Compose([transform, A.VerticalFlip(p=0.3)])
    text = json.dumps(A.to_dict(pipeline))
    again = A.from_dict(json.loads(text))
    assert A.to_dict(again) == A.to_dict(pipeline)
    (copy, _) = again.transforms
    assert isinstance(copy, NFATransform)
    assert (copy.checkpoint, copy.mix, copy.gate, copy.p) == (flow_dir, "pair", 0.9, 0.7)
    assert copy.nfa.settings == MixSettings(
        p=1.0, alpha=0.5, mix="pair", strength=0.8, noise=0.1, axes=3, gate=0.9
    )
    pipeline.set_random_seed(0)
    again.set_random_seed(0)
    first = pipeline(image=picture(), label=1)["image"]
    assert (first == again(image=picture(), label=1)["image"]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -5.0}, r"^strength .*-5\.0"),
        ({"noise": math.nan}, "^noise .*nan"),
        ({"alpha": math.inf}, "^alpha .*inf$"),
        ({"gate": -0.5}, r"^gate .*-0\.5"),
        ({"axes": 0}, "^axes .*0"),
    ],
)
def test_settings_are_checked_at_construction(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NFATransform("a flow that is not there", **settings)
    with pytest.raises(ValueError, match=message):
        NFAugment(checkpoint(), **settings)


def test_the_gate_is_that_of_the_batch_transform(flow_dir: str) -> None:
    for given, radius in ((1.0, 1.0), (True, 1.25), (0.0, 0.0), (False, None), (None, None)):
        transform = NFATransform(flow_dir, gate=given)
        assert transform.gate == radius
        assert transform.nfa.gate == radius
    assert NFATransform(flow_dir).nfa.gate == NFAugment(checkpoint()).gate


def test_noise_alone_needs_no_memory(flow_dir: str, tmp_path: Path) -> None:
    bare = save(tmp_path / "bare", memory=False)
    settings: dict[str, Any] = {"strength": 0.0, "noise": 0.5, "gate": False, "p": 1.0}
    for path in (bare, flow_dir):
        transform = NFATransform(path, **settings)
        transform.set_random_seed(0)
        assert (transform(image=picture(), label=1)["image"] != picture()).any()
        assert transform.nfa.stats()["applied"] >= 1
    with pytest.raises(ValueError, match="memory"):
        NFATransform(bare, **{**settings, "strength": 0.1})(image=picture(), label=1)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, transform: A.Compose) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        out = self.transform(image=picture(index % 3), label=index % 3)
        assert module._load.cache_info().misses <= 1, "loaded once in each process"
        return torch.from_numpy(out["image"]), out["label"]


def test_workers_load_the_flow_lazily(flow_dir: str) -> None:
    module._load.cache_clear()
    data = Pictures(A.Compose([NFATransform(flow_dir, gate=False, p=1.0)]))
    assert module._load.cache_info().currsize == 0, "nothing is loaded until an image comes"
    loader = DataLoader(data, batch_size=4, num_workers=2)
    images = torch.cat([images for images, _ in loader])
    originals = torch.stack([torch.from_numpy(picture(i % 3)) for i in range(8)])
    assert (images != originals).flatten(1).any(1).all()
    assert module._load.cache_info().currsize == 0


def test_invalid_calls(flow_dir: str, tmp_path: Path) -> None:
    transform = NFATransform(flow_dir, p=1.0)
    with pytest.raises(ValueError, match="label"):
        transform(image=picture())
    for label in (3, -1, 1.0, "cat"):
        with pytest.raises(ValueError, match=r"\[0, 3\)"):
            transform(image=picture(), label=label)
    for key, value in (("mask", np.zeros((8, 8), np.uint8)), ("keypoints", np.zeros((1, 2)))):
        with pytest.raises(ValueError, match=f"'{key}'"):
            transform(image=picture(), label=1, **{key: value})
    with pytest.raises(ValueError, match="memory"):
        NFATransform(save(tmp_path / "bare", memory=False), p=1.0)(image=picture(), label=1)
    with pytest.raises(ValueError, match="1 channels"):
        transform(image=picture(channels=1), label=1)
    with pytest.raises(ValueError, match="mix"):
        NFATransform(flow_dir, mix="both")


def test_messages_name_arguments_of_the_transform(flow_dir: str) -> None:
    for name in ("partners", "mean", "prob"):
        with pytest.raises(TypeError, match=f"'{name}'"):
            NFATransform(flow_dir, **{name: 0.5})
    with pytest.raises(ValueError, match=r"A\.Normalize"):
        NFATransform(flow_dir, p=1.0)(image=picture().astype(np.float32), label=1)
