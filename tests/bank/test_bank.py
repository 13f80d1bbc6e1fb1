from __future__ import annotations

import copy
import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nfa_tools import NAMES, Counted, checkpoint, fitted, images_of, tiny_flow
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, get_worker_info
from torchvision.transforms.functional import pil_to_tensor

import nfaug
from nfaug.augment.settings import MixSettings
from nfaug.augment.transform import NFAugment
from nfaug.bank import dataset as bank_dataset
from nfaug.bank import export as bank_export
from nfaug.bank import make as module
from nfaug.bank.make import Bank, BankDataset, bank_bytes, export_bank, make_bank
from nfaug.flows.codec import PixelCodec
from nfaug.io.lock import OutputInUseError, lock_output


class Pictures(Dataset[tuple[Any, int]]):
    """PIL images and labels, with the attributes of a torchvision data set."""

    def __init__(
        self, count: int = 30, *, seed: int = 0, channels: int = 3, size: tuple[int, int] = (8, 8)
    ) -> None:
        self.targets = [i * 3 // count for i in range(count)]
        self.classes = list(NAMES)
        self.images = images_of(torch.tensor(self.targets), seed=seed, channels=channels, size=size)
        self.transform: Any = None
        self.reads = 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.reads += 1
        pixels = self.images[index].permute(1, 2, 0).numpy()
        image: Any = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return (self.transform(image) if self.transform else image), self.targets[index]


def make(path: Path, dataset: Any = None, **settings: Any) -> Bank:
    settings = {"variants": 3, "batch_size": 8, "progress": False, **settings}
    return make_bank(checkpoint(), Pictures() if dataset is None else dataset, path, **settings)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return make(tmp_path_factory.mktemp("bank") / "b")


def test_variants_are_on_disk_with_a_manifest(bank: Bank) -> None:
    source = Pictures()
    assert bank.variants.shape == (30, 3, 8, 8, 3)
    assert bank.variants.dtype == np.uint8
    assert isinstance(bank.variants, np.memmap)
    assert bank.applied.mean() > 0.8
    originals = source.images.permute(0, 2, 3, 1).numpy()[:, None]
    same = (bank.variants == originals).all((2, 3, 4))
    assert (same != bank.applied).all(), "applied says which differ"
    assert (bank.variants[:, 0] != bank.variants[:, 1]).any()
    assert bank.labels.tolist() == source.targets
    values = json.loads((bank.path / "manifest.json").read_text())
    assert values["complete"]
    assert values["stats"]["seen"] == 90
    assert values["stats"]["applied"] >= bank.applied.sum()
    assert values["parameters"]["mix"] == "axis"
    assert {path.name for path in bank.path.iterdir()} == {
        "manifest.json", "variants.npy", "applied.npy", "labels.npy", "probes.npy",
    }  # fmt: skip
    size = (bank.path / "variants.npy").stat().st_size
    assert 0 < size - bank_bytes(30, 3, (3, 8, 8)) < 1024
    assert repr(bank).endswith("30 images, 3 variants each)")


def test_a_seed_reproduces_and_another_differs(bank: Bank, tmp_path: Path) -> None:
    again = make(tmp_path / "again")
    assert (again.variants == bank.variants).all()
    assert (make(tmp_path / "other", seed=1).variants != bank.variants).any()


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("stop", [3, 12, 29])
def test_an_interrupted_bank_is_continued(bank: Bank, tmp_path: Path, stop: int) -> None:
    class Fragile(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            if index == stop and self.reads > 30:  # the probes are read before
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Fragile())
    with pytest.raises(ValueError, match=r"\d+ of 30"):
        Bank(tmp_path)
    with (tmp_path / "variants.npy").open("ab") as file:
        file.write(b"half a batch that was being written")
    with pytest.raises(ValueError, match="30 compared"):
        make(tmp_path, Pictures(seed=9))  # which have the same labels
    source = Pictures()
    make(tmp_path, source)
    assert contents(tmp_path) == contents(bank.path)
    assert source.reads <= 31 + 30 - stop // 8 * 8, "but for the probes no image is read again"
    with (tmp_path / "variants.npy").open("r+b") as file:
        file.truncate(500)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"complete": False, "done": 24}))
    with pytest.raises(ValueError, match=r"variants\.npy"):
        make(tmp_path)


