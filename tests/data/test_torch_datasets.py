"""Torch data sets of (image, label), and images in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from nfaug.data.batches import decode
from nfaug.data.images import Images
from nfaug.data.open import open_dataset


class Items(Dataset[Any]):
    """A data set with whatever attributes a test gives it."""

    def __init__(self, images: Any, labels: Any, /, **attributes: Any) -> None:
        self.images, self.list = images, labels
        self.reads = 0
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.list)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.images[index], self.list[index]


LEVELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 6, 5), dtype=np.uint8))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (LEVELS, LEVELS),
        (LEVELS.numpy(), LEVELS),
        (LEVELS[0], LEVELS[:1]),
        (LEVELS / 255, LEVELS),
        ((LEVELS / 255).double().numpy(), LEVELS),
        (LEVELS.repeat(4, 1, 1), LEVELS.repeat(4, 1, 1)),
        (Image.fromarray(LEVELS.permute(1, 2, 0).numpy()), LEVELS),
        (Image.fromarray(LEVELS[0].numpy()), LEVELS[:1]),
    ],
    ids=["uint8", "array", "HW", "float", "float array", "12 channels", "RGB", "grayscale"],
)
def test_wrapped_images(image: Any, expected: Tensor) -> None:
    dataset = open_dataset(Items([image, image], [0, 1]))
    assert torch.equal(dataset[1][0], expected)
    assert dataset.channels == len(expected)
    assert dataset.classes == ["0", "1"]
    assert dataset.fingerprint() == open_dataset(Items([image, image], [0, 1])).fingerprint()
    assert open_dataset(dataset) is dataset


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (LEVELS.float(), "floating point"),
        (LEVELS / 255 - 0.5, "normalization"),
        (torch.full((1, 6, 5), torch.nan), "nan"),
        (LEVELS.int(), "torch.int32"),
        (LEVELS.numpy().astype(np.uint16), "torch.uint16"),
        (LEVELS.permute(1, 2, 0), "permute"),
        (LEVELS[None], r"\(1, 3, 6, 5\)"),
        ("image.png", "got str"),
    ],
)
def test_wrong_wrapped_images(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(Items([image], [0]))


def test_wrapped_channels() -> None:
    two, three = LEVELS[:2], LEVELS
    with pytest.raises(ValueError, match="2 channels"):
        open_dataset(Items([two, three], [0, 0]))
    with pytest.raises(ValueError, match="2 channels"):
        open_dataset(Items([two], [0]), channels=3, image_size=4)[0]
    mixed = open_dataset(Items([LEVELS[0], three], [0, 0]), image_size=(3, 5))
    assert decode(mixed).shape == (2, 3, 3, 5)


def test_stored_labels_are_confirmed() -> None:
    images, labels = LEVELS.expand(4, -1, -1, -1), [1, 0, 2, 1]
    items = Items(images, labels, targets=labels)
    assert open_dataset(items, channels=3, image_size=5).targets.tolist() == labels
    assert items.reads == 3
    moved = Items(images, labels, targets=[0, 1, 2, 0])
    assert open_dataset(moved).targets.tolist() == labels
    plain = Items(images, [torch.tensor(1), np.int32(0), 2, 1])
    assert open_dataset(Subset(plain, [1, 0])).targets.tolist() == [0, 1]


def test_wrapped_classes() -> None:
    items = Items([LEVELS, LEVELS], [0, 2], classes=[("crane", "bird"), "ox", "ox"])
    held_out = open_dataset(Subset(items, [1, 0]))
    assert held_out.classes == ["crane, bird", "ox (1)", "ox (2)"]
    assert held_out.targets.tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"0\.\.1"):
        open_dataset(items, classes=["a", "b"])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield LEVELS, 0


def test_wrong_data_sets() -> None:
    with pytest.raises(ValueError, match="Stream"):
        open_dataset(Stream())
    with pytest.raises(ValueError, match="no images"):
        open_dataset(Items([], []))
    with pytest.raises(ValueError, match="'image'"):
        open_dataset([{"image": LEVELS}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="-100"):
        open_dataset([(LEVELS, -100)])
    for data in (LEVELS, (LEVELS, torch.arange(2))):
        with pytest.raises(ValueError, match="TensorDataset"):
            open_dataset(data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tuple"):
        open_dataset(TensorDataset(LEVELS))
    for label in (0.5, torch.tensor([0, 1]), "cat", True):
        with pytest.raises(ValueError, match="image 1"):
            open_dataset(Items([LEVELS, LEVELS], [0, label]))


# In memory


def test_tensors() -> None:
    images, labels = LEVELS[:, None].repeat(3, 1, 1, 1), torch.arange(9) % 3
    dataset = open_dataset(TensorDataset(images, labels), classes=["a", "b", "c"])
    assert open_dataset(dataset, classes=["a", "b", "c"]) is dataset
    named = open_dataset(dataset, classes=("x", "y", "z"))
    assert (named.classes, dataset.classes) == (["x", "y", "z"], ["a", "b", "c"])
    assert (named.preprocessing, named.source.threads) == (dataset.preprocessing, False)
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        open_dataset(dataset, classes=["x", "y"])
    assert (dataset.channels, dataset.image_size) == (1, (6, 5))
    assert torch.equal(dataset[4][0], images[4])
    assert dataset[4][1] == 1
    assert torch.equal(decode(dataset), images)
    flipped = open_dataset(TensorDataset(images.flip(0), labels), classes=["a", "b", "c"])
    assert dataset.fingerprint() != flipped.fingerprint()


def test_a_number_of_each_class() -> None:
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    dataset = open_dataset(TensorDataset(images, torch.arange(40) % 4))
    chosen, rest = dataset.split(per_class=3, seed=1)
    assert chosen.targets.bincount().tolist() == [3] * 4
    assert rest.targets.bincount().tolist() == [7] * 4
    assert isinstance(chosen, Images)
    one, other = decode(chosen)[:, 0, 0, 0], decode(rest)[:, 0, 0, 0]
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(40))
    assert torch.equal(one % 4, chosen.targets)
    assert torch.equal(decode(dataset.split(per_class=3, seed=1)[0]), decode(chosen))
    everything, nothing = dataset.split(per_class=10)
    assert (len(everything), len(nothing)) == (40, 0)
    for wrong in ({}, {"per_class": 1, "share": 0.5}):
        with pytest.raises(ValueError, match="give per_class or share"):
            dataset.split(**wrong)
    with pytest.raises(ValueError, match="share"):
        dataset.split(share=2)
    counted, _ = dataset.split(per_class=[1, 0, 4, 12])
    assert counted.targets.bincount().tolist() == [1, 0, 4, 10]
    assert nothing.classes == dataset.classes
    assert decode(nothing).shape == (0, 1, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"split": "test"}, "split"),
        ({"data_dir": "data"}, "data_dir"),
        ({"download": True}, "download"),
        ({"labels": False}, "labels"),
    ],
)
def test_what_is_of_no_use_for_a_dataset(arguments: dict[str, Any], word: str) -> None:
    images = TensorDataset(torch.zeros(4, 1, 6, 5, dtype=torch.uint8), torch.arange(4) % 2)
    for data in (images, open_dataset(images)):
        with pytest.raises(ValueError, match=f"{word} is of no use for a"):
            open_dataset(data, **arguments)
    with pytest.raises(ValueError, match="mean is of no use for 'digits'"):
        open_dataset("digits", mean=0.5, std=0.5)


def test_classes_and_images_of_each_class() -> None:
    """Arguments that all data take."""
    images = TensorDataset(torch.zeros(40, 1, 6, 5, dtype=torch.uint8), torch.arange(40) % 4)
    opened = open_dataset(images, classes=["a", "b", "c", "d"], per_class=3, seed=1)
    assert opened.targets.bincount().tolist() == [3] * 4
    assert opened.classes == ["a", "b", "c", "d"]
    assert open_dataset("digits", classes=[*"zothfvxsen"]).classes[:3] == ["z", "o", "t"]
