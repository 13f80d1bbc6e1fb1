"""Every path that a GPU takes: on one that is pretended and, where there is one, on a real one.

A path is a function of a device. It moves its images there, checks that its results are there, and
returns figures that must be those of the CPU, up to rounding.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from tools.device import pretended_gpu
from tools.nfa import (
    CLASSES,
    NAMES,
    TensorImages,
    batch_of,
    checkpoint,
    fit_pca,
    images_of,
    tiny_flow,
)
from torch import Tensor, nn

import nfaug
from nfaug.bank import make_bank
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.classes.gaussians import ClassGaussians
from nfaug.compare import CompareConfig
from nfaug.compare import compare as compare_augmentations
from nfaug.compare.work import bank_of
from nfaug.data.augmentation import FlowAugmentation
from nfaug.data.batches import Decoded
from nfaug.fitting.config import PCAConfig
from nfaug.integrations.timm import NFALoader
from nfaug.pictures.preview import preview_grid, sample_grid
from nfaug.training import TrainConfig, train
from nfaug.training.config import OptimConfig, TrainPriorConfig
from nfaug.training.distributed import draw_noise
from nfaug.training.loop import FlowLoss
from nfaug.training.metrics import evaluate
from nfaug.training.optimizer import FlowOptimizer

Figures = Tensor | list[Tensor]
MEAN, STD = 0.4, 0.25

# How images arrive, made of uint8 images.
FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "uint8": lambda images: images,
    "floats": lambda images: images / 255,
    "normalised": lambda images: (images / 255 - MEAN) / STD,
    "bfloat16": lambda images: (images / 255).to(torch.bfloat16),
    "larger": lambda images: nn.functional.interpolate(images / 255, (16, 16)),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "memory": {"partners": "memory"},
    "batch": {"partners": "batch"},
    "pairs": {"mix": "pair", "gate": None},
    "regions, memory": {"mix": "regions", "partners": "memory"},
    "regions, batch": {"mix": "regions", "partners": "batch"},
    "both": {"mix": "regions", "partners": "auto"},
    "noise": {"noise": 0.1},
    "a share for each class": {"p": [0.2, 0.5, 1.0]},
}


GPUS: dict[str, Callable[[], Any]] = {"pretended": pretended_gpu}
if torch.cuda.is_available():
    GPUS["real"] = lambda: contextlib.nullcontext(torch.device("cuda:0"))


@pytest.fixture(params=GPUS.values(), ids=GPUS)
def gpu(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """A block in which there is a GPU."""
    return request.param


def read(tensor: Tensor, device: torch.device) -> Tensor:
    """The values of a tensor that must be on a device."""
    assert tensor.device.type == device.type
    return tensor.cpu()


def data() -> TensorImages:
    """24 images of three classes."""
    return TensorImages(*batch_of(24), NAMES)


def fitted(device: torch.device) -> Checkpoint:
    """A flow on a device, fitted to these images there, with class Gaussians."""
    flow = copy.deepcopy(tiny_flow()).to(device)
    return nfaug.fit(flow, data(), gaussians=True, rank=2, progress=False)


def calls() -> Iterator[tuple[str, str]]:
    """Formats and settings: all settings for two formats, one for the others."""
    for form in FORMATS:
        for settings in SETTINGS:
            if form in ("uint8", "normalised") or settings == "both":
                yield form, settings


@pytest.mark.parametrize(("form", "name"), list(calls()))
def test_a_call(gpu: Any, form: str, name: str) -> None:
    """The first batches, of which values are checked, and a later one, of which none are."""
    images, labels = batch_of(12)
    images = FORMATS[form](images)
    settings = SETTINGS[name]
    if form == "normalised":
        settings = {**settings, "mean": MEAN, "std": STD}

    def last(device: torch.device) -> tuple[Tensor, dict[str, int]]:
        generator = torch.Generator("cpu").manual_seed(0)
        nfa = nfaug.NFAugment(checkpoint(), generator=generator, **settings)
        for _ in range(9):
            new, same = nfa(images.to(device), labels)  # some loops leave labels on the CPU
            assert same is labels
        new, _ = nfa(images.to(device), labels.to(device))
        return read(new, device).float(), nfa.stats()

    expected, counts = last(torch.device("cpu"))
    with gpu() as device:
        found, counts_there = last(device)
    # CPUs resize bytes, GPUs floats: the levels that are mixed may differ by one.
    level = {"uint8": 1, "bfloat16": 1 / 64, "larger": 1 / 255}.get(form, 1e-3)
    assert counts["applied"] > 0
    assert counts_there == counts
    assert (found - expected).abs().max() <= level


def a_batch_without_images(device: torch.device) -> Figures:
    images, labels = batch_of(4)
    nfa = nfaug.NFAugment(checkpoint())
    new, _ = nfa(images[:0].to(device), labels[:0].to(device))
    return read(new, device)


def pixels_that_are_not_finite(device: torch.device) -> Figures:
    images, labels = batch_of(12)
    images = images / 255
    images[0, 0, 0, 0] = torch.nan
    images[1, 0, 0, 0] = torch.inf
    nfa = nfaug.NFAugment(checkpoint(), generator=torch.Generator("cpu").manual_seed(0))
    with pytest.warns(UserWarning, match="not_finite"):
        new, _ = nfa(images.to(device), labels.to(device))
    assert nfa.stats()["not_finite"] == 2
    assert new[0, 0, 0, 0].isnan()
    assert new[1, 0, 0, 0].isinf()
    return read(new, device)[2:]


def labels_as_rows_or_names(device: torch.device) -> Figures:
    images, labels = batch_of(12)
    rows = nn.functional.one_hot(labels, CLASSES).float()
    names = [NAMES[label] for label in labels.tolist()]
    results = []
    for given in (rows.to(device), rows, names):
        nfa = nfaug.NFAugment(checkpoint(), generator=torch.Generator("cpu").manual_seed(0))
        results.append(read(nfa(images.to(device), given)[0], device))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    return results[0]


def variants_of_a_batch(device: torch.device) -> Figures:
    images, labels = batch_of(12)
    nfa = nfaug.NFAugment(checkpoint(), p=1.0)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(3)]
    made = nfa.variants(images.to(device), labels, generators)
    return [read(each, device) for each in made]


def axes_of_many_classes(device: torch.device) -> Figures:
    """Of more than 64 classes the axes of each image are gathered."""
    generator = torch.Generator("cpu").manual_seed(0)
    latents = [torch.randn(4, 20, generator=generator) for _ in range(65)]
    pca = fit_pca(latents, rank=2).to(device)
    z = torch.randn(9, 20, generator=generator).to(device)
    labels = torch.arange(9).to(device)
    coefficients, energy = pca.locate(z, labels)
    moved = pca.add(z, labels, coefficients)
    distance = pca.distance(coefficients, labels)
    return [read(each, device) for each in (coefficients, moved, distance, energy)]


def a_fit(device: torch.device) -> Figures:
    found = fitted(device)
    parts: list[Any] = [found.flow, found.gaussians, found.pca]
    for part in parts:
        assert {each.device.type for each in part.state_dict().values()} == {device.type}
    return [read(parts[1].means, device), read(parts[2].eigenvalues, device)]


def a_fit_with_a_fixed_point(device: torch.device) -> Figures:
    flow = copy.deepcopy(tiny_flow()).to(device)
    gaussians = nfaug.fit(flow, data(), gaussians="fpi", rank=2, progress=False).gaussians
    assert gaussians is not None
    return read(gaussians.means, device)


class Autoencoder(nn.Module):
    """Images of 8 x 8 pixels to latents of 4 x 4, and back."""

    latent_channels = 4
    factor = 2
    input_range = (0.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.to_latents = nn.Conv2d(3, 4, 2, 2)
            self.to_pixels = nn.ConvTranspose2d(4, 3, 2, 2)

    def encode(self, images: Tensor) -> Tensor:
        return self.to_latents(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.to_pixels(latents)


def latents_of_an_autoencoder(device: torch.device) -> Figures:
    images, labels = batch_of(12)
    base = nfaug.load("builtin:pixels").to(device)
    found = nfaug.fit(base, data(), autoencoder=Autoencoder(), rank=2, progress=False)
    assert found.flow.device.type == device.type
    nfa = nfaug.NFAugment(found, gate=None, generator=torch.Generator("cpu").manual_seed(0))
    new, _ = nfa((images / 255).to(device), labels)
    assert nfa.stats()["applied"] > 0
    return read(new, device)


def saving_and_loading(device: torch.device) -> Figures:
    with TemporaryDirectory() as folder:
        fitted(device).save(Path(folder) / "flow")
        loaded = nfaug.load(Path(folder) / "flow")
    assert loaded.gaussians is not None
    assert loaded.flow.device.type == "cpu"
    return loaded.gaussians.means


def samples(device: torch.device) -> Figures:
    """Their draws are other ones on a GPU, unless a generator of the CPU is given."""
    found = fitted(device)
    one_class = found.sample(2, "cat", generator=torch.Generator(device).manual_seed(0))
    assert one_class.shape == (2, 3, 8, 8)
    assert read(one_class, device).dtype == torch.uint8
    assert found.sample(3).device.type == device.type
    drawn = found.sample(2, "cat", generator=torch.Generator("cpu").manual_seed(0))
    return read(drawn, device)


def a_grid_of_samples(device: torch.device) -> Figures:
    found = fitted(device)
    assert found.gaussians is not None
    picture = sample_grid(found.flow, found.gaussians, NAMES, 2)
    return torch.from_numpy(np.array(picture))


def a_preview(device: torch.device) -> Figures:
    pictures = []
    for partners in ("memory", "batch"):
        picture = preview_grid(fitted(device), data(), variants=2, partners=partners)
        pictures.append(torch.from_numpy(np.array(picture)))
    return pictures


def an_evaluation(device: torch.device) -> Figures:
    found = fitted(device)
    assert found.gaussians is not None
    batches = Decoded(*batch_of(24))
    figures = evaluate(found.flow, found.gaussians, batches, batch_size=10, round_trip=True)
    assert figures["exact"] == 1
    return torch.tensor([figures["nf_acc"], figures["bits_per_dim"]])


def test_a_bank(gpu: Any, tmp_path: Path) -> None:
    def made(device: torch.device) -> Tensor:
        options: dict[str, Any] = {"variants": 2, "batch_size": 10, "progress": False}
        bank = make_bank(fitted(device), data(), tmp_path / device.type, **options)
        return torch.from_numpy(np.array(bank.variants)).float()

    expected = made(torch.device("cpu"))
    with gpu() as device:
        found = made(device)
    assert found.shape[:2] == (24, 2)
    assert (found - expected).abs().max() <= 1


def a_bank_of_a_comparison(device: torch.device) -> Figures:
    settings = CompareConfig(variants=2, device=str(device))
    return bank_of("builtin:pixels", data(), settings, seed=0)


def a_comparison(device: torch.device) -> Figures:
    labels = torch.arange(72) % 3
    images = TensorImages(images_of(labels), labels, NAMES)
    settings = CompareConfig(per_class=4, seeds=3, steps=3, variants=2, device=str(device))
    with TemporaryDirectory() as folder:
        found = compare_augmentations(images, folder, config=settings, progress=False)
    assert found.seeds == [0, 1, 2]
    return torch.tensor(len(found.methods))


def steps_of_training(device: torch.device) -> Figures:
    """The loss of three steps, then the averaged flow."""
    flow = copy.deepcopy(tiny_flow()).to(device).train()
    optimizer = FlowOptimizer(flow, TrainConfig(lr=1e-3))
    model = FlowLoss(flow)
    gaussians = ClassGaussians(torch.zeros(CLASSES, 192), torch.ones(CLASSES, 192)).to(device)
    images, labels = batch_of(12)
    images = images.to(device)
    labels = labels.to(device)
    generator = torch.Generator(device).manual_seed(0)
    augmentation = FlowAugmentation(
        hflip=True, pad_crop=1, rotation=12, brightness=0.1, saturation=0.05, noise=0.1
    )
    for _ in range(3):
        seen = augmentation.apply(images, augmentation.draw(len(images), generator))
        noise = draw_noise(flow, len(images), generator, augmentation.noise)
        assert noise.device.type == device.type
        loss = model(seen, noise, labels, gaussians).sum() / len(images)
        stepped, (value,) = optimizer.step(loss, 0.5, loss.detach()[None])
        assert stepped
        assert value > 0
    with torch.no_grad():
        z, _ = optimizer.average.encode(images)
    assert bool(z.isfinite().all())
    return read(z, device).new_tensor(0.0)  # the draws of a real GPU are other ones


def a_training_run(device: torch.device) -> Figures:
    config = TrainConfig(
        epochs=2, batch_size=12, device=str(device), eval_every=1, pictures_every=1,
        flow=nfaug.MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8)),
        prior=TrainPriorConfig(), optim=OptimConfig(warmup_steps=2), pca=PCAConfig(rank=2),
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        result = train(
            data(), Path(folder) / "run", config=config, test_data=data(), progress=False
        )
        assert list(Path(folder).rglob("*.png"))
    assert result.checkpoint.flow.device.type == device.type
    assert result.checkpoint.pca is not None
    assert result.history[-1]["nf_acc"] > 0
    return torch.tensor(len(result.loss))


class Loader(list[Any]):
    """Batches, and the data set that they are of."""

    dataset = None


def the_loader_of_timm(device: torch.device) -> Figures:
    """Batches of the CPU are moved, augmented, and mixed by timm."""
    images, labels = batch_of(12)
    nfa = nfaug.NFAugment(checkpoint(), p=1.0, generator=torch.Generator("cpu").manual_seed(0))
    mixup = Mixup(num_classes=CLASSES)
    np.random.seed(0)  # which timm draws from
    loader = NFALoader(Loader([(images / 255, labels)]), nfa, mixup, device)
    [(new, targets)] = list(loader)
    assert nfa.stats()["applied"] > 0
    return [read(new, device), read(targets, device)]


PATHS: list[Callable[[torch.device], Figures]] = [
    a_batch_without_images,
    pixels_that_are_not_finite,
    labels_as_rows_or_names,
    variants_of_a_batch,
    axes_of_many_classes,
    a_fit,
    a_fit_with_a_fixed_point,
    latents_of_an_autoencoder,
    saving_and_loading,
    samples,
    a_grid_of_samples,
    a_preview,
    an_evaluation,
    a_bank_of_a_comparison,
    a_comparison,
    steps_of_training,
    a_training_run,
    the_loader_of_timm,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_a_path(gpu: Any, path: Callable[[torch.device], Figures]) -> None:
    """What a GPU returns is what the CPU does: within a gray level, or a thousandth."""
    expected = path(torch.device("cpu"))
    with gpu() as device:
        found = path(device)
    for here, there in zip(_listed(expected), _listed(found), strict=True):
        assert there.shape == here.shape
        assert there.dtype == here.dtype
        levels = 1.0 if here.dtype == torch.uint8 else 1e-3
        assert torch.allclose(there.float(), here.float(), rtol=1e-3, atol=levels)


def _listed(figures: Figures) -> Iterator[Tensor]:
    yield from [figures] if isinstance(figures, Tensor) else figures