def test_candidates_are_different_variants(bank: Bank) -> None:
    source = Pictures()
    data = BankDataset(source, bank, p=1.0, transform=pil_to_tensor, candidates=2)
    stack, label = data[4]
    assert stack.shape == (2, 3, 8, 8)
    assert label == source.targets[4]
    variants = torch.from_numpy(np.array(bank.variants[4])).permute(0, 3, 1, 2)
    assert not torch.equal(stack[0], stack[1])
    assert all((image == variants).flatten(1).all(1).any() for image in stack)
    loader = DataLoader(data, batch_size=8)
    images, labels = next(iter(loader))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    assert nfaug.hardest(model, images.float(), labels).shape == (8, 3, 8, 8)
    data.p = 0.0
    stack, _ = data[4]
    assert all(torch.equal(image, source.images[4]) for image in stack), "the image, repeated"


def test_candidates_are_checked(bank: Bank) -> None:
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="3 variants"):
            BankDataset(Pictures(), bank, candidates=wrong)
    with pytest.raises(TypeError, match="got Image"):
        BankDataset(Pictures(), bank, candidates=2)[0]


def test_few_variants_are_repeated() -> None:
    choices = np.array([5, 7])
    assert sorted(bank_dataset._drawn(choices, 0.6, 4)) == [5, 5, 7, 7]
    assert bank_dataset._drawn(choices, 0.6, 1) == [7]
    assert bank_dataset._drawn(choices[:0], 0.6, 4) == []


def test_data_set_replaces_images_by_variants(bank: Bank) -> None:
    source = Pictures()
    data = BankDataset(source, bank, p=1.0)
    image, label = data[4]
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    assert label == source.targets[4]
    pixels = torch.stack([torch.from_numpy(np.array(data[4][0])) for _ in range(30)])
    variants = torch.from_numpy(np.array(bank.variants[4]))
    seen = [(pixels == variant).flatten(1).all(1).any().item() for variant in variants]
    assert all(seen)
    assert (pixels[:, None] == variants).flatten(2).all(2).any(1).all(), "and nothing else"
    source.reads = 0
    BankDataset(source, bank, p=0.0)
    probes = source.reads
    swapped = [i for i in range(30) if bank.applied[i].any()]
    for i in swapped:
        data[i]
    assert source.reads == probes, "nothing is decoded for an image that is swapped"
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
    assert len(data) == 30
    assert "p=0.5" in repr(data)


def test_transforms(bank: Bank) -> None:
    source = Pictures()
    source.transform = lambda image: np.array(image).mean()
    data = BankDataset(source, bank, p=0.5)
    assert source.transform is not None, "the data set itself is not changed"
    assert isinstance(data[0][0], float)
    data.transform = lambda image: image.size  # as timm's create_loader does
    assert data[0][0] == (8, 8)
    with pytest.raises(ValueError, match="transform="):
        BankDataset(source, bank, transform=lambda image: image)
    source.target_transform = lambda y: y  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="target_transform"):
        BankDataset(source, bank)


def to_tensor(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image))


def test_workers_and_pickle(bank: Bank) -> None:
    data = BankDataset(Pictures(), bank, p=1.0, transform=to_tensor)
    loader = DataLoader(data, batch_size=10, num_workers=2, persistent_workers=True)
    originals = Pictures().images.permute(0, 2, 3, 1)
    first = torch.cat([images for images, _ in loader])
    assert (first != originals).flatten(1).any(1).float().mean() > 0.8
    data.p = 0.0
    assert torch.equal(torch.cat([images for images, _ in loader]), originals), "at once"
    again = pickle.loads(pickle.dumps(data))
    assert isinstance(again.bank.variants, np.memmap)
    assert len(pickle.dumps(data.bank)) < 2000, "the mapped array stays on disk"


