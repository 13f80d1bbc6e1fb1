"""NFATransform in albumentations' pipelines."""

from __future__ import annotations

import copy
import importlib
import json
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no version check over the network

import numpy as np
import pytest
import torch
from tools.libraries import needs
from tools.nfa import NAMES, checkpoint, images_of
from torch.utils.data import DataLoader, Dataset, TensorDataset

import nfaug
from nfaug.augment.config import MixConfig
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.data.open import open_dataset
from nfaug.run.seeds import SharedGenerator

A = needs("albumentations")
NFATransform = nfaug.integrations.albumentations.NFATransform

OPEN = {"gate": None}


def save(path: Path, *, overwrite: bool = False, **changes: Any) -> str:
    parts = checkpoint(**changes)
    config = CheckpointConfig(parts.flow.config, classes=NAMES)
    return str(Checkpoint(parts.flow, config, pca=parts.pca).save(path, overwrite=overwrite))


@pytest.fixture(scope="module")
def flow_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("flow") / "tiny")


def picture(label: int = 1, size: tuple[int, int] = (8, 8), channels: int = 3) -> np.ndarray:
    image = images_of(torch.tensor([label]), size=size, channels=channels)[0]
    return image.permute(1, 2, 0).numpy()


def test_equals_the_batch_transform_with_its_draws(flow_dir: str) -> None:
    transform = NFATransform(flow_dir, config={**OPEN, "alpha": 0.7}, p=1.0)
    image = picture()
    before = image.copy()
    out = transform(image=image, label=1)
    assert (image == before).all()
    assert out["label"] == 1
    seed = transform.get_applied_params()["seed"]
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    labels = torch.tensor([1])
    draws = transform.nfa.draw(labels, generator=SharedGenerator().manual_seed(seed))
    expected, _ = transform.nfa.replay(batch, labels, draws)
    assert (out["image"] == expected[0].permute(1, 2, 0).numpy()).all()
    assert (out["image"] != image).any()


def test_a_refit_to_the_same_folder_is_read_by_new_transforms(tmp_path: Path) -> None:
    path = save(tmp_path / "flow")
    assert NFATransform(path).nfa.num_classes == 3
    pca = copy.deepcopy(checkpoint().pca)
    pca.mean += 1
    save(tmp_path / "flow", overwrite=True, pca=pca)
    _, read = NFATransform(path).nfa.engine.on(torch.device("cpu"))
    assert torch.equal(read.mean, pca.mean)


def test_image_types_and_shapes(flow_dir: str, tmp_path: Path) -> None:
    transform = NFATransform(flow_dir, config=OPEN, p=1.0)
    unit = (picture() / 255).astype(np.float32)
    out = transform(image=unit, label=np.int64(1))["image"]
    assert out.dtype == np.float32
    assert 0 <= out.min() <= out.max() <= 1
    assert transform(image=picture(size=(40, 30)), label=2)["image"].shape == (40, 30, 3)
    gray = NFATransform(save(tmp_path / "gray", channels=1), config=OPEN, p=1.0)
    assert gray(image=picture(channels=1)[..., 0], label=0)["image"].shape == (8, 8)


def test_to_dict_and_back(flow_dir: str) -> None:
    settings = {"alpha": 0.5, "mix": "pair", "strength": 0.8, "noise": 0.1, "gate": 0.9}
    transform = NFATransform(flow_dir, config=settings, p=0.7)
    pipeline = A.Compose([transform, A.VerticalFlip(p=0.3)])
    again = A.from_dict(json.loads(json.dumps(A.to_dict(pipeline))))
    assert A.to_dict(again) == A.to_dict(pipeline)
    (loaded, _) = again.transforms
    assert (loaded.checkpoint, loaded.p) == (flow_dir, 0.7)
    assert loaded.nfa.config == MixConfig(p=1.0, **settings)

    def run(one: A.Compose, seed: int) -> np.ndarray:
        one.set_random_seed(seed)
        return np.stack([one(image=picture(), label=1)["image"] for _ in range(6)])

    assert (run(pipeline, 1) == run(again, 1)).all()
    assert (run(pipeline, 1) != run(again, 2)).any()


@pytest.mark.parametrize("data_format", ["json", "yaml"])
def test_save_and_load(flow_dir: str, tmp_path: Path, data_format: str) -> None:
    """Inside other compositions, with a name of a checkpoint that is a path."""
    first, second = (NFATransform(Path(flow_dir), config=OPEN, p=1.0) for _ in range(2))
    flipped = A.Sequential([second, A.HorizontalFlip(p=0.5)])
    pipeline = A.Compose([A.OneOf([first, flipped], p=1.0)])
    A.save(pipeline, tmp_path / "pipeline", data_format=data_format)
    again = A.load(tmp_path / "pipeline", data_format=data_format)
    for one in (pipeline, again):
        one.set_random_seed(7)
    for _ in range(4):
        made = pipeline(image=picture(), label=1)["image"]
        assert (made != picture()).any()
        assert (made == again(image=picture(), label=1)["image"]).all()


# albumentations warns of every transform that depends on a label.
@pytest.mark.filterwarnings("ignore:.*ReplayMode:UserWarning")
def test_replay(flow_dir: str) -> None:
    """What ReplayCompose records replays the image, after a way through JSON too."""
    pipeline = A.ReplayCompose([NFATransform(flow_dir, config=OPEN, p=0.5), A.VerticalFlip(p=0.5)])
    pipeline.set_random_seed(3)
    changed = 0
    for _ in range(6):
        made = pipeline(image=picture(), label=1)
        record = json.loads(json.dumps(made["replay"]))
        again = A.ReplayCompose.replay(record, image=picture(), label=1)
        assert (again["image"] == made["image"]).all()
        changed += int((made["image"] != picture()).any())
    assert changed > 0


