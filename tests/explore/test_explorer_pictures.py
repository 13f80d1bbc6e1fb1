"""The explorer's functions: what they draw is what NFA does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from nfa_tools import NAMES, TensorImages, images_of
from PIL import Image

from nfaug.augment.config import MixConfig
from nfaug.augment.transform import NFAugment
from nfaug.data.preprocess import resize_levels
from nfaug.explore.pictures import OpenFlow, class_images, compare, open_flow, read_picture

OPEN = MixConfig(gate=None)


@pytest.fixture(scope="module")
def flow(tiny_path: Path) -> OpenFlow:
    return open_flow(str(tiny_path))


@pytest.fixture(scope="module")
def with_data(tiny_path: Path, tiny_folder: Path) -> OpenFlow:
    return open_flow(str(tiny_path), str(tiny_folder))


def pictures(folder: Path, size: tuple[int, int]) -> str:
    for index, image in enumerate(images_of(torch.arange(8) % 2, size=size)):
        kind = folder / f"kind{index % 2}"
        kind.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(kind / f"{index}.png")
    return str(folder)


@pytest.mark.filterwarnings("ignore:.*64 axes")
def test_a_flow_of_other_classes_is_fitted(tmp_path: Path) -> None:
    data = pictures(tmp_path, (32, 32))
    opened = open_flow("builtin:pixels", data, image_size=16)
    assert opened.engine.classes == ("kind0", "kind1")
    assert opened.size == (16, 16)
    large = class_images(open_flow("builtin:rgb32", data), 1, 1)
    exact = large[0].permute(1, 2, 0).numpy()
    assert any((exact == Image.open(file)).all() for file in (tmp_path / "kind1").iterdir())
    with pytest.raises(ValueError, match="--data"):
        open_flow("builtin:pixels")


@pytest.mark.filterwarnings("ignore:.*64 axes")
def test_images_that_are_not_square(tmp_path: Path) -> None:
    opened = open_flow("builtin:pixels", pictures(tmp_path, (24, 16)))
    image = class_images(opened, 0, 1)
    assert image.shape == (1, 3, 24, 16)
    assert compare(opened, image, 0, OPEN).variants.shape[1:] == (3, 24, 16)


def test_the_page_shows_the_centre_that_the_flow_sees(tmp_path: Path) -> None:
    """It squeezed an image of other proportions, and the gate that it named was another."""
    opened = open_flow("builtin:rgb32", pictures(tmp_path, (48, 96)))
    image = class_images(opened, 0, 1).clone()
    image[..., :24] = image[..., 72:] = 255  # which the flow does not see
    found = compare(opened, image, 0, OPEN)
    centre = resize_levels(image[..., 24:72], (32, 32))
    assert found.exact
    assert torch.equal(found.decoded[..., 24:72], resize_levels(centre, (48, 48)))
    assert not found.decoded[..., :24].any()
    alone = compare(opened, image[..., 24:72].contiguous(), 0, OPEN)
    assert found.radius == alone.radius


def test_class_images(
    flow: OpenFlow, with_data: OpenFlow, tiny_images: TensorImages, tiny_path: Path
) -> None:
    assert flow.engine.classes == with_data.engine.classes == NAMES
    own = tiny_images.images[tiny_images.targets == 2]
    shown = class_images(with_data, 2, 20, seed=3)
    assert shown.shape == (12, 1, 8, 8), "all images of a small class"
    assert all((image == own).flatten(1).all(1).any() for image in shown)
    samples = class_images(flow, 2, 4, seed=3)
    class_images.cache_clear()
    assert torch.equal(samples, class_images(flow, 2, 4, seed=3))
    assert not torch.equal(samples, class_images(flow, 2, 4, seed=4))
    large = open_flow(str(tiny_path), image_size=(20, 16))
    assert class_images(large, 2, 1).shape == (1, 1, 20, 16)


@pytest.mark.parametrize("side", [8, 24])
def test_strength_0_changes_nothing(side: int, with_data: OpenFlow) -> None:
    with_data = dataclasses.replace(with_data, size=(side, side))
    image = class_images(with_data, 1, 1)
    still = compare(with_data, image, 1, MixConfig(strength=0.0, gate=None), n=3)
    assert torch.equal(still.variants, image.expand(3, -1, -1, -1))
    assert (still.differences == 128).all()
    assert still.changed == [False] * 3
    moved = compare(with_data, image, 1, OPEN, n=3)
    assert moved.changed == [True] * 3
    assert len({tuple(variant.flatten().tolist()) for variant in moved.variants}) == 3
    assert torch.equal(moved.variants, compare(with_data, image, 1, OPEN, n=3).variants)
    other = compare(with_data, image, 1, OPEN, n=3, seed=1)
    assert not torch.equal(moved.variants, other.variants)


def test_the_flow_is_exact(with_data: OpenFlow) -> None:
    image = class_images(with_data, 0, 1)
    assert torch.equal(compare(with_data, image, 0, OPEN).decoded, image)


@pytest.mark.parametrize("partners", ["auto", "memory", "batch"])
def test_partners(partners: Any, with_data: OpenFlow) -> None:
    image = class_images(with_data, 0, 1)
    assert all(compare(with_data, image, 0, MixConfig(gate=None, partners=partners)).changed)


def test_the_gate(with_data: OpenFlow) -> None:
    """The radius is the gate at which an image starts to be augmented."""
    image = class_images(with_data, 0, 1)
    radius = compare(with_data, image, 0, OPEN).radius
    closed = compare(with_data, image, 0, MixConfig(gate=0.95 * radius))
    assert torch.equal(closed.variants, image.expand(6, -1, -1, -1))
    assert not any(closed.changed)
    ajar = compare(with_data, image, 0, MixConfig(strength=0.05, gate=1.05 * radius))
    assert any(ajar.changed)


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": 0.7},
        {"mix": "pair"},
        {"mix": "regions", "partners": "memory"},
        {"alpha": 0.05},
        {"strength": 0.4},
    ],
    ids=str,
)
def test_a_variant_is_what_a_classifier_would_see(changes: dict[str, Any], flow: OpenFlow) -> None:
    image, seed = class_images(flow, 1, 1, seed=0), 5
    found = compare(flow, image, 1, dataclasses.replace(OPEN, **changes), n=3, seed=seed)
    nfa = NFAugment(flow.checkpoint, config=dataclasses.replace(OPEN, p=1.0, **changes))
    for number, variant in enumerate(found.variants):
        nfa.generator = torch.Generator().manual_seed(3 * seed + number)
        expected, _ = nfa(image, torch.tensor([1]))
        assert torch.equal(expected[0], variant)
    other = compare(flow, image, 1, OPEN, n=3, seed=seed)
    assert not torch.equal(other.variants, found.variants), "the control does something"


def test_pictures_from_files(flow: OpenFlow, tmp_path: Path) -> None:
    colour = Image.new("RGB", (40, 30), (10, 200, 30))
    colour.save(tmp_path / "colour.jpg")
    assert read_picture(tmp_path / "colour.jpg", flow).shape == (1, 1, 8, 8)
    large = dataclasses.replace(flow, size=(16, 16))
    assert read_picture(tmp_path / "colour.jpg", large).shape == (1, 1, 16, 16)
    Image.new("I;16", (9, 9), 40000).save(tmp_path / "deep.png")
    assert int(read_picture(tmp_path / "deep.png", flow).max()) == 156


def test_broken_and_large_files(flow: OpenFlow, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.html"):
        read_picture(tmp_path / "page.html", flow)