def test_tensor_data_and_other_channels(tmp_path: Path) -> None:
    labels = torch.tensor([0, 1, 2] * 4)
    gray = TensorDataset(images_of(labels, channels=1, size=(12, 10)), labels)
    made = make_bank(checkpoint(channels=1), gray, tmp_path / "g", variants=2, progress=False)
    assert made.variants.shape == (12, 2, 12, 10, 1)
    data = BankDataset(gray, made, p=1.0)
    assert data[0][0].mode == "L"
    assert data[0][0].size == (10, 12)
    data.p = 0.0
    assert data[0][0].mode == "L"


def test_other_data_raise(bank: Bank) -> None:
    shuffled = Pictures()
    shuffled.images, shuffled.targets = shuffled.images.flip(0), shuffled.targets[::-1]
    cases: list[tuple[Any, str]] = [
        (Pictures(31), "31"),
        (shuffled, "image 0"),
        (Subset(Pictures(60), range(0, 30)), "image 10"),
        (Pictures(seed=9), "%"),
    ]
    for data, message in cases:
        with pytest.raises(ValueError, match=message):
            BankDataset(data, bank)
    renamed = Pictures()
    renamed.classes = ["cat", "eel", "dog"]
    with pytest.raises(ValueError, match="'eel'"):
        BankDataset(renamed, bank)
    hidden = TensorDataset(shuffled.images, torch.tensor(shuffled.targets))
    with pytest.raises(ValueError, match="image 0"):
        BankDataset(hidden, bank)
    with pytest.raises(ValueError, match=r"2\.0"):
        BankDataset(Pictures(), bank, p=2.0)
    resized = Pictures(size=(12, 12))
    BankDataset(resized, bank)  # the same pictures at another size are the same data


def test_variants_much_smaller_than_the_images_give_a_warning(bank: Bank) -> None:
    small = Pictures()
    larger = [(image.resize((15, 15)), label) for image, label in small]
    assert len(BankDataset(larger, bank)) == len(small)
    twice = [(image.resize((16, 20)), label) for image, label in small]
    with pytest.warns(UserWarning, match="--image-size"):
        BankDataset(twice, bank)


def test_invalid_sources_and_directories(bank: Bank, tmp_path: Path) -> None:
    floats = TensorDataset(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(ValueError, match=r"torch\.float32"):
        make(tmp_path / "a", floats)
    with pytest.raises(ValueError, match="channels"):
        make(
            tmp_path / "a", TensorDataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.ones(4))
        )

    class Mixed(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image.resize((8 + index % 2, 8)), label

    with pytest.raises(ValueError, match="image_size="):
        make(tmp_path / "m", Mixed())
    other = checkpoint(config=SimpleNamespace(class_names=("cat", "eel", "dog")))
    with pytest.raises(ValueError, match="'dog'"):
        make_bank(other, Pictures(), tmp_path / "o", progress=False)
    with pytest.raises(ValueError, match="empty"):
        make(tmp_path / "e", Subset(Pictures(), []))
    with pytest.raises(ValueError, match="0 and 8"):
        make(tmp_path / "v", variants=0)
    with pytest.raises(ValueError, match="-1"):
        make(tmp_path / "v", workers=-1)
    with pytest.raises(ValueError, match="variants"):
        make(bank.path, variants=2, seed=4)
    flow = checkpoint(flow=perturbed())
    with pytest.raises(ValueError, match="flow_sha256"):
        make_bank(flow, Pictures(), bank.path, variants=3, batch_size=8, progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="full"):
        make(tmp_path / "full")


def perturbed() -> Any:
    flow = copy.deepcopy(tiny_flow())
    with torch.no_grad():
        next(flow.parameters()).add_(0.01)
    return flow


def test_overwrite_and_lack_of_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, variants=1)
    assert make(tmp_path, variants=2, overwrite=True).manifest.variants == 2
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="0 MiB"):
        make(tmp_path / "new")


def test_a_kill_before_the_first_variant_leaves_nothing_or_the_old_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = contents(make(tmp_path / "old").path)
    with monkeypatch.context() as patch:

        def killed(images: Any) -> np.ndarray:
            raise KeyboardInterrupt

        patch.setattr(module, "thumbnails", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "new")
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "old", variants=2, overwrite=True)
    assert contents(tmp_path / "old") == old
    assert contents(make(tmp_path / "new").path) == old


