"""Names of classes and labels, as data sets have them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tools.images import save
from tools.libraries import needs
from tools.nfa import checkpoint
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

import nfaug
from nfaug.augment.samples import as_labels
from nfaug.augment.transform import NFAugment
from nfaug.bank import Bank, BankDataset, make_bank
from nfaug.data.classes import (
    check_class_sizes,
    check_same_classes,
    dataset_classes,
    stored_labels,
    unique_names,
)
from nfaug.data.open import open_dataset
from nfaug.data.torch_datasets import DatasetSource

SYNONYMS = {"tench": 0, "Tinca tinca": 0, "crane": 1, "ox": 2, "kite": 2}


def test_synonyms_of_a_class() -> None:
    names = ["tench, Tinca tinca", "crane", "ox, kite"]
    assert dataset_classes(SYNONYMS) == names
    part: Any = Subset(SimpleNamespace(class_to_idx=SYNONYMS), [0])  # type: ignore[arg-type]
    assert dataset_classes(part, required=True) == names
    assert dataset_classes(dict(reversed(SYNONYMS.items()))) == [
        "Tinca tinca, tench", "crane", "kite, ox",
    ]  # fmt: skip
    nfa = NFAugment(checkpoint(config=SimpleNamespace(classes=tuple(names))))
    nfa.check_classes(SYNONYMS)
    with pytest.raises(ValueError, match="Tinca tinca"):
        NFAugment(checkpoint()).check_classes(SYNONYMS, required=False)


def test_two_classes_of_one_name() -> None:
    """As torchvision's ImageNet, whose class_to_idx has the later one alone."""
    classes = [("crane",), ("tench", "Tinca tinca"), ("crane",)]
    imagenet = SimpleNamespace(
        classes=classes, class_to_idx={name: i for i, names in enumerate(classes) for name in names}
    )
    names = ["crane (0)", "tench, Tinca tinca", "crane (2)"]
    assert dataset_classes(imagenet) == unique_names(classes) == names
    assert dataset_classes(classes) == names
    assert unique_names(names) == names, "names that are told apart stay"
    with pytest.raises(ValueError, match="share"):
        dataset_classes(imagenet.class_to_idx)


def test_class_to_idx_says_which_label_is_which() -> None:
    found = SimpleNamespace(classes=["ox", "tench"], class_to_idx={"tench": 0, "ox": 1})
    assert dataset_classes(found) == ["tench", "ox"]


def test_accents_and_arrays() -> None:
    """A Mac may store an accent as a character of its own."""
    check_same_classes(["cafe\u0301"], ["caf\u00e9"])
    with pytest.raises(ValueError, match="label 0"):
        check_same_classes(["cafe"], ["caf\u00e9"])
    assert dataset_classes(SimpleNamespace(classes=np.array(["cat", "dog"]))) == ["cat", "dog"]


def test_names_of_a_folder_from_a_mac(tmp_path: Path) -> None:
    """It stores an accent as a character of its own, and another machine may not."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for name in ("bar", decomposed):
        for index in range(2):
            save(tmp_path / name / f"{index}.png", 100 * index)
    folder = ImageFolder(str(tmp_path))
    assert folder.classes == ["bar", decomposed]
    images = open_dataset(tmp_path)
    assert images.classes == dataset_classes(folder) == ["bar", composed]
    assert len([image for image, _ in images]) == 4
    fitted = nfaug.fit("builtin:pixels", folder)
    assert fitted.config.classes == ("bar", composed)
    batch = torch.stack([image for image, _ in images])
    for name in (composed, decomposed):
        NFAugment(fitted, p=1.0)(batch, ["bar", "bar", name, name])
        assert as_labels([name, "bar"], fitted.config.classes).tolist() == [1, 0]
    needs("albumentations")
    fitted.save(tmp_path / "fitted")
    transform = nfaug.integrations.albumentations.NFATransform(tmp_path / "fitted", p=1.0)
    array = np.asarray(batch[0].permute(1, 2, 0))
    assert transform(image=array, label=decomposed)["image"].shape == array.shape


def test_a_list_of_images_and_labels_has_no_names() -> None:
    pairs = [(SimpleNamespace(), 0), (SimpleNamespace(), 1)]
    assert dataset_classes(pairs) is None
    assert dataset_classes([("crane", "heron"), "ox", 3]) == ["crane, heron", "ox", "3"]
    with pytest.raises(ValueError, match="names"):
        dataset_classes(pairs, required=True)


# Labels


LABELS = [2, 0, 1, 2]


class Items(Dataset[tuple[int, int]]):
    """Counts how many of its items are read."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)
        self.reads = 0

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int) -> tuple[int, int]:
        self.reads += 1
        return 0, LABELS[index]


