"""BankDataset: which images a bank belongs to, and what its items are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tools.bank import Pictures, make, save_pictures
from tools.nfa import NAMES, checkpoint, write_images
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets import DatasetFolder, ImageFolder, VisionDataset
from torchvision.transforms import v2

from nfaug.bank import Bank, BankDataset, make_bank
from nfaug.data.image_files import decode_image
from nfaug.data.open import open_dataset
from nfaug.fitting import fit


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return make(tmp_path_factory.mktemp("bank") / "b")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def of_files(folder: Path) -> Bank:
    """A bank that nfaug made of a folder, where 2.png comes before 10.png."""
    return make(folder.parent / "bank-of-files", open_dataset(folder))


def test_images_are_replaced_by_variants(bank: Bank) -> None:
    source = Pictures()
    data = BankDataset(source, bank, p=1.0)
    image, label = data[4]
    assert image.mode == "RGB"
    assert label == source.targets[4]
    pixels = torch.stack([torch.from_numpy(np.array(data[4][0])) for _ in range(30)])
    variants = torch.from_numpy(np.array(bank.variants[4]))
    seen = [(pixels == variant).flatten(1).all(1).any().item() for variant in variants]
    assert all(seen)
    assert (pixels[:, None] == variants).flatten(2).all(2).any(1).all(), "and nothing else"
    source.reads = 0
    for index in (i for i in range(30) if bank.applied[i].any()):
        data[index]
    assert source.reads == 30, "an image without a file is read, to be compared"
    data.p = 0.0
    assert (np.array(data[4][0]) == source.images[4].permute(1, 2, 0).numpy()).all()
    assert data[-1][1] == 2
    with pytest.raises(IndexError):
        data[30]
    torch.manual_seed(0)
    data.p = 0.5
    changed = sum((np.array(data[4][0]) != np.array(source[4][0])).any() for _ in range(300))
    assert 110 < changed < 190
    assert data.classes == list(NAMES), "attributes are the wrapped data set's"
    with pytest.raises(ValueError, match=r"2\.0"):
        BankDataset(source, bank, p=2.0)


def check_variants(data: BankDataset, source: Any, bank: Bank) -> None:
    """With p = 1 an item is one of the variants of its own image, and its label is right."""
    for index in range(len(data)):
        image, label = data[index]
        path = Path(source.samples[index][0])
        row = bank.paths.index(f"{path.parent.name}/{path.name}")
        shown = [*bank.variants[row], np.asarray(Image.open(path))]
        assert any((np.asarray(image) == each).all() for each in shown)
        assert source.classes[label] == path.parent.name


def test_files_are_matched_by_path_not_by_order(folder: Path, of_files: Bank) -> None:
    source = ImageFolder(str(folder))
    order = [Path(path).name for path, _ in source.samples]
    assert order != [Path(path).name for path in of_files.paths], "torchvision sorts otherwise"
    check_variants(BankDataset(source, of_files, p=1.0), source, of_files)
    again = make(folder.parent / "again", source)
    check_variants(BankDataset(source, again, p=1.0), source, again)
    assert len(BankDataset(open_dataset(folder, image_size=12), again)) == 30
    odd = ImageFolder(f"{folder.parent}//./{folder.name}")
    assert BankDataset(odd, of_files)._rows.tolist() == BankDataset(source, of_files)._rows.tolist()
    assert len(BankDataset(open_dataset(source, image_size=12), again)) == 30
    with pytest.raises(ValueError, match="samples"):
        BankDataset([source[index] for index in range(30)], again)


def test_files_around_which_there_are_other_folders(folder: Path, tmp_path: Path) -> None:
    inner = tmp_path / "all" / "train"
    inner.parent.mkdir()
    inner.symlink_to(folder)
    made = make(tmp_path / "bank", open_dataset(tmp_path / "all"))
    source = ImageFolder(str(inner))
    check_variants(BankDataset(source, made, p=1.0), source, made)
    part = BankDataset(Subset(source, [25, 3]), made, p=1.0)
    assert [part[0][1], part[1][1]] == [2, 0], "some of the images"


def test_classes_in_another_order(tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "images")
    for old, new in zip(NAMES, ("2", "10", "3"), strict=True):
        (folder / old).rename(folder / new)
    data = open_dataset(folder)
    assert data.classes == ["2", "3", "10"]
    parts = checkpoint()
    parts.config.classes = ()
    made = make_bank(parts, data, tmp_path / "bank", variants=2, progress=False)
    parts.config.classes = NAMES
    source = ImageFolder(str(folder))
    assert source.classes == ["10", "2", "3"]
    check_variants(BankDataset(source, made, p=1.0), source, made)


def test_other_files_raise(folder: Path, of_files: Bank, tmp_path: Path) -> None:
    other = ImageFolder(str(save_pictures(tmp_path / "other", seed=9)))
    with pytest.raises(ValueError, match=r"\d+\.png"):
        BankDataset(other, of_files)
    more = ImageFolder(str(save_pictures(tmp_path / "more", 60)))
    with pytest.raises(ValueError, match="30 of 60 images"):
        BankDataset(more, of_files)
    with pytest.raises(ValueError, match="samples"):
        BankDataset(Pictures(), of_files)
    moved = save_pictures(tmp_path / "moved")
    (moved / "cat" / "7.png").rename(moved / "dog" / "3.png")
    with pytest.raises(ValueError, match=r"dog/3\.png"):
        BankDataset(ImageFolder(str(moved)), of_files)


class Mirrored(ImageFolder):
    """A data set with a transform of its own, which variants would lack."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), label