def test_consistent_variants(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"variants": 1, "progress": False, "keep": "consistent"}
    made = make_bank(fitted(shift=100.0), Pictures(), tmp_path, **settings)
    stats = made.manifest.stats
    assert stats["inconsistent"] >= 10
    assert not made.applied[np.asarray(made.labels) == 0].any()
    with pytest.raises(ValueError, match="flow_sha256"):
        make_bank(fitted(shift=50.0), Pictures(), tmp_path, **settings)
    with pytest.raises(ValueError, match="keep"):
        make_bank(fitted(shift=100.0), Pictures(), tmp_path, **{**settings, "keep": "all"})


def test_damaged_banks(bank: Bank, tmp_path: Path) -> None:
    def damaged(name: str, data: bytes) -> Path:
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        for file, content in contents(bank.path).items():
            (folder / file).write_bytes(data if file == name else content)
        return folder

    manifest = json.loads((bank.path / "manifest.json").read_text())
    with pytest.raises(ValueError, match=r"manifest\.json"):
        Bank(damaged("manifest.json", b"{"))
    with pytest.raises(ValueError, match=r"variants\.npy"):
        Bank(damaged("variants.npy", b"nothing"))
    with pytest.raises(ValueError, match=r"labels\.npy"):
        Bank(damaged("labels.npy", (bank.path / "applied.npy").read_bytes()))
    with pytest.raises(ValueError, match="nothing"):
        Bank(tmp_path / "nothing")
    path = tmp_path / "manifest"
    for change, message in (
        ({"format_version": 9}, "version 9"),
        ({"more": 1}, "'more'"),
        ({"shape": 5}, "manifest"),
        ({"parameters": 5}, "manifest"),
        ({"parameters": {"levels": 3}}, "'levels'"),
        ({"parameters": {"alpha": -1.0}}, "alpha"),
    ):
        (path / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ValueError, match=message):
            Bank(path)


def test_a_manifest_from_before_a_setting_existed(bank: Bank, tmp_path: Path) -> None:
    for file, content in contents(bank.path).items():
        (tmp_path / file).write_bytes(content)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["parameters"]["p"], manifest["parameters"]["noise"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert Bank(tmp_path).manifest == bank.manifest
    assert make(tmp_path).manifest == bank.manifest, "and is continued"


def test_settings_as_one_object(bank: Bank, tmp_path: Path) -> None:
    settings = MixSettings(p=0.1, strength=0.7, axes=2)
    made = make(tmp_path / "one", variants=1, settings=settings, noise=0.2)
    again = make(tmp_path / "two", variants=1, strength=0.7, axes=2, noise=0.2)
    assert (made.variants == again.variants).all()
    assert made.manifest.parameters == MixSettings(p=1.0, strength=0.7, axes=2, noise=0.2)
    assert bank.manifest.parameters == MixSettings(p=1.0)


def test_progress_is_saved_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 2))  # each look at the clock is 2 seconds later
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    done = []
    save = module.Manifest.save

    def saved(manifest: module.Manifest, directory: Path) -> None:
        done.append(manifest.done)
        save(manifest, directory)

    monkeypatch.setattr(module.Manifest, "save", saved)
    make(tmp_path, Pictures(60), batch_size=4)
    assert done == [0, 12, 24, 36, 48, 60, 60], "and at the end"


def test_export_as_a_folder_of_images(bank: Bank, tmp_path: Path) -> None:
    out = tmp_path / "folder"
    written = export_bank(bank.path, out, progress=False)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert len(files) == sum(written.values()) == bank.applied.sum()
    assert set(written) == set(NAMES)
    i, v = (int(x) for x in Path(files[0]).stem.split("-"))
    with Image.open(out / files[0]) as picture:
        assert (np.array(picture) == bank.variants[i, v]).all()
    with pytest.raises(FileExistsError, match="folder"):
        export_bank(bank, out)
    assert bank_export._file_name("../../etc/pass wd") == "_.._etc_pass wd"
    assert bank_export._file_name("..") == "_"


