"""The explorer's functions: what they draw is what NFA does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from nfa_tools import NAMES, images_of
from PIL import Image

from nfaug.augment.settings import MixSettings
from nfaug.augment.transform import NFAParams, NFAugment
from nfaug.data.images import TensorImages
from nfaug.explore import pictures
from nfaug.explore.pictures import (
    OpenFlow,
    class_images,
    compare,
    open_flow,
    path_between,
    read_picture,
    walk_axis,
)

OPEN = MixSettings(gate=None)


@pytest.fixture(scope="module")
def flow(tiny_path: Path) -> OpenFlow:
    return open_flow(str(tiny_path))


@pytest.fixture(scope="module")
def with_data(tiny_path: Path, tiny_folder: Path) -> OpenFlow:
    return open_flow(str(tiny_path), str(tiny_folder))


def test_opening(flow: OpenFlow, with_data: OpenFlow, tiny_images: TensorImages) -> None:
    assert flow.classes == NAMES
    assert flow.size == (8, 8)
    assert flow.dataset is None
    assert not with_data.fitted, "the flow has the classes of the data"
    assert len(with_data.dataset) == len(tiny_images)


def test_a_flow_of_other_classes_is_fitted(tmp_path: Path) -> None:
    for index, image in enumerate(images_of(torch.arange(8) % 2, size=(32, 32))):
        folder = tmp_path / f"kind{index % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    opened = open_flow("builtin:pixels", str(tmp_path), image_size=16)
    assert opened.fitted
    assert opened.classes == ("kind0", "kind1")
    assert opened.size == (16, 16)
    large = class_images(opened, 1, 1, side=32)
    exact = torch.stack([large[0].permute(1, 2, 0)]).numpy()[0]
    assert any((exact == Image.open(file)).all() for file in (tmp_path / "kind1").iterdir())
    with pytest.raises(ValueError, match="--data"):
        open_flow("builtin:pixels")


def test_class_images(flow: OpenFlow, with_data: OpenFlow, tiny_images: TensorImages) -> None:
    own = tiny_images.images[tiny_images.targets == 2]
    shown = class_images(with_data, 2, 20, seed=3)
    assert shown.shape == (20, 1, 8, 8), "a small class is repeated"
    assert all((image == own).flatten(1).all(1).any() for image in shown)
    samples = class_images(flow, 2, 4, seed=3)
    assert torch.equal(samples, class_images(flow, 2, 4, seed=3))
    assert not torch.equal(samples, class_images(flow, 2, 4, seed=4))
    assert class_images(flow, 2, 1, side=20).shape == (1, 1, 20, 20)


@pytest.mark.parametrize("side", [None, 24])
def test_strength_0_changes_nothing(side: int | None, with_data: OpenFlow) -> None:
    image = class_images(with_data, 1, 1, side=side)
    still = compare(with_data, image, 1, MixSettings(strength=0.0, gate=None), variants=3)
    assert torch.equal(still.variants, image.expand(3, -1, -1, -1))
    assert (still.differences == 128).all()
    moved = compare(with_data, image, 1, OPEN, variants=3)
    assert moved.outcomes == ["applied"] * 3
    assert len({tuple(variant.flatten().tolist()) for variant in moved.variants}) == 3
    again = compare(with_data, image, 1, OPEN, variants=3)
    assert torch.equal(moved.variants, again.variants)
    other = compare(with_data, image, 1, OPEN, variants=3, seed=1)
    assert not torch.equal(moved.variants, other.variants)


def test_the_flow_is_exact(with_data: OpenFlow) -> None:
    image = class_images(with_data, 0, 1)
    assert torch.equal(compare(with_data, image, 0, OPEN).decoded, image)


@pytest.mark.parametrize("partners", ["memory", "batch", "both"])
def test_partners(partners: str, with_data: OpenFlow) -> None:
    image = class_images(with_data, 0, 1)
    found = compare(with_data, image, 0, MixSettings(gate=None, partners=partners))
    assert found.outcomes == ["applied"] * 6


def test_the_gate(with_data: OpenFlow) -> None:
    """The radius is the gate at which an image starts to be augmented."""
    image = class_images(with_data, 0, 1)
    radius = compare(with_data, image, 0, OPEN).radius
    closed = compare(with_data, image, 0, MixSettings(strength=0.01, gate=0.95 * radius))
    assert closed.outcomes == ["gated"] * 6
    assert torch.equal(closed.variants, image.expand(6, -1, -1, -1))
    ajar = compare(with_data, image, 0, MixSettings(strength=0.01, gate=1.05 * radius))
    assert ajar.outcomes == ["applied"] * 6


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": 0.7},
        {"axes": 1},
        {"mix": "pair"},
        {"alpha": 0.05},
        {"strength": 0.4},
    ],
    ids=str,
)
def test_a_variant_is_what_a_classifier_would_see(
    changes: dict[str, Any], flow: OpenFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(OPEN, partners="memory", **changes)
    image = class_images(flow, 1, 1, seed=0)
    drawn: list[NFAParams] = []
    make = NFAugment.make_params

    def recorded(self: NFAugment, *given: Any, **options: Any) -> NFAParams:
        drawn.append(make(self, *given, **options))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(NFAugment, "make_params", recorded)
        found = compare(flow, image, 1, settings, variants=6)
    (draws,) = drawn
    count = draws.batch
    nfa = NFAugment(flow.engine, settings=dataclasses.replace(settings, p=1.0))
    batch = image.expand(count, -1, -1, -1)
    expected = nfa(batch, torch.full((count,), 1), params=draws)[0][draws.index[:6]]
    assert (expected.int() - found.variants.int()).abs().max() <= 1
    assert (found.variants != image).any()
    other = compare(flow, image, 1, dataclasses.replace(OPEN, partners="memory"), variants=6)
    assert not torch.equal(other.variants, found.variants), "the control does something"


def test_paths(with_data: OpenFlow) -> None:
    first, second = class_images(with_data, 0, 2).split(1)
    latent, pixels = path_between(with_data, first, second, steps=5)
    for ends in (latent, pixels):
        assert torch.equal(ends[:1], first)
        assert torch.equal(ends[-1:], second)
    middle = (first.float() + second.float()) / 2
    assert (pixels[2] - middle[0]).abs().max() <= 0.5
    assert not torch.equal(latent[2], pixels[2])


def test_walks(with_data: OpenFlow) -> None:
    """The images have the coefficients that they are shown with."""
    image = class_images(with_data, 1, 1)
    walk = walk_axis(with_data, image, 1, 0, steps=5, reach=1.0)
    assert walk.positions == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert 0 < walk.share <= 1
    pca = with_data.checkpoint.pca
    assert pca is not None
    labels = torch.ones(5, dtype=torch.int64)
    z = with_data.checkpoint.flow.encode(walk.images)[0]
    found = pca.project(z, labels)[:, 0] / pca.eigenvalues[1, 0].sqrt()
    assert torch.allclose(found, torch.tensor(walk.positions), atol=0.1), "up to rounding to 8 bits"
    here = walk_axis(with_data, image, 1, 0, steps=1, reach=-walk.own)
    assert (here.images.float() - image.float()).abs().max() <= 1
    with pytest.raises(ValueError, match="axes"):
        walk_axis(with_data, image, 1, 4)


def test_pictures_from_files(flow: OpenFlow, tmp_path: Path) -> None:
    colour = Image.new("RGB", (40, 30), (10, 200, 30))
    colour.save(tmp_path / "colour.jpg")
    assert read_picture(tmp_path / "colour.jpg", flow).shape == (1, 1, 8, 8)
    assert read_picture(tmp_path / "colour.jpg", flow, 16).shape == (1, 1, 16, 16)
    Image.new("I;16", (9, 9), 40000).save(tmp_path / "deep.png")
    assert int(read_picture(tmp_path / "deep.png", flow).max()) == 156


def test_broken_and_large_files(
    flow: OpenFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.png"
    Image.new("RGB", (64, 64), "red").save(broken)
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"broken\.png"):
        read_picture(broken, flow)
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(ValueError, match="webp"):
        read_picture(tmp_path / "page.html", flow)
    Image.new("1", (5000, 5000)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="max_pixels"):
        read_picture(tmp_path / "huge.png", flow)
    monkeypatch.setattr(pictures, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"\b10\b"):
        read_picture(broken, flow)


def test_images_that_are_not_square(tmp_path: Path) -> None:
    for index, image in enumerate(images_of(torch.arange(8) % 2, size=(24, 16))):
        folder = tmp_path / f"kind{index % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    opened = open_flow("builtin:pixels", str(tmp_path))
    image = class_images(opened, 0, 1)
    assert image.shape == (1, 3, 24, 16)
    assert compare(opened, image, 0, OPEN).variants.shape[1:] == (3, 24, 16)