def test_a_hidden_transform_warns(folder: Path, of_files: Bank) -> None:
    assert len(BankDataset(ImageFolder(str(folder)), of_files)) == len(of_files)
    with pytest.warns(UserWarning, match="transform="):
        BankDataset(Mirrored(str(folder)), of_files)


def test_arrays_that_a_loader_of_the_data_set_reads(tmp_path: Path) -> None:
    (tmp_path / "data" / "cat").mkdir(parents=True)
    for index, image in enumerate(Pictures().images[:3]):
        np.save(tmp_path / "data" / "cat" / f"{index}.npy", image.numpy())
    data = DatasetFolder(
        str(tmp_path / "data"), lambda path: torch.from_numpy(np.load(path)), (".npy",)
    )
    flow = fit("builtin:pixels", data, rank=2, progress=False)
    bank = make_bank(flow, data, tmp_path / "bank", variants=1, progress=False)
    assert len(BankDataset(data, bank)) == 3


def test_images_without_files_are_matched_by_order(bank: Bank) -> None:
    shuffled, torn = Pictures(), Pictures()
    shuffled.images, shuffled.targets = shuffled.images.flip(0), shuffled.targets[::-1]
    torn.images = torn.images.roll(1, 0)
    renamed, foreign = Pictures(), Pictures()
    renamed.classes, foreign.classes = ["cat", "eel", "dog"], ["cat", "dog", "fox"]
    hidden = [torn[index] for index in range(30)]
    cases: list[tuple[Any, str]] = [
        (Pictures(31), "31"), (shuffled, "image 0"), (Pictures(seed=9), "image 0"),
        (Subset(Pictures(60), range(30)), "image 0"), (torn, "image 0"), (hidden, "image 0"),
        (renamed, "image 10"), (foreign, "'eel'"),
        (TensorDataset(shuffled.images, torch.tensor(shuffled.targets)), "image 0"),
    ]  # fmt: skip
    for data, message in cases:
        with pytest.raises(ValueError, match=message):
            BankDataset(data, bank)


def test_data_that_nfaug_resizes_are_the_same_data(tmp_path: Path) -> None:
    """As for `nfaug bank --data torch/mnist` and a loop on torchvision's MNIST."""
    data = Pictures(size=(14, 14))
    made = make(tmp_path / "b", open_dataset(data, image_size=8))
    assert made.manifest.shape == (3, 8, 8)
    assert len(BankDataset(data, made)) == 30
    assert len(BankDataset(open_dataset(data, image_size=12), made)) == 30
    with pytest.raises(ValueError, match="image 0"):
        BankDataset(open_dataset(Pictures(seed=9, size=(14, 14)), image_size=8), made)


