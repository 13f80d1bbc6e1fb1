"""Data sets whose transforms end in Normalize, as training scripts have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tools.nfa import write_images
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import nfaug
from nfaug.data.open import open_dataset

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def test_a_data_set_with_normalize_is_read_as_it_was(tmp_path: Path) -> None:
    root = write_images(tmp_path, 16, train=4) / "train"
    plain = open_dataset(ImageFolder(root))
    last = v2.Normalize(MEAN, STD)
    unit = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    normalized = ImageFolder(root, v2.Compose([v2.Resize(16), unit, last]))
    for dataset in (normalized, Subset(normalized, range(len(normalized)))):
        found = open_dataset(dataset)
        for index in range(len(plain)):
            assert torch.equal(found[index][0], plain[index][0])
    ours = nfaug.fit("builtin:pixels", ImageFolder(root, v2.PILToTensor()), progress=False)
    theirs = nfaug.fit("builtin:pixels", normalized, progress=False)
    assert ours.pca is not None
    assert theirs.pca is not None
    assert torch.equal(ours.pca.mean, theirs.pca.mean)


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), (0.5, 0.25), ([0.5], [0.5])])
def test_mean_and_std_of_tensors(mean: list[float] | float, std: list[float] | float) -> None:
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    pair = [torch.as_tensor(value).reshape(-1, 1, 1) for value in (mean, std)]
    labels = torch.arange(6) % 2
    normalized = TensorDataset((images / 255 - pair[0]) / pair[1], labels)
    found = nfaug.fit("builtin:pixels", normalized, mean=mean, std=std, progress=False)
    expected = nfaug.fit("builtin:pixels", TensorDataset(images, labels), progress=False)
    assert found.pca is not None
    assert expected.pca is not None
    assert torch.equal(found.pca.mean, expected.pca.mean)
    with pytest.raises(ValueError, match="mean="):
        nfaug.fit("builtin:pixels", normalized, progress=False)
    with pytest.raises(ValueError, match="together"):
        nfaug.fit("builtin:pixels", normalized, mean=mean, progress=False)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):  # of another normalisation
        nfaug.fit("builtin:pixels", normalized, mean=0.9, std=0.9, progress=False)
