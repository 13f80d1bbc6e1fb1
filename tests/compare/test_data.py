"""Data as people have them: copies, groups, small classes, files that are not read."""

from __future__ import annotations

import dataclasses
import io
import warnings
from pathlib import Path

import pytest
import torch
from library_tools import needs
from nfa_tools import NAMES, TensorImages, images_of, write_images
from PIL import Image

import nfaug
from nfaug.compare import CompareConfig, compare
from nfaug.compare.images import groups_of, large_classes, split_images
from nfaug.compare.leaks import without_copies
from nfaug.data.images import LabelledImages
from nfaug.data.open import open_dataset

TINY = CompareConfig(per_class=2, seeds=1, steps=1, variants=1, rows="none,nfa")


def images(*counts: int, seed: int = 0) -> TensorImages:
    """Images of classes of these sizes."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    return TensorImages(images_of(labels, seed=seed), labels, NAMES[: len(counts)])


def sizes(data: LabelledImages) -> list[int]:
    return torch.bincount(data.targets, minlength=len(data.classes)).tolist()


def test_a_held_out_copy_of_a_labelled_image_is_left_out() -> None:
    data = images(16, 16)
    same = data.images.clone()
    same[8:16] = same[:8]  # each is there twice
    data = TensorImages(same, data.targets, data.classes)
    pool, judged = split_images(data, None, 4)
    everything = dataclasses.replace(TINY, per_class=None)
    trained = {pool.image(n).numpy().tobytes() for n in range(len(pool))}
    with pytest.warns(UserWarning, match="trained"):
        kept = without_copies(pool, judged, everything, held_out=True)
    assert 0 < len(kept) < len(judged)
    assert trained.isdisjoint(kept.image(n).numpy().tobytes() for n in range(len(kept)))


@pytest.mark.parametrize("where", ["labelled", "judged"])
def test_one_image_in_two_classes_is_named(where: str) -> None:
    data = images(6, 6)
    pool, judged = split_images(data, None, 3)
    pixels = data.images.clone()
    first = int(pool.indices[0])
    other = pool if where == "labelled" else judged
    second = int(other.indices[(other.targets == 1).nonzero().flatten()[0]])
    pixels[second] = pixels[first]
    data = TensorImages(pixels, data.targets, data.classes)
    pool, judged = split_images(data, None, 3)
    everything = dataclasses.replace(TINY, per_class=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        without_copies(pool, judged, everything, held_out=True)
    said = [str(warning.message) for warning in caught]
    assert any("two classes" in text and f"({NAMES[1]})" in text for text in said)


def test_a_flow_that_was_trained_on_the_images_to_judge_by(tmp_path: Path) -> None:
    data = images(6, 6)
    test = images(6, 6, seed=1)
    checkpoint = nfaug.load("builtin:rgb32")
    for name, seen in (("theirs", test), ("ours", data)):
        checkpoint.config.training["images_sha256"] = seen.fingerprint()
        checkpoint.save(tmp_path / name)
    settings = dataclasses.replace(TINY, checkpoint=(str(tmp_path / "theirs"),))
    with pytest.raises(ValueError, match="trained"):
        compare(data, config=settings, out=tmp_path / "out", test_data=test, progress=False)
    assert not (tmp_path / "out").exists()
    settings = dataclasses.replace(TINY, checkpoint=(str(tmp_path / "ours"),))
    found = compare(data, config=settings, out=tmp_path / "out", test_data=test, progress=False)
    assert len(found.rows) == 3


def test_a_flow_whose_memory_holds_some_of_the_images_to_judge_by(tmp_path: Path) -> None:
    data = images(6, 6)
    test = images(6, 6, seed=1)
    flow = nfaug.load("builtin:rgb32").flow
    for name, rows in (("theirs", [0, 7]), ("ours", [])):
        # Half of these are judged by: no fingerprint of a whole dataset can tell.
        seen = torch.cat([data.images[:10], test.images[rows]])
        labels = torch.cat([data.targets[:10], test.targets[rows]])
        fitted = nfaug.fit(flow, TensorImages(seen, labels, NAMES[:2]), progress=False)
        fitted.save(tmp_path / name)
    settings = dataclasses.replace(TINY, checkpoint=(str(tmp_path / "theirs"),))
    with pytest.warns(UserWarning, match="memory of .* 2 of 12"):
        compare(data, config=settings, out=tmp_path / "out", test_data=test, progress=False)
    settings = dataclasses.replace(TINY, checkpoint=(str(tmp_path / "ours"),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(data, config=settings, out=tmp_path / "out-2", test_data=test, progress=False)


def test_groups_stay_on_one_side(tmp_path: Path) -> None:
    for label, name in enumerate(NAMES[:2]):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images_of(torch.full((24,), label), channels=1)):
            picture = Image.fromarray(image[0].numpy())
            picture.save(tmp_path / name / f"patient{number % 8}_{number}.png")
    data = open_dataset(tmp_path)
    pattern = r"(patient\d+)_"
    assert set(groups_of(data, pattern)) == {f"patient{n}" for n in range(8)}
    pool, judged = split_images(data, None, 4, pattern)
    assert set(groups_of(pool, pattern)).isdisjoint(groups_of(judged, pattern))
    assert min(sizes(pool)) >= 4
    assert min(sizes(judged)) >= 4
    found = compare(
        data,
        config=dataclasses.replace(TINY, group=pattern),
        out=tmp_path / "out",
        progress=False,
    )
    assert "one side" in found.text()
    for wrong, word in (("patient(", "expression"), ("day", "match")):
        with pytest.raises(ValueError, match=word):
            split_images(data, None, 4, wrong)
    with pytest.raises(ValueError, match="groups"):
        split_images(data, None, 4, "patient")  # everything is one group
    with pytest.raises(ValueError, match="both"):
        split_images(data, data, 4, pattern)


def test_groups_are_a_column_of_a_table(tmp_path: Path) -> None:
    pyarrow = needs("pyarrow")
    from pyarrow import parquet

    stored = []
    for image in images(8, 8).images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
        stored.append(file.getvalue())
    days = [f"day {number % 4}" for number in range(16)]
    labels = ["a"] * 8 + ["b"] * 8
    table = pyarrow.table({"image": stored, "label": labels, "day": days})
    parquet.write_table(table, tmp_path / "data.parquet")
    data = open_dataset(tmp_path / "data.parquet")
    assert groups_of(data, "day") == days
    pool, judged = split_images(data, None, 2, "day")
    assert set(groups_of(pool, "day")).isdisjoint(groups_of(judged, "day"))


def test_small_classes_are_taken_as_they_are_or_left_out(tmp_path: Path) -> None:
    data = images(30, 12, 2)
    pool, judged = split_images(data, None, 10)
    assert sizes(pool) == [15, 10, 1]
    assert sizes(judged) == [15, 2, 1]
    settings = dataclasses.replace(TINY, per_class=10)
    found = compare(data, config=settings, out=tmp_path / "all", progress=False)
    assert f"{NAMES[2]} (1)" in found.text()
    assert "one labelled image" in found.text()
    settings = dataclasses.replace(settings, min_images=12)
    with pytest.warns(UserWarning, match=NAMES[2]):
        found = compare(data, config=settings, out=tmp_path / "large", progress=False)
    assert "one labelled image" not in found.text()
    with pytest.warns(UserWarning, match="left out"):
        large, test = large_classes(data, images(2, 2, 2, seed=1), 12)
    assert large.classes == list(NAMES[:2])
    assert sizes(large) == [30, 12]
    assert test is not None
    assert sizes(test) == [2, 2]
    assert int(large[41][1]) == 1
    with pytest.raises(ValueError, match="--min-images"):
        large_classes(images(4, 1), None, None)
    with pytest.raises(ValueError, match="two classes"):
        large_classes(images(30, 2), None, 12)


def test_files_that_are_not_read_are_counted_and_named(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 16, train=8)
    for number in range(3):
        (tmp_path / "data" / "train" / NAMES[0] / f"{number}.heic").write_bytes(b"heic")
    with pytest.raises(ValueError, match="pillow-heif"):
        open_dataset(tmp_path / "data" / "train", image_size=16)[1]
    data = open_dataset(tmp_path / "data", on_error="skip")
    found = compare(data, config=TINY, out=tmp_path / "out", progress=False)
    note = next(note for note in found.notes() if "not read" in note)
    assert note.startswith("3 files")
    assert "1.heic" in note
    assert "pillow-heif" in note


def test_no_more_images_judge_than_asked_for(tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, test_images=7)
    compare(images(20, 20), config=settings, out=tmp_path, progress=False)
    text = (tmp_path / "cells.csv").read_text().splitlines()[1]
    shares = {f"{100 * right / 7:.4f}" for right in range(8)}
    assert text.split(",")[2] in shares