def test_all_items_have_the_channels_of_the_bank(tmp_path: Path) -> None:
    items = [{"image": image, "label": label} for image, label in Pictures()]
    made = make_bank(checkpoint(channels=1), items, tmp_path / "b", variants=2, progress=False)
    data = BankDataset(items, made, p=0.5)
    assert {data[index % 30][0].mode for index in range(90)} == {"L"}


@pytest.mark.parametrize("mode", ["1", "I;16", "P", "RGBA"])
def test_images_have_the_mode_of_the_variants(mode: str, tmp_path: Path) -> None:
    """A batch held 16-bit images of up to 65,535 beside variants of up to 255."""
    items = []
    for image, label in Pictures():
        if mode == "I;16":
            levels = np.array(image.convert("L")).astype(np.uint16) * 257
            items.append((Image.fromarray(levels), int(label)))
        else:
            items.append((image.convert(mode), int(label)))
    channels = 1 if mode in ("1", "I;16") else 3
    fitted = checkpoint(channels=channels)
    made = make_bank(fitted, items, tmp_path / "b", variants=2, gate=None, progress=False)
    data = BankDataset(items, made, p=0.5)
    modes = {data[index % 30][0].mode for index in range(90)}
    assert modes == {"L" if channels == 1 else "RGB"}


def test_transforms(bank: Bank, folder: Path, of_files: Bank) -> None:
    source = Pictures()
    source.transform = lambda image: np.array(image).mean()
    data = BankDataset(source, bank, p=0.5)
    assert source.transform is not None, "the data set itself is not changed"
    assert isinstance(data[0][0], float)
    data.transform = lambda image: image.size  # as timm's create_loader does
    assert data[0][0] == (8, 8)
    with pytest.raises(ValueError, match="transform="):
        BankDataset(source, bank, transform=lambda image: image)
    inside = ImageFolder(str(folder), transform=to_tensor)
    for given in (inside, Subset(inside, range(30))):
        items = BankDataset(given, of_files)
        assert all(items[index][0].shape == (8, 8, 3) for index in range(30))
    hidden = [(torch.rand(3, 8, 8), label) for label in source.targets]
    with pytest.raises(ValueError, match="Take the steps"):
        BankDataset(hidden, bank)


class Opened(Dataset[tuple[Any, int]]):
    """Files that a class of one's own opens and transforms, without asking for a transform."""

    def __init__(self, folder: Path, transform: Any) -> None:
        self.files = sorted(folder.glob("*/*.png"))
        self.classes = sorted({file.parent.name for file in self.files})
        self.targets = [self.classes.index(file.parent.name) for file in self.files]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.open(self.files[index]).convert("RGB")), self.targets[index]


