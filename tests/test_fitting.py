from __future__ import annotations

import dataclasses
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tools.device import pretended_gpu
from tools.libraries import needs
from tools.nfa import NAMES, Counted, TensorImages, images_of
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.classes.fixed_point import FixedPointConfig, solve
from nfaug.classes.pca_fit import fit_class
from nfaug.cli import main
from nfaug.data import source
from nfaug.data.batches import Decoded, Streamed, batches, in_memory
from nfaug.data.open import open_dataset
from nfaug.fitting import FitConfig, checkpoints, classes, fit, fit_classes, open_images
from nfaug.flows.flow import Flow

STRICT = FixedPointConfig(kld_weight=20.0)


def quiet_fit(flow: Flow | Checkpoint | str | Path, dataset: Any, **settings: Any) -> Checkpoint:
    return fit(flow, dataset, progress=False, **({"rank": 4} | settings))


def means(fitted: Checkpoint) -> torch.Tensor:
    assert fitted.pca is not None
    return fitted.pca.mean


def test_new_classes(tiny_checkpoint: Checkpoint) -> None:
    """A flow of three classes, fitted to four others of which it saw nothing."""
    labels = torch.arange(40) % 4
    dataset = TensorDataset(images_of(labels + 5, channels=1), labels)
    fitted = quiet_fit(tiny_checkpoint, dataset)
    assert fitted.flow is tiny_checkpoint.flow
    assert fitted.config.classes == ("0", "1", "2", "3")
    assert fitted.config.gaussians == {"fitted": True, "images": 40}
    assert fitted.config.metrics == {}, "the old figures are not of these classes"
    assert fitted.config.training == tiny_checkpoint.config.training
    pca = fitted.pca
    assert pca is not None
    assert pca.counts.tolist() == [10] * 4
    assert (pca.num_classes, pca.rank) == (4, 4)
    assert pca.memory is not None
    assert pca.memory.shape == (40, 4)
    images, _ = nfaug.NFAugment(fitted, p=1.0)(*dataset[:])
    assert not torch.equal(images, dataset.tensors[0])


def test_a_hugging_face_dataset() -> None:
    datasets = needs("datasets")
    images = images_of(torch.arange(6) % 3).permute(0, 2, 3, 1).numpy()
    kinds = {"id": datasets.Value("int32"), "image": datasets.Image()}
    features = datasets.Features({**kinds, "label": datasets.ClassLabel(names=NAMES)})
    columns = {"id": [*range(6)], "image": [*images], "label": [0, 1, 2] * 2}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    fitted = quiet_fit("builtin:pixels", dataset)
    assert fitted.config.classes == tuple(NAMES)
    nfaug.NFAugment(fitted).check_classes(dataset)


def test_the_figures_are_those_of_the_latents(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages
) -> None:
    fitted = quiet_fit(tiny_checkpoint.flow, tiny_images, gaussians=True)
    assert fitted.gaussians is not None
    assert fitted.pca is not None
    with torch.no_grad():
        z = tiny_checkpoint.flow.encode(tiny_images.images)[0].flatten(1)
    for label in range(3):
        mine = z[tiny_images.targets == label]
        torch.testing.assert_close(fitted.pca.mean[label], mine.mean(0), rtol=1e-3, atol=1e-4)
        # Noise of a level moves the means of 12 images by little.
        noise = (fitted.gaussians.means[label] - mine.mean(0)).abs().max()
        assert noise < 0.3 * mine.std(0).mean()
        spread = fitted.gaussians.variances[label].sqrt() / mine.std(0, correction=0)
        assert 0.8 < spread.median() < 1.3


def test_constant_pixels_have_a_variance(tiny_checkpoint: Checkpoint) -> None:
    """Black borders: without noise in the statistics, the fixed point would divide by nothing."""
    labels = torch.arange(24) % 2
    images = images_of(labels, channels=1)
    images[:, :, :3] = 0
    fitted = quiet_fit(tiny_checkpoint, TensorDataset(images, labels), gaussians=STRICT)
    assert fitted.gaussians is not None
    assert fitted.gaussians.means.isfinite().all()
    data = quiet_fit(tiny_checkpoint, TensorDataset(images, labels), gaussians="data")
    assert data.gaussians is not None
    assert (data.gaussians.variances > 0).all()


