"""Arrays, bundled images, digits and torchvision's data sets."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tools.images import pixels
from torch.utils.data import TensorDataset

import nfaug
from nfaug.data.batches import decode
from nfaug.data.open import open_dataset
from nfaug.data.sources.layout import MissingSplitError


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(folder: Path) -> None:
    for seed, (base, labels) in enumerate({"train": [0, 1, 2, 2], "t10k": [1, 2]}.items()):
        write_idx(folder / f"{base}-images-idx3-ubyte", pixels(seed, len(labels), 5, 4))
        write_idx(folder / f"{base}-labels-idx1-ubyte", np.array(labels, np.uint8))


# .npz files


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 3), (4, 3, 5, 6), (4, 5, 6, 1)])
def test_npz(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images, path = pixels(0, *shape), tmp_path / "data.npz"
    np.savez_compressed(path, images=images, labels=np.array([[1], [0], [2], [1]]))
    dataset = open_dataset(path)
    assert dataset.classes == ["0", "1", "2"]
    assert dataset.targets.tolist() == [1, 0, 2, 1]
    first = images[0] if len(shape) == 3 or shape[1] == 3 else images[0].transpose(2, 0, 1)
    assert torch.equal(dataset[0][0], torch.from_numpy(first).reshape(dataset[0][0].shape))
    assert dataset.image_size == (5, 6)
    with pytest.raises(MissingSplitError, match="'test'"):
        open_dataset(path, split="test")


def test_npz_with_names(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=pixels(0, 3, 5, 5), labels=[0, 1, 2], classes=["cat", "dog", "eel"])
    assert open_dataset(path).classes == ["cat", "dog", "eel"]


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"images": np.zeros((2, 5, 5)), "labels": [0, 1]}, "float64"),
        ({"images": pixels(0, 2, 5, 5, 7), "labels": [0, 1]}, "7"),
        ({"images": pixels(0, 2, 5, 5), "labels": [0.0, 1.0]}, "float64"),
        ({"images": pixels(0, 2, 5, 5), "labels": [0]}, r"\(1,\)"),
        ({"images": pixels(0, 2, 5, 5)}, "labels"),
        ({"images": pixels(0, 2, 5, 5), "labels": [0, 10**9]}, "1000000000"),
        ({"x": pixels(0, 2, 5, 5)}, "images"),
        ({"images": np.array([None, {}]), "labels": [0, 1]}, "object"),
    ],
)
def test_wrong_npz(tmp_path: Path, arrays: dict[str, Any], word: str) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=word):
        open_dataset(tmp_path / "data.npz")


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, images=pixels(0, 4, 5, 6), labels=[0, 1, 0, 1])
    whole = path.read_bytes()
    for cut in (0, 10, 200, len(whole) - 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="damaged"):
            open_dataset(path)
    for shape in (b"(1000000, 1000, 1000)", b"(((("):
        header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
        text = b"{'descr': '|u1', 'fortran_order': False, 'shape': %s, }" % shape
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", header + text.ljust(117) + b"\n" + bytes(100))
        with pytest.raises(ValueError, match="damaged"):
            open_dataset(path)


def test_bundled_images() -> None:
    train, test = open_dataset("builtin:clothes"), open_dataset("builtin:clothes", split="test")
    assert train.targets.bincount().tolist() == [20] * 10
    assert (len(test), int(test.targets.bincount().min())) == (675, 52)
    assert train.classes == test.classes
    assert train.classes[:2] == ["dress", "hat"]
    assert (train.channels, train.image_size) == (3, (32, 32))
    images, held_out = decode(train), decode(test)
    assert not {bytes(i) for i in images.numpy()} & {bytes(i) for i in held_out.numpy()}
    with pytest.raises(MissingSplitError, match="split='validation'"):
        open_dataset("builtin:clothes", split="validation")
    with pytest.raises(FileNotFoundError, match="builtin:clothes"):
        open_dataset("builtin:../images/clothes")


def test_bundled_images_have_their_license() -> None:
    """And they are below 2 MB."""
    files = list(Path(nfaug.__file__).parent.glob("builtin/images/*/*.tar"))
    assert files
    for file in files:
        folder = file.parent
        license = (folder / "LICENSE").read_text(encoding="utf-8")
        assert "CC0 1.0 Universal" in license
        assert f"builtin:{file.stem}" in (folder / "README.md").read_text(encoding="utf-8")
        assert file.stat().st_size < 2_000_000


def test_digits() -> None:
    train, test = open_dataset("digits"), open_dataset("digits", split="test")
    assert (len(train), len(test)) == (1442, 355)
    assert train.classes == [str(digit) for digit in range(10)]
    assert (train.channels, train.image_size) == (1, (8, 8))
    images, held_out = decode(train), decode(test)
    assert set(images.unique().tolist()) == {round(255 * level / 16) for level in range(17)}
    assert not {bytes(i) for i in images.numpy()} & {bytes(i) for i in held_out.numpy()}
    counts = test.targets.bincount()
    assert 34 <= int(counts.min()) <= int(counts.max()) <= 36
    # Fixed for ever: published figures stand on this split.
    assert test.targets[:12].tolist() == [5, 0, 9, 8, 7, 1, 2, 6, 3, 4, 0, 2]
    assert (int(images.sum()), int(held_out.sum())) == (7182008, 1771793)
    with pytest.raises(MissingSplitError, match="split='validation'"):
        open_dataset("digits", split="validation")


# Data sets of torchvision


@pytest.mark.parametrize(
    "name", ["torch/fashion_mnist", "torch/fashion-mnist", "Torch/Fashion_MNIST"]
)
def test_torchvision_folders(tmp_path: Path, name: str) -> None:
    """Files in the folders that torchvision gives them are opened without a download."""
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    names = ["T-shirt/top", "Trouser", "Pullover"]
    for seed, (split, labels) in enumerate({"train": [0, 1, 2, 2], "test": [1, 2]}.items()):
        for word in (split, split.title()):
            found = open_dataset(name, data_dir=tmp_path, split=word)
            assert found.classes[:3] == names
            assert found.targets.tolist() == labels
            images = torch.from_numpy(pixels(seed, len(labels), 1, 5, 4))
            assert torch.equal(decode(found), images)


def test_names_that_are_not_opened(tmp_path: Path) -> None:
    with pytest.raises(MissingSplitError, match="split='val'"):
        open_dataset("torch/CIFAR10", split="val")
    with pytest.raises(ValueError, match="download=False"):
        open_dataset("torch/cifar10", data_dir=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="torch/unheard_of"):
        open_dataset("torch/unheard_of", data_dir=tmp_path)


@pytest.mark.parametrize("place", [".", "FashionMNIST/raw"])
def test_a_folder_of_idx_files(tmp_path: Path, place: str) -> None:
    write_mnist(tmp_path / place)
    with pytest.raises(ValueError, match=r"torch/fashion_mnist, .*\(--data-dir\)"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("data", ["no/such/folder", "cifar10"])
def test_nothing_there(data: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"'{data}'") as caught:
        open_dataset(data)
    assert len(str(caught.value)) < 120, "one line"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "data must be a folder"),
        (None, "a length and items by index"),
        (TensorDataset(torch.zeros(1)), r"must be \(image, label\)"),
    ],
)
def test_no_data(data: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_dataset(data)
