"""Torch data sets of (image, label), and images in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from nfaug.data.images import LabelledImages, split_per_class, to_tensors
from nfaug.data.torch_datasets import wrap_dataset


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
    dataset = wrap_dataset(Items([image, image], [0, 1]))
    assert torch.equal(dataset[1][0], expected)
    assert dataset.channels == len(expected)
    assert dataset.classes == ["0", "1"]
    assert dataset.fingerprint() == wrap_dataset(Items([image, image], [0, 1])).fingerprint()
    assert wrap_dataset(dataset) is dataset


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
        wrap_dataset(Items([image], [0]))


def test_wrapped_channels() -> None:
    two, three = LEVELS[:2], LEVELS
    with pytest.raises(ValueError, match="2 channels"):
        wrap_dataset(Items([two, three], [0, 0]))
    with pytest.raises(ValueError, match="2 channels"):
        wrap_dataset(Items([two], [0]), channels=3, image_size=4)[0]
    mixed = wrap_dataset(Items([LEVELS[0], three], [0, 0]), image_size=(3, 5))
    assert to_tensors(mixed)[0].shape == (2, 3, 3, 5)


def test_stored_labels_are_confirmed() -> None:
    images, labels = LEVELS.expand(4, -1, -1, -1), [1, 0, 2, 1]
    items = Items(images, labels, targets=labels)
    assert wrap_dataset(items, channels=3, image_size=5).targets.tolist() == labels
    assert items.reads == 3
    moved = Items(images, labels, targets=[0, 1, 2, 0])
    assert wrap_dataset(moved).targets.tolist() == labels
    plain = Items(images, [torch.tensor(1), np.int32(0), 2, 1])
    assert wrap_dataset(Subset(plain, [1, 0])).targets.tolist() == [0, 1]


def test_wrapped_classes() -> None:
    items = Items([LEVELS, LEVELS], [0, 2], classes=[("crane", "bird"), "ox", "ox"])
    held_out = wrap_dataset(Subset(items, [1, 0]))
    assert held_out.classes == ["crane, bird", "ox (1)", "ox (2)"]
    assert held_out.targets.tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"0\.\.1"):
        wrap_dataset(items, classes=["a", "b"])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield LEVELS, 0


def test_wrong_data_sets() -> None:
    with pytest.raises(ValueError, match="Stream"):
        wrap_dataset(Stream())
    with pytest.raises(ValueError, match="no images"):
        wrap_dataset(Items([], []))
    with pytest.raises(ValueError, match="'image'"):
        wrap_dataset([{"image": LEVELS}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="-100"):
        wrap_dataset([(LEVELS, -100)])
    for data in (LEVELS, (LEVELS, torch.arange(2))):
        with pytest.raises(ValueError, match="TensorDataset"):
            wrap_dataset(data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tuple"):
        wrap_dataset(TensorDataset(LEVELS))
    for label in (0.5, torch.tensor([0, 1]), "cat", True):
        with pytest.raises(ValueError, match="image 1"):
            wrap_dataset(Items([LEVELS, LEVELS], [0, label]))


# In memory


def test_tensors() -> None:
    images, labels = LEVELS[:, None].repeat(3, 1, 1, 1), torch.arange(9) % 3
    dataset = wrap_dataset(TensorDataset(images, labels), classes=["a", "b", "c"])
    assert wrap_dataset(dataset, classes=["a", "b", "c"]) is dataset
    named = wrap_dataset(dataset, classes=("x", "y", "z"))
    assert (named.classes, dataset.classes) == (["x", "y", "z"], ["a", "b", "c"])
    assert (named.preprocessing, named.reader.threads) == (dataset.preprocessing, False)
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        wrap_dataset(dataset, classes=["x", "y"])
    assert (dataset.channels, dataset.image_size) == (1, (6, 5))
    assert torch.equal(dataset[4][0], images[4])
    assert dataset[4][1] == 1
    stored = to_tensors(dataset)
    assert torch.equal(stored[0], images)
    assert stored[1].tolist() == dataset.targets.tolist()
    flipped = wrap_dataset(TensorDataset(images.flip(0), labels), classes=["a", "b", "c"])
    assert dataset.fingerprint() != flipped.fingerprint()


def test_split_per_class() -> None:
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    dataset = wrap_dataset(TensorDataset(images, torch.arange(40) % 4))
    chosen, rest = split_per_class(dataset, 3, seed=1)
    assert chosen.targets.bincount().tolist() == [3] * 4
    assert rest.targets.bincount().tolist() == [7] * 4
    assert isinstance(chosen, LabelledImages)
    one, other = to_tensors(chosen)[0][:, 0, 0, 0], to_tensors(rest)[0][:, 0, 0, 0]
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(40))
    assert torch.equal(one % 4, chosen.targets)
    assert torch.equal(to_tensors(split_per_class(dataset, 3, seed=1)[0])[0], to_tensors(chosen)[0])
    everything, nothing = split_per_class(dataset, 10)
    assert (len(everything), len(nothing)) == (40, 0)
    assert nothing.classes == dataset.classes
    assert to_tensors(nothing)[0].shape == (0, 1, 2, 2)


@pytest.mark.parametrize("given", ["my-images", Path("my-images")])
def test_a_path_is_no_dataset(given: Any) -> None:
    with pytest.raises(ValueError, match=r"nfaug\.open_dataset\('my-images'\)"):
        wrap_dataset(given)