def test_gaussians_are_found_on_request_alone(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages, counted: Counted
) -> None:
    """Without them, which NFA does not read, every image is encoded once."""
    without = quiet_fit(tiny_checkpoint, tiny_images)
    assert sum(counted.encoded) == 36
    assert without.gaussians is None
    assert "kind" not in without.config.gaussians
    counted.encoded.clear()
    found = quiet_fit(tiny_checkpoint, tiny_images, gaussians=True)
    assert sum(counted.encoded) == 2 * 36
    assert found.gaussians is not None
    assert found.gaussians.counts.tolist() == [12] * 3
    assert found.config.gaussians == {"kind": "data", "fitted": True, "images": 36}
    assert found.pca is not None
    assert without.pca is not None
    ours, theirs = found.pca.tensors(), without.pca.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for wrong in (None, "none", 1.5):
        with pytest.raises(ValueError, match="gaussians"):
            quiet_fit(tiny_checkpoint, tiny_images, gaussians=wrong)


def test_the_fixed_point(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    data = quiet_fit(tiny_checkpoint, tiny_images, gaussians="data")
    pushed = quiet_fit(tiny_checkpoint, tiny_images, gaussians=STRICT)
    assert data.gaussians is not None
    assert pushed.gaussians is not None
    expected = solve(data.gaussians.means.double(), data.gaussians.variances.double(), STRICT)
    torch.testing.assert_close(pushed.gaussians.means, expected.means.float(), rtol=1e-4, atol=1e-4)
    record = pushed.config.gaussians
    assert record["kind"] == "fpi"
    assert record["converged"] is True
    assert {"kld_weight", "iterations", "residual", "fit"} < record.keys()


def test_a_solve_that_does_not_converge_says_so(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages
) -> None:
    few = dataclasses.replace(STRICT, max_iterations=1, tolerance=1e-9)
    with pytest.warns(RuntimeWarning, match="1 iterations"):
        fitted = quiet_fit(tiny_checkpoint, tiny_images, gaussians=few)
    assert fitted.config.gaussians["converged"] is False


def test_the_seed_decides(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fits = [quiet_fit(tiny_checkpoint, tiny_images, per_class=8, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator was used"
    assert means(fits[0]).equal(means(fits[1]))
    assert not means(fits[0]).equal(means(fits[2]))
    assert fits[0].config.gaussians["images"] == 24


def test_images_from_workers(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    config = FitConfig(rank=4, per_class=10, memory=False, gaussians=True, batch_size=5)
    data = {
        "memory": in_memory(tiny_images),
        "workers": in_memory(tiny_images, memory_gib=0, workers=1),
        "threads": in_memory(tiny_images, memory_gib=0, workers=0),
    }
    assert isinstance(data["memory"], Decoded)
    assert isinstance(data["workers"], Streamed)
    assert data["threads"] is tiny_images
    fits = [
        fit_classes(tiny_checkpoint.flow, given, NAMES, config, progress=False)
        for given in data.values()
    ]
    one, two, _ = fits
    assert one is not None
    assert two is not None
    assert one.statistics is not None
    assert two.statistics is not None
    assert torch.equal(one.statistics.means, two.statistics.means)
    assert torch.equal(one.pca.axes, two.pca.axes)
    assert not one.pca.has_memory


# What `flow` and `dataset` may be.


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of three color images each, of several sizes."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        images = images_of(torch.full((3,), label), size=(20, 16))
        for number, image in enumerate(images):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            picture.resize((16 + number, 20)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_a_name_and_a_path(pictures: Path, tiny_path: Path) -> None:
    for flow in (tiny_path, str(tiny_path)):
        fitted = quiet_fit(flow, pictures, rank=2, channels=1)
        assert fitted.config.classes == ("cat", "dog")
    fitted = quiet_fit("builtin:rgb32", str(pictures), rank=2)
    assert fitted.config.preprocessing["image_size"] == [32, 32]
    assert fitted.config.preprocessing["crop"] == "centre"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        quiet_fit(tiny_path, "nowhere")


def test_a_flow_of_any_shape_keeps_the_images_shape(tiny_images: TensorImages) -> None:
    pairs = [*tiny_images]
    fitted = quiet_fit("builtin:pixels", pairs)
    assert fitted.flow.config.image_size == tiny_images.image_size
    assert fitted.flow.config.channels == 1


def test_images_of_any_size(pictures: Path, tiny_checkpoint: Checkpoint) -> None:
    """Whatever holds the images, they are resized to the flow's size as `open_dataset` does."""
    settings = {"rank": 2, "channels": 1}
    expected = quiet_fit(tiny_checkpoint, pictures, **settings)
    folder = ImageFolder(str(pictures))
    rows = [{"image": image, "label": label, "id": 7} for image, label in folder]
    tensors = [(pil_to_tensor(image), label) for image, label in folder]
    unit = [(image / 255, label) for image, label in tensors]
    for data in (folder, rows, tensors, unit):
        fitted = quiet_fit(tiny_checkpoint, data, **settings)
        assert fitted.config.preprocessing == expected.config.preprocessing
        assert means(fitted).equal(means(expected))
    large = open_dataset(folder, image_size=(20, 16))
    assert quiet_fit(tiny_checkpoint, large, **settings).pca is not None


def test_a_size_for_a_flow_of_any_size(pictures: Path, tiny_images: TensorImages) -> None:
    fitted = quiet_fit("builtin:pixels", pictures, rank=2, image_size=(12, 10))
    assert fitted.flow.config.shape == (3, 12, 10)
    with pytest.warns(UserWarning, match="image_size"):
        fitted = quiet_fit("builtin:pixels", ImageFolder(str(pictures)), rank=2)
    assert fitted.flow.config.shape == (3, 17, 17), "the median of the shorter sides"
    assert quiet_fit("builtin:pixels", tiny_images, image_size=4).flow.config.shape == (1, 4, 4)
    flow = nfaug.load("builtin:rgb32").flow
    assert open_images(flow, pictures, image_size=32).image_size == (32, 32)
    for size in (16, 0, "wide"):
        with pytest.raises(ValueError, match=str(size)):
            open_images(flow, pictures, image_size=size)


def test_photographs_are_fitted_at_128_pixels(tmp_path: Path) -> None:
    for index in range(4):
        folder = tmp_path / ("a", "b")[index % 2]
        folder.mkdir(exist_ok=True)
        Image.linear_gradient("L").resize((300 + index, 200)).save(folder / f"{index}.png")
    with pytest.warns(UserWarning, match="128 x 128"):
        images = open_images(nfaug.load("builtin:pixels").flow, tmp_path)
    assert images[0][0].shape == (1, 128, 128)


def test_items_of_another_form(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    rows = [{"pixels": image, "label": label} for image, label in tiny_images]
    with pytest.raises(ValueError, match="keys"):
        quiet_fit(tiny_checkpoint, rows)
    with pytest.raises(ValueError, match="dict"):
        quiet_fit(tiny_checkpoint, {"train": rows})
    named = [(image, NAMES[label]) for image, label in tiny_images]
    with pytest.raises(ValueError, match="'cat'"):
        quiet_fit(tiny_checkpoint, named)


def test_the_default_device_does_not_matter(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages, pictures: Path
) -> None:
    expected = means(quiet_fit(tiny_checkpoint, tiny_images))
    torch.set_default_device("meta")
    try:
        found = means(quiet_fit(tiny_checkpoint, tiny_images))
        folder = quiet_fit("builtin:rgb32", pictures, rank=2).pca
    finally:
        torch.set_default_device(None)
    assert found.equal(expected)
    assert folder is not None
    assert folder.mean.device.type == "cpu"


def test_color_images_and_a_grayscale_flow(pictures: Path, tiny_checkpoint: Checkpoint) -> None:
    folder = ImageFolder(str(pictures))
    for data in (pictures, folder):
        with pytest.raises(ValueError, match="grayscale"):
            quiet_fit(tiny_checkpoint, data)
        assert quiet_fit(tiny_checkpoint, data, rank=2, channels=1).pca is not None
    labels = torch.arange(6) % 2
    colors = TensorDataset(images_of(labels), labels)
    with pytest.raises(ValueError, match="grayscale"):
        quiet_fit(tiny_checkpoint, colors)
    assert quiet_fit(tiny_checkpoint, colors, rank=2, channels=1).pca is not None


def test_a_number_of_channels(pictures: Path, tiny_images: TensorImages) -> None:
    """Color images become grayscale if that is asked for, and grayscale ones color."""
    for data in (pictures, ImageFolder(str(pictures))):
        fitted = quiet_fit("builtin:pixels", data, rank=2, image_size=8, channels=1)
        assert fitted.flow.config.shape == (1, 8, 8)
    fitted = quiet_fit("builtin:pixels", tiny_images, channels=3)
    assert fitted.flow.config.shape == (3, 8, 8)
    images = tiny_images.images.expand(-1, 3, -1, -1)
    mean = std = (0.485, 0.456, 0.406)
    nfaug.NFAugment(fitted, mean=mean, std=std)(images / 255, tiny_images.targets)
    gray = quiet_fit("builtin:pixels", tiny_images)
    with pytest.raises(ValueError, match=r"3 channels.*of 1;.*--channels 3"):
        nfaug.NFAugment(gray, mean=mean, std=std)
    with pytest.raises(ValueError, match=r"channels=1.*of 3"):
        quiet_fit("builtin:rgb32", pictures, channels=1)
    with pytest.raises(ValueError, match="channels"):
        quiet_fit("builtin:pixels", pictures, channels=2)


# Bad input.


def test_a_class_of_one_image_has_no_partners(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    labels = torch.tensor([0] * 5 + [1] + [2] * 5)
    dataset = TensorImages(images_of(labels, channels=1), labels, NAMES)
    with pytest.warns(UserWarning, match="'dog'") as caught:
        fitted = quiet_fit(tiny_checkpoint, dataset, rank=3, gaussians=True)
    assert len(caught) == 1
    assert fitted.pca is not None
    assert fitted.gaussians is not None
    assert fitted.pca.ranks.tolist() == [3, 0, 3]
    assert fitted.pca.memory is not None
    assert fitted.pca.offsets.tolist() == [0, 5, 5, 10]
    others = fitted.gaussians.variances[[0, 2]].mean(0)
    torch.testing.assert_close(fitted.gaussians.variances[1], others)
    nfa = nfaug.NFAugment(nfaug.load(fitted.save(tmp_path / "flow")), p=1.0, gate=None)
    images, _ = nfa(dataset.images, labels)
    assert torch.equal(images[5], dataset.images[5])
    assert not torch.equal(images[0], dataset.images[0])
    assert nfa.stats()["no_partner"] == 1
    assert nfa.stats()["applied"] == 10


def test_a_class_without_images_is_named(tiny_checkpoint: Checkpoint) -> None:
    labels = torch.tensor([0, 0, 2, 2])
    with pytest.raises(ValueError, match="'1'"):
        quiet_fit(tiny_checkpoint, TensorDataset(images_of(labels, channels=1), labels))
    dataset = TensorImages(images_of(labels, channels=1), labels, NAMES)
    with pytest.raises(ValueError, match="'dog'"):
        quiet_fit(tiny_checkpoint, dataset)
    alone = TensorDataset(images_of(labels * 0, channels=1), labels * 0)
    with pytest.raises(ValueError, match="2 classes"):
        quiet_fit(tiny_checkpoint, alone, gaussians="fpi")


def test_fewer_images_than_axes(tiny_checkpoint: Checkpoint, tiny_images: TensorImages) -> None:
    fitted = quiet_fit(tiny_checkpoint, tiny_images, rank=64)
    assert fitted.pca is not None
    assert fitted.pca.rank == 11


@pytest.mark.parametrize("settings", [{"rank": 0}, {"per_class": 1}])
def test_settings_out_of_range(tiny_checkpoint: Checkpoint, settings: dict[str, int]) -> None:
    labels = torch.arange(6) % 2
    with pytest.raises(ValueError, match=next(iter(settings))):
        quiet_fit(tiny_checkpoint, TensorDataset(images_of(labels, channels=1), labels), **settings)


def test_an_empty_data_set(tiny_checkpoint: Checkpoint) -> None:
    none = TensorDataset(
        torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    )
    with pytest.raises(ValueError, match="no images"):
        quiet_fit(tiny_checkpoint, none)


# A fit that is interrupted.


def test_a_fit_that_was_stopped_continues_with_the_finished_classes(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same checkpoint to the bit; a class of other images, or another flow, is fitted again."""
    data = tmp_path / "data"
    for label, name in enumerate("abcde"):
        (data / name).mkdir(parents=True)
        for number, image in enumerate(images_of(torch.full((6,), label), seed=label)):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            picture.save(data / name / f"{number}.png")
    fitted: list[int] = []
    stop_at = 3

    def counted(latents: torch.Tensor, rank: int, *, label: int, generator: Any) -> Any:
        if label == stop_at:
            raise KeyboardInterrupt
        fitted.append(label)
        return fit_class(latents, rank, label=label, generator=generator)

    def run(out: str, *words: str) -> list[int]:
        fitted.clear()
        start = [
            "fit",
            "--checkpoint",
            str(tiny_path),
            "--data",
            str(data),
            "--channels=1",
            "--rank=3",
        ]
        main([*start, "--out", str(tmp_path / out), *words])
        return list(fitted)

    def tensors(out: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / out).glob("*.safetensors")}

    monkeypatch.setattr(classes, "fit_class", counted)
    assert run("flow") == [0, 1, 2]
    assert not (tmp_path / "flow").exists()
    kept = tmp_path / ".flow.fit"
    assert len(list(kept.iterdir())) == 3
    stop_at = 5
    assert run("calm") == [0, 1, 2, 3, 4]
    assert run("other-rank", "--rank=2") == [0, 1, 2, 3, 4]
    shutil.copytree(kept, tmp_path / ".second.fit")
    shutil.copytree(kept, tmp_path / ".third.fit")
    assert run("flow") == [3, 4]
    assert tensors("flow") == tensors("calm")
    assert not kept.exists()
    assert run("second", "--seed=1") == [0, 1, 2, 3, 4], "another choice"
    shutil.copytree(tmp_path / ".third.fit", tmp_path / ".fourth.fit")
    assert run("fourth", "--gaussians=data") == [0, 1, 2, 3, 4], "which the kept classes lack"
    shutil.copy(data / "b" / "0.png", data / "b" / "1.png")
    assert run("third") == [1, 3, 4], "an image of one class is another"
    assert tensors("third") != tensors("calm")


def test_the_memory_of_many_classes_is_named_before_the_work(
    tiny_checkpoint: Checkpoint, tiny_images: TensorImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_MUCH", 3 * 4 * 64 * 4)
    with pytest.warns(UserWarning, match="GB"):
        quiet_fit(tiny_checkpoint, tiny_images)
    quiet_fit(tiny_checkpoint, tiny_images, rank=3)


# What training and evaluation share.


def test_batches_come_in_the_order_that_is_asked_for(tiny_images: TensorImages) -> None:
    order = torch.tensor([5, 3, 30, 3, 0])
    for data in (
        in_memory(tiny_images),
        in_memory(tiny_images, memory_gib=0, workers=0),
    ):
        parts = list(batches(data, order.split(2)))
        images, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        assert torch.equal(images, tiny_images.images[order])
        assert torch.equal(labels, tiny_images.targets[order])
        assert list(batches(data, order[:0].split(2))) == []


class Noisy:
    """Random images, as behind random transforms."""

    threads = False

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.rand(len(rows))


def test_worker_processes_leave_the_generator_alone() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    data = Streamed(Noisy(), labels, workers=1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        # Python 3.12 and later warn of a fork beside threads, which other tests may have started.
        warnings.simplefilter("ignore", DeprecationWarning)
        passes = [torch.cat([*batches(data, labels.split(2))]) for _ in range(2)]
        seeded = [
            torch.cat([*batches(Streamed(Noisy(), labels, 1, seed), labels.split(4))])
            for seed in (1, 2, 1)
        ]
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(passes[0], passes[1]), "random transforms differ between passes"
    assert torch.equal(seeded[0], seeded[2])
    assert not torch.equal(seeded[0], seeded[1])


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
@pytest.mark.parametrize("sizes", [[(20, 16)], [(20, 16), (16, 24)]], ids=["one size", "sizes"])
@pytest.mark.filterwarnings("ignore:the images differ in size")
def test_files_are_decoded_once(
    sizes: list[tuple[int, int]], packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes and channels come from headers; only the pictures of samples.png are decoded again."""
    folder = tmp_path / "data"
    for number in range(80):
        file = folder / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise(sizes[number % len(sizes)], 50).convert("RGB").save(file)
    data = folder
    if packed:
        data = Path(shutil.make_archive(str(folder), "tar", folder))
    decoded = []
    decode = source.decode_image
    monkeypatch.setattr(
        source, "decode_image", lambda data, name: (decoded.append(name), decode(data, name))[1]
    )
    fit("builtin:pixels", data, progress=False)
    assert len(set(decoded)) == len(decoded) == 80
    decoded.clear()
    options = ["--checkpoint", "builtin:pixels", "--data", str(data), "--out"]
    assert main(["fit", *options, str(tmp_path / "out")]) == 0
    assert (len(set(decoded)), len(decoded)) == (80, 82)


def test_a_truncated_photograph_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        file = tmp_path / "data" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 24), 50).convert("RGB").save(file)
    file.write_bytes(file.read_bytes()[:-300])
    options = ["--checkpoint", "builtin:pixels", "--data", str(tmp_path / "data"), "--out"]
    assert main(["fit", *options, str(tmp_path / "out")]) == 2
    assert "b/5.jpg cannot be decoded" in capsys.readouterr().err


def test_a_large_size_that_nobody_chose_is_said() -> None:
    images = torch.randint(256, (4, 3, 600, 500), dtype=torch.uint8)
    dataset = TensorDataset(images, torch.arange(4) % 2)
    with pytest.warns(UserWarning, match=r"600 x 500 pixels.* 4 MB .*image_size \(--image-size\)"):
        quiet_fit("builtin:pixels", dataset)
    with pytest.warns(UserWarning, match="600 x 500"):
        quiet_fit("builtin:pixels", open_dataset(dataset))
    quiet_fit("builtin:pixels", dataset, image_size=(600, 500))
    quiet_fit("builtin:pixels", open_dataset(dataset).at((600, 500)))
    quiet_fit("builtin:pixels", TensorDataset(images[:, :, :500], dataset.tensors[1]))


def test_a_fit_on_a_device_comes_back(tiny_checkpoint: Checkpoint) -> None:
    dataset = TensorDataset(images_of(torch.arange(8) % 2, channels=1), torch.arange(8) % 2)
    expected = quiet_fit(tiny_checkpoint, dataset)
    places = []
    with pretended_gpu(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "pick_device", torch.device)  # which opens a real one
        encode = Flow.latents
        patch.setattr(
            Flow,
            "latents",
            lambda flow, images: (places.append(images.device.type), encode(flow, images))[1],
        )
        fitted = quiet_fit(tiny_checkpoint, dataset, device="cuda:0")
    assert set(places) == {"cuda"}
    for part in (fitted.flow, fitted.pca):
        assert part is not None
        assert {type(tensor) for tensor in part.buffers()} == {torch.Tensor}
    assert torch.allclose(means(fitted), means(expected), atol=1e-6)
    with pytest.raises(ValueError, match="no device 'cuda:99'"):
        quiet_fit(tiny_checkpoint, dataset, device="cuda:99")