KILLED = """
import sys, torch
sys.path[:0] = {folders!r}
import nfaug.bank.make
from test_bank import make, Pictures
nfaug.bank.make._SAVE_SECONDS = 0.0
make({out!r}, Pictures(300))
"""


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_killed_bank_is_continued(tmp_path: Path) -> None:
    whole = contents(make(tmp_path / "whole", Pictures(300)).path)
    script = KILLED.format(
        folders=[str(folder) for folder in Path(__file__).parents[:2]],
        out=str(tmp_path / "killed"),
    )
    for number in range(12):
        process = subprocess.Popen([sys.executable, "-c", script])
        time.sleep(2.0 + 0.13 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
    make(tmp_path / "killed", Pictures(300))
    assert contents(tmp_path / "killed") == whole


@pytest.mark.parametrize("settings", [{}, {"noise": 0.1}, {"partners": "batch", "gate": None}])
def test_images_are_encoded_once_and_variants_are_those_of_calls(
    tmp_path: Path, counted: Counted, settings: dict[str, Any]
) -> None:
    data = Pictures()
    made = make(tmp_path, data, variants=5, batch_size=30, **settings)
    assert sum(counted.encoded) == 30
    nfa = NFAugment(checkpoint(), p=1.0, **settings)
    for number, generator in enumerate(module._generators(made.manifest, 0)):
        nfa.generator = generator
        new = nfa(data.images, torch.tensor(data.targets))[0].permute(0, 2, 3, 1)
        difference = np.abs(made.variants[:, number].astype(int) - new.numpy())
        assert difference.max() <= 1, "rounding: the order of the images differs"
        assert (difference > 0).mean() < 1e-3
    assert made.manifest.stats == nfa.stats()


def test_the_unmixed_latent_is_decoded_once(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A codec that is not exact needs it for every variant."""
    monkeypatch.setattr(PixelCodec, "exact", False)
    made = make(tmp_path, variants=4, batch_size=30, gate=None)
    assert sum(counted.decoded) == 30 + made.manifest.stats["applied"]


def test_every_rank_locks_the_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b"
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock_output(path):
            held.set()
            done.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    try:
        assert held.wait(60)
        monkeypatch.setenv("RANK", "1")
        with pytest.raises(OutputInUseError, match="in use"):
            make(path)
    finally:
        done.set()
        other.join()
    assert not path.exists()


def test_overwriting_with_another_kind_leaves_no_old_arrays(tmp_path: Path) -> None:
    names = {"applied.npy", "labels.npy", "manifest.json", "probes.npy"}
    make(tmp_path / "b", residual=True)
    make(tmp_path / "b", overwrite=True)
    assert {file.name for file in (tmp_path / "b").iterdir()} == {*names, "variants.npy"}
    make(tmp_path / "b", residual=True, overwrite=True)
    found = {file.name for file in (tmp_path / "b").iterdir()}
    assert found == {*names, "residuals.npy", "steps.npy"}


def test_errors_of_workers_have_one_line(tmp_path: Path) -> None:
    mixed = Pictures()
    mixed.images = [image[:, : 8 - i // 29] for i, image in enumerate(mixed.images)]
    for data, residual, word in ((mixed, False, "--residual"), (Odd(), True, "uint8")):
        with pytest.raises(ValueError, match=word) as raised:
            make(tmp_path / word, data, workers=1, residual=residual)
        assert "Traceback" not in str(raised.value)


class Odd(Pictures):
    """Its images are floats in data-loader workers."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = super().__getitem__(index)
        return (pil_to_tensor(image).float() if get_worker_info() else image), label


def test_an_error_that_cannot_be_pickled_travels_as_its_message(tmp_path: Path) -> None:
    class Held(OSError):
        def __init__(self) -> None:
            super().__init__("the server is gone")
            self.lock = threading.Lock()

    class Gone(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            if get_worker_info():
                raise Held
            return super().__getitem__(index)

    with pytest.raises(OSError, match="server"):
        make(tmp_path / "b", Gone(), workers=1)


def test_a_name_or_a_list_of_images_will_do(tmp_path: Path) -> None:
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    bank = make_bank(
        "builtin:rgb32", [(image, i % 2) for i, image in enumerate(images)], tmp_path / "b",
        variants=1, progress=False,
    )  # fmt: skip
    assert len(bank) == 6
