"""IDX files, bundled images, digits and timm's names."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_tools import pixels
from torch.utils.data import TensorDataset

import nfaug
from nfaug.data.images import to_tensors
from nfaug.data.open import MissingSplitError, open_dataset


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, dash: str = "-", suffix: str = "") -> None:
    for seed, (base, labels) in enumerate({"train": [0, 1, 2, 2], "t10k": [1, 2]}.items()):
        images = pixels(seed, len(labels), 5, 4)
        write_idx(folder / f"{base}-images{dash}idx3-ubyte{suffix}", images)
        write_idx(folder / f"{base}-labels{dash}idx1-ubyte{suffix}", np.array(labels, np.uint8))


# IDX files, bundled images and digits


@pytest.mark.parametrize(("dash", "suffix"), [("-", ""), ("-", ".gz"), (".", "")])
def test_idx(tmp_path: Path, dash: str, suffix: str) -> None:
    write_mnist(tmp_path, dash, suffix)
    train, test = open_dataset(tmp_path), open_dataset(tmp_path, split="test")
    assert train.classes == test.classes == ["0", "1", "2"]
    assert train.targets.tolist() == [0, 1, 2, 2]
    assert test.targets.tolist() == [1, 2]
    assert (train.channels, train.image_size) == (1, (5, 4))
    assert torch.equal(to_tensors(train)[0], torch.from_numpy(pixels(0, 4, 1, 5, 4)))
    assert open_dataset(tmp_path, image_size=8, channels=3)[0][0].shape == (3, 8, 8)
    assert train.fingerprint() != test.fingerprint()


def test_idx_files_as_torchvision_stores_them(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    assert len(open_dataset(tmp_path)) == 4
    write_mnist(tmp_path / "KMNIST" / "raw")
    with pytest.raises(ValueError, match="KMNIST/raw"):
        open_dataset(tmp_path)


def test_idx_errors(tmp_path: Path) -> None:
    write_mnist(tmp_path, suffix=".gz")
    images, labels = (tmp_path / f"train-{x}-ubyte.gz" for x in ("images-idx3", "labels-idx1"))
    with pytest.raises(MissingSplitError, match="split='val'"):
        open_dataset(tmp_path, split="val")
    write_idx(labels, np.array([0, 1], np.uint8))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        open_dataset(tmp_path)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="train-labels-idx1-ubyte"):
        open_dataset(tmp_path)
    images.write_bytes(images.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
        open_dataset(tmp_path)
    images.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 4, 5, 4)))
    with pytest.raises(ValueError, match=r"4,\s?5,\s?4"):
        open_dataset(tmp_path)
    images.write_bytes(gzip.compress(bytes([0, 0, 13, 3]) + bytes(100)))
    with pytest.raises(ValueError, match="0d 03"):
        open_dataset(tmp_path)


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
    images, held_out = to_tensors(train)[0], to_tensors(test)[0]
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
    images, held_out = to_tensors(train)[0], to_tensors(test)[0]
    assert set(images.unique().tolist()) == {round(255 * level / 16) for level in range(17)}
    assert not {bytes(i) for i in images.numpy()} & {bytes(i) for i in held_out.numpy()}
    counts = test.targets.bincount()
    assert 34 <= int(counts.min()) <= int(counts.max()) <= 36
    # Fixed for ever: published figures stand on this split.
    assert test.targets[:12].tolist() == [5, 0, 9, 8, 7, 1, 2, 6, 3, 4, 0, 2]
    assert (int(images.sum()), int(held_out.sum())) == (7182008, 1771793)
    with pytest.raises(MissingSplitError, match="split='validation'"):
        open_dataset("digits", split="validation")


# timm's names


def test_timm_names(tmp_path: Path) -> None:
    write_mnist(tmp_path / "FashionMNIST" / "raw")  # as torchvision stores it
    test = open_dataset("torch/fashion_mnist", data_dir=tmp_path, split="test")
    assert test.classes[:2] == ["T-shirt/top", "Trouser"]
    assert torch.equal(to_tensors(test)[0], torch.from_numpy(pixels(1, 2, 1, 5, 4)))
    with pytest.raises(MissingSplitError, match="split='val'"):
        open_dataset("torch/CIFAR10", split="val")
    with pytest.raises(ValueError, match="download=False"):
        open_dataset("torch/cifar10", data_dir=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="torch/unheard_of"):
        open_dataset("torch/unheard_of", data_dir=tmp_path)


@pytest.mark.parametrize("data", ["no/such/folder", "cifar10"])
def test_nothing_there(data: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"'{data}'") as caught:
        open_dataset(data)
    assert len(str(caught.value)) < 120, "one line"


@pytest.mark.parametrize("data", ["", None, TensorDataset(torch.zeros(1))])
def test_no_path(data: Any) -> None:
    with pytest.raises(ValueError, match="wrap_dataset"):
        open_dataset(data)