@pytest.mark.parametrize(
    "attributes",
    [
        {"targets": LABELS},
        {"targets": torch.tensor(LABELS)},
        {"targets": [torch.tensor(y) for y in LABELS]},
        {"labels": np.array(LABELS, dtype=np.uint8)},
        {"reader": SimpleNamespace(samples=[("a.png", y) for y in LABELS])},
        {"targets": None, "labels": tuple(LABELS)},
    ],
)
def test_stored_labels_are_found_without_reading(attributes: dict[str, Any]) -> None:
    data = Items(**attributes)
    found = stored_labels(data)
    assert found is not None
    assert found.tolist() == LABELS
    assert found.dtype == np.int64
    assert data.reads == 0


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"targets": ["cat"] * 4},
        {"targets": torch.rand(4)},
        {"targets": torch.zeros(4, 2, dtype=torch.int64)},
        {"samples": ["a.png"] * 4},
        {"targets": [9, 9, 9, 9], "target_transform": lambda y: y},
    ],
)
def test_other_labels_are_read(attributes: dict[str, Any]) -> None:
    data = Items(**attributes)
    assert stored_labels(data) is None
    assert DatasetSource(data).targets.tolist() == LABELS
    assert data.reads == len(LABELS)


def test_wrappers() -> None:
    stored, unknown = Items(targets=LABELS), Items()
    parts = ConcatDataset([Subset(stored, [0]), unknown])
    for data, labels in ((Subset(stored, [3, 1]), [2, 0]), (parts, [2, *LABELS])):
        assert DatasetSource(data).targets.tolist() == labels
    assert DatasetSource(Subset(unknown, [2])).targets.tolist() == [1]
    found = stored_labels(ConcatDataset([Subset(stored, [0]), stored]))
    assert found is not None
    assert found.tolist() == [2, *LABELS]


def test_classes_without_images_and_with_one() -> None:
    with pytest.raises(ValueError, match="'b'"):
        check_class_sizes(torch.tensor([0, 2]), ["a", "b", "c"])
    with pytest.raises(ValueError, match="start at 0"):
        check_class_sizes(torch.tensor([1, 2]), ["a", "b", "c"])
    with pytest.warns(UserWarning, match="'a'"):
        check_class_sizes(torch.tensor([0, 1, 1]), ["a", "b"])
    with pytest.raises(ValueError, match="UTF-8"):
        check_class_sizes(torch.tensor([0, 0]), ["caf\udce9"])


class Showing(Dataset[tuple[int, int]]):
    """A wrapper that shows the attributes of the data set inside, and changes its items."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, int]:
        _, label = self.dataset[index]
        return 1, label + int(index == 1)  # not one of the three items that are compared


def test_labels_that_a_wrapper_shows_are_not_its_own() -> None:
    data = Showing(Items(targets=LABELS))
    assert stored_labels(data) is None
    assert DatasetSource(data).targets.tolist() == [2, 1, 1, 2]


def test_files_that_a_wrapper_shows_are_not_its_own(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / name / "1.png")
    folder = ImageFolder(str(tmp_path))
    assert open_dataset(Subset(folder, [1, 0])).paths == ["dog/1.png", "cat/1.png"]
    for data in (Showing(folder), ImageFolder(str(tmp_path), transform=lambda image: image)):
        assert DatasetSource(data).paths is None


def test_names_that_an_earlier_version_wrote(tmp_path: Path) -> None:
    """It kept an accent as a Mac stores it."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    data = open_dataset(
        TensorDataset(images, torch.arange(6) % 2), classes=["bar", composed], progress=False
    )
    nfaug.fit("builtin:pixels", data, progress=False).save(tmp_path / "flow")
    make_bank(tmp_path / "flow", data, tmp_path / "bank", variants=1, progress=False)
    for file in (tmp_path / "flow" / "config.json", tmp_path / "bank" / "manifest.json"):
        text = json.dumps(json.loads(file.read_text()), ensure_ascii=False)
        assert composed in text
        file.write_text(text.replace(composed, decomposed))
    assert nfaug.load(tmp_path / "flow").config.classes == ("bar", composed)
    assert Bank(tmp_path / "bank").manifest.classes == ("bar", composed)
    assert len(BankDataset(data, tmp_path / "bank")) == 6
