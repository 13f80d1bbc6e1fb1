"""Data as people have them: splits, copies, small classes, files that are not read, flows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tools.nfa import NAMES, TensorImages, images_of, write_images

import nfaug
from nfaug.compare import CompareConfig, compare, open_parts, read_images
from nfaug.compare.images import split_images
from nfaug.data.images import Images
from nfaug.data.open import open_dataset

TINY = CompareConfig(per_class=2, seeds=3, steps=1, variants=1, methods="none,nfa", device="cpu")


def images(*counts: int, seed: int = 0) -> TensorImages:
    """Images of classes of these sizes."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return TensorImages(images_of(labels, seed=seed), labels, NAMES[: len(counts)])


def sizes(data: Images) -> list[int]:
    return torch.bincount(data.targets, minlength=len(data.classes)).tolist()


def test_a_test_split_or_test_data_or_a_part(tmp_path: Path) -> None:
    write_images(tmp_path / "splits", 16, train=8, test=4)
    write_images(tmp_path / "plain", 16, train=6)
    (tmp_path / "plain" / "train").rename(tmp_path / "one")
    for data, test, found in (
        ("splits", None, [24, 12]),
        ("one", None, [18, None]),
        ("one", "splits", [18, 12]),
        ("splits", "one", [24, 18]),
        ("splits/train", None, [24, None]),
    ):
        test_path = None if test is None else tmp_path / test
        parts = open_parts(tmp_path / data, test_path, image_size=8)
        assert [None if part is None else len(part) for part in parts] == found
        for part in parts:
            assert part is None or part.image_size == (8, 8)


@pytest.mark.parametrize(
    ("count", "held"), [(2, 1), (9, 4), (200, 100), (300, 100), (800, 200), (3000, 500)]
)
def test_how_many_are_held_out(count: int, held: int) -> None:
    pool, test = split_images(images(count, 10), None, CompareConfig())
    assert sizes(test) == [held, 5]
    assert sizes(pool) == [count - held, 5]


def test_labelled_and_test_images_are_apart() -> None:
    data = read_images(images(60, 60), config=TINY)
    one, other = (
        {image.numpy().tobytes() for image in part.images} for part in (data.pool, data.test)
    )
    assert one.isdisjoint(other)
    first, second = (data.labelled(2, seed) for seed in (0, 1))
    assert torch.bincount(first.labels).tolist() == [2, 2]
    assert not torch.equal(first.images, second.images)
    assert torch.equal(first.images, data.labelled(2, 0).images)


def test_no_more_are_decoded_than_seeds_draw_from() -> None:
    data = read_images(images(400, 30), config=TINY)
    assert torch.bincount(data.pool.labels).tolist() == [40, 15]
    assert torch.bincount(data.test.labels).tolist() == [100, 15]


def test_a_copy_in_another_class_is_named() -> None:
    data = images(60, 60)
    _, test = split_images(data, None, TINY)
    pool, _ = split_images(data, None, TINY)
    second = int(test.rows[(test.targets == 1).nonzero().flatten()[0]])
    data.images[int(pool.rows[0])] = data.images[second]
    with pytest.warns(UserWarning, match="one of the two is wrong") as caught:
        read_images(data, config=TINY)
    assert f"image {second} of" in str(caught[0].message)
    assert NAMES[1] in str(caught[0].message)


def test_a_flow_that_was_trained_on_the_test_images(tmp_path: Path) -> None:
    data = images(20, 20)
    test = images(20, 20, seed=1)
    checkpoint = nfaug.load("builtin:rgb32")
    for name, seen in (("theirs", test), ("ours", data)):
        checkpoint.config.training["images_sha256"] = seen.fingerprint()
        checkpoint.save(tmp_path / name)
    settings = dataclasses.replace(TINY, checkpoint=(str(tmp_path / "theirs"),))
    with pytest.raises(ValueError, match="was trained on the test images"):
        compare(data, config=settings, out=tmp_path / "out", test_data=test, progress=False)
    settings = dataclasses.replace(TINY, checkpoint=(str(tmp_path / "ours"),))
    found = compare(data, config=settings, out=tmp_path / "out", test_data=test, progress=False)
    assert len(found.methods) == 3


def test_small_classes(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, per_class=10)
    found = compare(images(60, 20, 2), config=settings, out=tmp_path / "out", progress=False)
    assert f"{NAMES[2]} (1)" in found.text()
    assert NAMES[1] not in "".join(found.notes())
    assert "class of one" in found.text()
    with pytest.raises(ValueError, match=f"{NAMES[1]!r} has 1 images, and needs 2"):
        read_images(images(40, 1), config=TINY)
    with pytest.raises(ValueError, match="two classes"):
        read_images(images(40), config=TINY)


def test_files_that_are_not_read_are_counted_and_named(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 16, train=24)
    for number in range(3):
        (tmp_path / "data" / "train" / NAMES[0] / f"{number}.heic").write_bytes(b"heic")
    with pytest.raises(ValueError, match="pillow-heif"):
        open_dataset(tmp_path / "data" / "train", image_size=16)[1]
    data = open_dataset(tmp_path / "data", on_error="skip")
    notes = read_images(data, config=TINY).notes
    note = next(note for note in notes if "not read" in note)
    assert note.startswith("3 files")
    assert "1.heic" in note
    assert "pillow-heif" in note


def test_test_images_that_are_not_read_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 16, train=24)
    write_images(tmp_path / "other", 18, val=24)
    (tmp_path / "other" / "val").rename(tmp_path / "data" / "val")
    for part, count in (("train", 1), ("val", 2)):
        for number in range(count):
            (tmp_path / "data" / part / NAMES[0] / f"{part}{number}.png").write_bytes(b"cut")
    parts = open_parts(tmp_path / "data", on_error="skip", image_size=16)
    notes = read_images(*parts, config=TINY).notes
    note = next(note for note in notes if "not read" in note)
    assert note.startswith("3 files")
    assert "val1.png" in note


def test_no_more_test_images_than_asked_for() -> None:
    settings = dataclasses.replace(TINY, test_images=31)
    assert len(read_images(images(40, 40), config=settings).names) == 31
