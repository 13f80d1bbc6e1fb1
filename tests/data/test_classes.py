"""Names of classes, as data sets have them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nfa_tools import checkpoint, images_of

from nfaug.augment.transform import NFAugment
from nfaug.data.classes import class_names, dataset_classes
from nfaug.training import wrap_dataset

SYNONYMS = {"tench": 0, "Tinca tinca": 0, "crane": 1, "ox": 2, "kite": 2}


def test_synonyms_of_a_class() -> None:
    names = ["tench, Tinca tinca", "crane", "ox, kite"]
    assert dataset_classes(SYNONYMS) == names
    wrapped = SimpleNamespace(dataset=SimpleNamespace(class_to_idx=SYNONYMS))
    assert dataset_classes(wrapped, required=True) == names
    assert dataset_classes(dict(reversed(SYNONYMS.items()))) == [
        "Tinca tinca, tench", "crane", "kite, ox",
    ]  # fmt: skip
    nfa = NFAugment(checkpoint(config=SimpleNamespace(class_names=tuple(names))))
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
    assert dataset_classes(imagenet) == class_names(classes) == names
    assert dataset_classes(classes) == names
    assert class_names(names) == names, "names that are told apart stay"
    with pytest.raises(ValueError, match="two classes share"):
        dataset_classes(imagenet.class_to_idx)


def test_an_opened_data_set_and_the_one_in_it_have_the_same_names() -> None:
    class Items(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        classes = (("crane",), ("tench", "Tinca tinca"), ("crane",))
        targets = (0, 1, 2)

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return images_of(torch.tensor([index]))[0], index

    assert wrap_dataset(Items()).classes == dataset_classes(Items())


def test_class_to_idx_says_which_label_is_which() -> None:
    found = SimpleNamespace(classes=["ox", "tench"], class_to_idx={"tench": 0, "ox": 1})
    assert dataset_classes(found) == ["tench", "ox"]


def test_a_list_of_images_and_labels_has_no_names() -> None:
    pairs = [(SimpleNamespace(), 0), (SimpleNamespace(), 1)]
    assert dataset_classes(pairs) is None
    assert dataset_classes([("crane", "heron"), "ox", 3]) == ["crane, heron", "ox", "3"]
    with pytest.raises(ValueError, match="names"):
        dataset_classes(pairs, required=True)