@pytest.mark.parametrize("kind", [ImageFolder, Opened])
def test_the_transform_of_a_dataset_is_applied_once(
    kind: Any, folder: Path, tmp_path: Path
) -> None:
    """To variants as to images, after the bank."""
    dark = kind(folder, transform=lambda image: image.point(lambda level: level // 2))
    fitted = fit("builtin:pixels", ImageFolder(str(folder)), progress=False)
    made = make_bank(fitted, dark, tmp_path / "b", variants=3, gate=None, progress=False)
    means = []
    for p in (0.0, 1.0):
        data = BankDataset(dark, made, p=p)
        means.append(np.mean([np.array(data[index % 30][0]).mean() for index in range(300)]))
    assert means[0] == pytest.approx(np.mean([np.array(image).mean() for image, _ in dark]))
    assert means[1] == pytest.approx(means[0], rel=0.05)


class Wrapped(Dataset[tuple[Any, int]]):
    """A dataset around another one, whose attributes are its own."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dataset, name)


class WithTransforms(VisionDataset):
    """Torchvision's pets and places apply both transforms at once."""

    def __init__(self, **transforms: Any) -> None:
        super().__init__("", **transforms)
        self.pictures = Pictures()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        image, label = self.pictures[index]
        return self.transforms(image, label) if self.transforms else (image, label)


def test_the_transform_of_labels_stays(tmp_path: Path) -> None:
    source = WithTransforms(transform=v2.RandomCrop(4), target_transform=lambda label: 2 - label)
    assert source[0][1] == 2
    data = BankDataset(source, make(tmp_path / "bank", source), p=0.0)
    image, label = data[0]
    assert (image.size, label) == ((4, 4), 2)


def test_transforms_of_another_kind(tmp_path: Path) -> None:
    """A list of steps that a dataset composes under the same name."""
    source: Any = Pictures()
    source.transforms = [v2.RandomCrop(4)]
    source.transform = v2.Compose(source.transforms)
    image, _ = BankDataset(source, make(tmp_path / "bank", source), p=0.0)[0]
    assert image.size == (4, 4)


def test_a_class_that_the_dataset_lacks(bank: Bank) -> None:
    source = Pictures()
    source.classes = ["ant", *source.classes[1:]]
    with pytest.raises(ValueError, match=f"the class '{NAMES[0]}', which the dataset lacks"):
        BankDataset(source, bank)


def test_a_transform_inside_a_wrapper_is_part_of_its_items(folder: Path, tmp_path: Path) -> None:
    inside = ImageFolder(str(folder), transform=lambda image: image.point(lambda level: level // 2))
    dark = Wrapped(inside)
    fitted = fit("builtin:pixels", dark, progress=False)
    made = make_bank(fitted, dark, tmp_path / "b", variants=3, gate=None, progress=False)
    data = BankDataset(dark, made, p=0.0)
    assert (np.array(data[3][0]) == np.array(dark[3][0])).all(), "once"


def test_a_transform_that_resizes(tmp_path: Path) -> None:
    """Files of two sizes: the bank resizes them, and the transform its variants."""
    folder = write_images(tmp_path, 12, data=4) / "data"
    for file in sorted(folder.glob("*/1.png")):
        Image.open(file).resize((10, 14)).save(file)
    data = ImageFolder(str(folder), transform=v2.Resize((8, 8)))
    fitted = fit("builtin:pixels", folder, image_size=8, progress=False)
    with pytest.raises(ValueError, match="image_size=64"):
        make_bank(fitted, data, tmp_path / "a", variants=2, progress=False)
    made = make_bank(fitted, data, tmp_path / "b", variants=2, image_size=8, progress=False)
    items = BankDataset(data, made, p=0.5)
    assert {items[index % 12][0].size for index in range(60)} == {(8, 8)}


def to_tensor(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


def test_workers_and_pickle(bank: Bank) -> None:
    data = BankDataset(Pictures(), bank, p=1.0, transform=to_tensor)
    copied = pickle.loads(pickle.dumps(data))
    assert isinstance(copied.bank.variants, np.memmap)
    originals = Pictures().images.permute(0, 2, 3, 1)
    for each in (data, copied):
        loader = DataLoader(each, batch_size=10, num_workers=2, persistent_workers=True)
        assert not torch.equal(torch.cat([images for images, _ in loader]), originals)
        each.p = 0.0
        assert torch.equal(torch.cat([images for images, _ in loader]), originals), "at once"


def test_photographs_with_an_exif_orientation_are_upright(tmp_path: Path) -> None:
    """The bank is made upright from files; torchvision yields the stored pixels and the tag."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    source = Pictures(12, size=(40, 60))
    for index, (image, label) in enumerate(source):
        folder = tmp_path / "images" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        stored = image.transpose(Image.Transpose.ROTATE_90)
        stored.save(folder / f"{index:02}.jpg", exif=exif, quality=95)
    files = open_dataset(tmp_path / "images")
    made = make(tmp_path / "bank", files, variants=1, gate=None)
    assert made.manifest.shape == (3, 40, 60)
    folder_of_torchvision = ImageFolder(str(tmp_path / "images"))
    assert folder_of_torchvision[0][0].size == (40, 60)
    for p in (0.0, 1.0):
        data = BankDataset(folder_of_torchvision, made, p=p)
        for index in range(12):
            expected = np.asarray(decode_image(Path(files.name(index)).read_bytes(), "upright"))
            if p and made.applied[index, 0]:
                expected = made.variant(index, 0)
            assert (np.array(data[index][0]) == expected).all()
    assert made.applied.any()