class Recorded(Dataset[tuple[np.ndarray, Any]]):
    def __init__(self, pipeline: A.ReplayCompose) -> None:
        self.pipeline = pipeline

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        made = self.pipeline(image=picture(), label=1)
        return made["image"], made["replay"]


@pytest.mark.filterwarnings("ignore:.*ReplayMode:UserWarning")
def test_a_record_of_a_worker_is_replayed_elsewhere(flow_dir: str) -> None:
    pipeline = A.ReplayCompose([NFATransform(flow_dir, config=OPEN, p=1.0)])
    loader: Any = DataLoader(Recorded(pipeline), batch_size=None, num_workers=2)
    seeds = set()
    for made, record in loader:
        again = A.ReplayCompose.replay(record, image=picture(), label=1)
        assert (again["image"] == np.asarray(made)).all()
        seeds.add(record["transforms"][0]["params"]["seed"])
    assert len(seeds) == 8, "workers differ"


def test_a_second_image_has_the_same_draws(flow_dir: str) -> None:
    pipeline = A.Compose(
        [NFATransform(flow_dir, config=OPEN, p=1.0)], additional_targets={"second": "image"}
    )
    made = pipeline(image=picture(), second=picture(), label=1)
    assert (made["image"] != picture()).any()
    assert (made["image"] == made["second"]).all()


def test_names_need_no_order_and_labels_are_on_the_cpu(tmp_path: Path, recwarn: Any) -> None:
    """A class name is no index into an order that may be another one."""
    labels = torch.arange(20) % 2
    data = open_dataset(TensorDataset(images_of(labels), labels), classes=["9", "10"])
    folder = nfaug.fit("builtin:pixels", data, progress=False).save(tmp_path / "nfa")
    transform = NFATransform(folder, p=1.0)
    assert transform.nfa.num_classes == 2
    image = picture()
    with torch.device("meta"):
        transform(image=image, label="10")
        assert not recwarn.list
        with pytest.warns(UserWarning, match="natural order"):
            transform(image=image, label=1)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, transform: A.Compose) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        out = self.transform(image=picture(index % 3), label=index % 3)
        return torch.from_numpy(out["image"]), out["label"]


def test_workers_load_the_flow_lazily(flow_dir: str) -> None:
    transform = NFATransform(flow_dir, config=OPEN, p=1.0)
    data = Pictures(A.Compose([transform]))
    images = torch.cat([images for images, _ in DataLoader(data, batch_size=4, num_workers=2)])
    originals = torch.stack([torch.from_numpy(picture(i % 3)) for i in range(8)])
    assert (images != originals).flatten(1).any(1).all()
    assert len(pickle.dumps(transform)) < 10_000, "a spawned worker receives no flow"
    assert transform.nfa.num_classes == 3


def test_labels_of_every_type(flow_dir: str) -> None:
    transform = A.Compose([NFATransform(flow_dir, config=OPEN, p=1.0)])

    def variant(label: Any) -> np.ndarray:
        transform.set_random_seed(1)
        out = transform(image=picture(), label=label)
        assert out["label"] is label
        return out["image"]

    expected = variant(1)
    name = NAMES[1]
    for label in (np.int32(1), np.array(1), torch.tensor(1), name, np.str_(name), np.array(name)):
        assert (variant(label) == expected).all(), repr(label)


def test_targets_are_stated_as_albumentations_states_them(flow_dir: str) -> None:
    transform = NFATransform(flow_dir)
    assert transform.available_keys == set(transform.targets) == {"image"}
    doc = NFATransform.__doc__ or ""
    assert "Targets:\n        image\n" in doc
    assert "Image types:\n        uint8, float32\n" in doc


def test_the_successor_of_albumentations_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same import name, with another hook for draws."""
    successor = ModuleType("albumentations")
    vars(successor).update(__version__="2.5.1", ImageOnlyTransform=type("T", (), {}))
    monkeypatch.setitem(sys.modules, "albumentations", successor)
    monkeypatch.delitem(sys.modules, NFATransform.__module__)
    with pytest.raises(ImportError, match="AlbumentationsX") as caught:
        importlib.import_module(NFATransform.__module__)
    assert "\n" not in str(caught.value)


def test_invalid_calls(flow_dir: str, tmp_path: Path) -> None:
    transform = NFATransform(flow_dir, p=1.0)
    with pytest.raises(ValueError, match="label"):
        transform(image=picture())
    one_hot = np.array([0, 1, 0])
    for label in (3, -1, 1.0, "no such class", one_hot, torch.tensor([1]), np.array(3), None):
        with pytest.raises(ValueError, match=r"\[0, 3\)"):
            transform(image=picture(), label=label)
    with pytest.raises(ValueError, match=r"before A\.Normalize"):
        transform(image=picture().astype(np.float32), label=1)
    with pytest.raises(ValueError, match="strength"):
        NFATransform("a flow that is not there", config={"strength": -5.0})
    with pytest.raises(ValueError, match="folder"):
        NFATransform(checkpoint())
    with pytest.raises(ValueError, match="MixConfig"):
        NFATransform(flow_dir, config=MixConfig(strength=0.5))
    with pytest.raises(TypeError, match="'prob'"):
        NFATransform(flow_dir, prob=0.5)
    bare = save(tmp_path / "bare", memory=False)
    with pytest.raises(ValueError, match="memory"):
        NFATransform(bare, p=1.0)(image=picture(), label=1)
    noisy = NFATransform(bare, config={**OPEN, "strength": 0.0, "noise": 0.5}, p=1.0)
    assert (noisy(image=picture(), label=1)["image"] != picture()).any(), "noise needs no memory"
