"""The datasets of the studies, built from archives as GitHub serves them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import pickle
import sys
import tarfile
import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab import data
from lab.clusters import clusters_of
from lab.sets import SETS

MANIFESTS = data.MANIFESTS
RNG = np.random.default_rng(0)
PNG_PARTS = ("train", "test", "unseen")
#: part, class/name, path in the source
IMAGES = [
    ("train", "b/two.png", "pictures/second kind/two.jpg"),
    ("train", "a/one.png", "pictures/first kind/one.jpg"),
    ("test", "a/three.png", "pictures/first kind/three.jpg"),
]
SIZES = {
    "cells": (128, 128),
    "clothes": (192, 128),
    "signs": (64, 64),
    "letters": (96, 64),
    "steel": (128, 128),
    "groceries": (128, 128),
}
#: Of the second run, with the channels.
SECOND_SIZES = {
    "pollen": ("RGB", (128, 128)),
    "textures": ("RGB", (128, 128)),
    "rubbish": ("RGB", (200, 200)),
    "traffic": ("RGB", (64, 64)),
    "emoji": ("RGB", (300, 200)),
    "shapes": ("L", (300, 200)),
    "plankton": ("L", (64, 64)),
}


def picture() -> bytes:
    """A JPEG file of 300 x 200 pixels."""
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (200, 300, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def archive_of(path: Path, members: Mapping[str, bytes]) -> Path:
    """An archive whose files lie in a folder of the repository's name and commit."""
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("signs-0a1b2c"))
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def files() -> dict[str, bytes]:
    """The files of a source, by their paths."""
    return {path: picture() for _, _, path in IMAGES}


@pytest.fixture
def members(files: dict[str, bytes]) -> dict[str, bytes]:
    """What an archive of the source has: one file more."""
    inside = {f"signs-0a1b2c/{path}": content for path, content in files.items()}
    return {"signs-0a1b2c/README.md": b"signs", **inside}


@pytest.fixture
def record(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The line of sources.csv, in a folder of manifests that this test has alone."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    monkeypatch.setattr(data, "MANIFESTS", folder)
    lines = ["part,name,source", *(",".join(image) for image in IMAGES)]
    (folder / "sign64.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "SHA256SUMS").write_text("")
    record = {"name": "signs", "stem": "sign64", "repository": "someone/signs", "commit": "0a1b2c"}
    record |= {"licence": "CC0", "split": "drawn", "sha256": data.digest(files)}
    with (folder / "sources.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(record))
        writer.writeheader()
        writer.writerow(record)
    return record


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """`python lab/data.py WORDS`."""
    monkeypatch.setattr(sys, "argv", ["data.py", *map(str, words)])
    data.main()


def images_of(archive: bytes) -> dict[str, Image.Image]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        found = {}
        for member in opened:
            content = opened.extractfile(member)
            assert content is not None
            found[member.name] = Image.open(io.BytesIO(content.read()))
        return found


@pytest.mark.parametrize("name", SIZES)
def test_every_part_has_its_images(
    name: str, members: dict[str, bytes], record: dict[str, str], tmp_path: Path
) -> None:
    archive = archive_of(tmp_path / "source.tar.gz", members)
    made = data.build(name, record, archive)
    assert set(made) == {"sign64-train.tar", "sign64-test.tar"}
    train = images_of(made["sign64-train.tar"])
    assert list(train) == ["a/one.png", "b/two.png"]
    assert {image.size for image in train.values()} == {SIZES[name]}
    assert list(images_of(made["sign64-test.tar"])) == ["a/three.png"]
    assert data.build(name, record, archive) == made


def test_files_are_written(
    members: dict[str, bytes],
    record: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    archive = archive_of(tmp_path / "source.tar.gz", members)
    out = tmp_path / "data"
    run(monkeypatch, "signs", "--out", out, "--source", archive)
    written = {file.name: file.read_bytes() for file in out.iterdir()}
    assert written == data.build("signs", record, archive)
    printed = capsys.readouterr().out
    assert "someone/signs, CC0. Split: drawn" in printed
    assert "sign64-test.tar: not as in SHA256SUMS" in printed
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in written.items()]
    (data.MANIFESTS / "SHA256SUMS").write_text("\n".join(sums))
    run(monkeypatch, "signs", "--out", out, "--source", archive)
    assert "sign64-test.tar: as in SHA256SUMS" in capsys.readouterr().out


def test_the_archive_of_the_commit_is_downloaded(
    members: dict[str, bytes],
    record: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def download(address: str, path: str) -> None:
        asked.append(address)
        archive_of(Path(path), members)

    monkeypatch.setattr(data.torch.hub, "download_url_to_file", download)
    run(monkeypatch, "signs", "--out", tmp_path / "data")
    assert asked == ["https://github.com/someone/signs/archive/0a1b2c.tar.gz"]
    assert len(list((tmp_path / "data").iterdir())) == 2


@pytest.mark.parametrize("break_", ["missing", "link", "other", "cut", "text", "absent"])
@pytest.mark.usefixtures("record")
def test_a_wrong_source_is_named_and_nothing_is_written(
    break_: str,
    members: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "signs-0a1b2c/pictures/first kind/one.jpg"
    if break_ in ("missing", "link"):
        del members[name]
    if break_ == "other":
        members[name] += b"0"
    archive = archive_of(tmp_path / "source.tar.gz", members)
    if break_ == "link":
        with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as opened:
            link = tarfile.TarInfo(name)
            link.type = tarfile.SYMTYPE
            link.linkname = "../../../../etc/hostname"
            opened.addfile(link)
    if break_ == "cut":
        archive.write_bytes(archive.read_bytes()[:-1000])
    if break_ == "text":
        archive.write_bytes(b"<html>")
    if break_ == "absent":
        archive.unlink()
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "signs", "--out", tmp_path / "data", "--source", archive)
    assert stopped.value.code == 1
    expected = {
        "missing": "lacks 1 files, such as pictures/first kind/one.jpg",
        "link": "lacks 3 files, such as pictures/first kind/one.jpg",
        "other": "has other files than the studies had: the SHA-256 of their list is ",
        "cut": "is no whole tar archive: ",
        "text": "is no whole tar archive: ",
        "absent": "No such file",
    }
    error = capsys.readouterr().err
    assert expected[break_] in error
    assert str(archive) in error
    assert not (tmp_path / "data").exists()


def test_members_outside_the_folder_are_not_unpacked(
    members: dict[str, bytes], record: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    plain = data.build("signs", record, archive_of(folder / "plain.tar.gz", members))
    members |= {
        "../evil.txt": b"evil",
        "signs-0a1b2c/../../evil.txt": b"evil",
        "/evil.txt": b"evil",
    }
    before = sorted(tmp_path.rglob("*"))
    made = data.build("signs", record, archive_of(folder / "plain.tar.gz", members))
    assert made == plain
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/evil.txt").exists()


def sound(samples: np.ndarray, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(rate)
        opened.writeframes(samples.astype(np.int16).tobytes())
    return file.getvalue()


@pytest.mark.parametrize("length", [3200, 8001])
def test_a_spectrogram_shows_tones_in_the_middle(length: int) -> None:
    def row_of(tone: float) -> int:
        wave_of = 10000 * np.sin(2 * np.pi * tone * np.arange(length) / 8000)
        levels = np.asarray(Image.open(io.BytesIO(data.spectrogram(sound(wave_of)))))
        assert levels.shape == (64, 64)
        assert levels.max() == 255
        middle = levels[:, 30:34]
        assert (middle.argmax(0) == middle.argmax(0)[0]).all()
        assert levels.max(0)[:14].any() == (length > 6400)
        return int(middle.argmax(0)[0])

    mel = [2595 * np.log10(1 + tone / 700) for tone in (60, 500, 2000, 4000)]
    for tone, height in ((500, mel[1]), (2000, mel[2])):
        band = round(65 * (height - mel[0]) / (mel[3] - mel[0])) - 1
        assert row_of(tone) == 63 - band


def test_a_spectrogram_has_the_same_bands_at_another_rate() -> None:
    """One second at 16,000 samples a second, in which a tone begins half-way."""
    tone = 10000 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    tone[:8000] = 0
    levels = np.asarray(Image.open(io.BytesIO(data.MAKERS["words"](sound(tone, 16000)))))
    usual = np.asarray(Image.open(io.BytesIO(data.spectrogram(sound(tone[::2])))))
    assert levels.shape == (64, 64)
    assert not levels[:, :30].any()
    assert levels[:, 34:].any(0).all()
    assert levels[:, 48].argmax() == usual[:, 48].argmax()


@pytest.mark.parametrize("name", SECOND_SIZES)
def test_the_images_of_the_second_run(name: str) -> None:
    made = Image.open(io.BytesIO(data.MAKERS[name](picture())))
    assert (made.mode, made.size) == SECOND_SIZES[name]


def test_what_is_transparent_becomes_white() -> None:
    drawn = np.zeros((4, 4, 4), np.uint8)
    drawn[:, :2] = (200, 0, 0, 255)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG")
    levels = np.asarray(Image.open(io.BytesIO(data.MAKERS["emoji"](file.getvalue()))))
    assert (levels[:, :2] == (200, 0, 0)).all()
    assert (levels[:, 2:] == 255).all()


def test_long_images_are_padded_and_not_cut() -> None:
    padded = np.asarray(data.padded(Image.new("L", (6, 2), 7)))
    assert padded.shape == (6, 6)
    assert (padded[2:4] == 7).all()
    assert (padded[[0, 1, 4, 5]] == 255).all()


def test_a_second_set_becomes_a_folder(
    record: dict[str, str],
    members: dict[str, bytes],
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each image is compared with the digest in the manifest."""
    manifests = data.MANIFESTS
    lines = ["part,name,source,cluster,sha256"]
    for part, name, source in IMAGES:
        digest = hashlib.sha256(data.MAKERS["traffic"](files[source])).hexdigest()
        lines.append(f"{part},{name},{source},,{digest if part == 'test' else '0'}")
    (manifests / "traffic.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    record |= {"name": "traffic", "stem": "traffic"}
    with (manifests / "sources.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(record))
        writer.writeheader()
        writer.writerow(record)
    archive = archive_of(tmp_path / "source.tar.gz", members)
    run(monkeypatch, "traffic", "--out", tmp_path / "made", "--source", archive)
    assert "traffic: 1 of 3 images as in the manifest" in capsys.readouterr().out
    for part, name, source in IMAGES:
        made = (tmp_path / "made/traffic" / part / name).read_bytes()
        assert made == data.MAKERS["traffic"](files[source])


def test_a_source_that_is_no_repository_must_be_given(
    record: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="someone/signs is no repository: --source"):
        data.made_from("signs", record | {"commit": ""}, None)


@pytest.mark.parametrize("name", data.SECOND)
def test_the_manifests_of_the_second_run(name: str) -> None:
    """No cluster and no image is in both parts, and there are enough of every class."""
    with (MANIFESTS / "sources.csv").open(newline="") as file:
        assert name in {row["name"] for row in csv.DictReader(file)}
    rows = data.rows_of(name)
    assert len({row["sha256"] for row in rows}) > 0.99 * len(rows)
    clusters: dict[str, set[str]] = {"train": set(), "test": set()}
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        label, _, image = row["name"].partition("/")
        counts[row["part"], label] = counts.get((row["part"], label), 0) + 1
        before, found, _ = image.partition("__")
        assert row["cluster"] == (before if found else "")
        clusters[row["part"]].add(row["cluster"] or row["sha256"])
    assert not clusters["train"] & clusters["test"]
    assert not {row["source"] for row in rows if row["part"] == "test"} & {
        row["source"] for row in rows if row["part"] == "train"
    }
    tested = clusters_of(f"second/{name}-scratch")
    if tested is None:
        assert not any(row["cluster"] for row in rows)
    else:
        assert set(tested.names) == clusters["test"]
        assert not any(tested.known)
    classes = {label for _, label in counts}
    assert len(counts) == 2 * len(classes) >= 8
    assert min(counts["train", label] for label in classes) >= 20
    assert 300 <= sum(counts["test", label] for label in classes) <= 2000


def test_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (3, 28, 28), np.uint8)
    labels = np.array([4, 0, 9], np.uint8)
    files = {}
    for prefix, count in (("train", 3), ("t10k", 2)):
        files[f"{prefix}-images-idx3"] = bytes(16) + images[:count].tobytes()
        files[f"{prefix}-labels-idx1"] = bytes(8) + labels[:count].tobytes()
    for name, content in files.items():
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(content))
    record = {"stem": "fashion-mnist", "sha256": data.digest(files)}
    monkeypatch.setattr(data, "PACKAGE", tmp_path)
    made = data.made_from("fashion", record, None)
    assert list(made) == ["fashion-mnist-train.npz", "fashion-mnist-test.npz"]
    for content, count in zip(made.values(), (3, 2), strict=True):
        arrays = np.load(io.BytesIO(content))
        assert (arrays["images"] == images[:count]).all()
        assert arrays["labels"].tolist() == labels[:count].tolist()
    with pytest.raises(ValueError, match="has other files"):
        data.fashion(record | {"sha256": "0"}, tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels"):
        data.fashion(record, tmp_path)


def test_lossless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the files that torchvision reads, here with three images each."""
    images = RNG.integers(0, 256, (6, 3, 3072), np.uint8)
    (tmp_path / data.CIFAR10.base_folder).mkdir()
    files = [name for name, _ in data.CIFAR10.train_list + data.CIFAR10.test_list]
    for name, rows in zip(files, images, strict=True):
        content = pickle.dumps({"data": rows, "labels": [0, 1, 2]})
        (tmp_path / data.CIFAR10.base_folder / name).write_bytes(content)
    names = pickle.dumps({"label_names": ["cat", "dog", "frog"]})
    (tmp_path / data.CIFAR10.base_folder / data.CIFAR10.meta["filename"]).write_bytes(names)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    rows = {"train/4": images[1, 1], "test/0": images[5, 0], "test/2": images[5, 2]}
    planar = {name: row.reshape(3, 32, 32).transpose(1, 2, 0) for name, row in rows.items()}
    monkeypatch.setattr(data, "MANIFESTS", tmp_path)
    lines = "part,name,source\ntrain,dog/1.png,train/4\ntest,cat/0.png,test/0\n"
    lines += "test,frog/2.png,test/2\nunseen,frog/2.png,test/2\n"
    (tmp_path / "png.csv.gz").write_bytes(gzip.compress(lines.encode()))
    pixels = {name: image.tobytes() for name, image in planar.items()}
    record = {"stem": "png", "sha256": data.digest(pixels)}
    made = data.made_from("cifar10-png", record, tmp_path)
    assert list(made) == ["png-train.tar", "png-test.tar", "png-unseen.tar"]
    with tarfile.open(fileobj=io.BytesIO(made["png-test.tar"])) as archive:
        assert archive.getnames() == ["cat/0.png", "frog/2.png"]
        file = archive.extractfile("frog/2.png")
        assert file is not None
        assert (np.asarray(Image.open(file)) == planar["test/2"]).all()
    with pytest.raises(ValueError, match="has other files"):
        data.lossless(record | {"sha256": "0"}, tmp_path)


def test_the_lossless_test_images_that_are_left() -> None:
    with gzip.open(MANIFESTS / "cifar10-png.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sources = {part: {row["source"] for row in rows if row["part"] == part} for part in PNG_PARTS}
    assert sources["unseen"] < sources["test"]
    assert [len(sources[part]) for part in PNG_PARTS] == [5085, 1017, 809]


def test_the_manifests_have_what_the_studies_read() -> None:
    with (MANIFESTS / "sources.csv").open(newline="") as file:
        records = {row["name"]: row for row in csv.DictReader(file)}
    usual = [name for name in data.MAKERS if name not in data.SECOND]
    assert set(records) - {"cifar10-png", *data.SECOND} == set(SETS) == {*usual, "fashion"}
    sums = (MANIFESTS / "SHA256SUMS").read_text().splitlines()
    archives = [line.split("  ")[1] for line in sums if "-png-" not in line]
    assert {images.train for images in SETS.values()} <= set(archives)
    assert {images.test for images in SETS.values()} <= set(archives)
    for name in usual:
        stem = records[name]["stem"]
        with gzip.open(MANIFESTS / f"{stem}.csv.gz", "rt", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        parts = {row["part"] for row in rows}
        assert {f"{stem}-{part}.tar" for part in parts} == {
            archive for archive in archives if archive.startswith(f"{stem}-")
        }
        judged = {row["source"] for row in rows if not row["part"].startswith("train")}
        assert len({(row["part"], row["name"]) for row in rows}) == len(rows)
        assert not judged & {row["source"] for row in rows if row["part"].startswith("train")}


def test_the_clusters_of_groceries_are_varieties() -> None:
    """The name of a photograph is that of its variety and a number."""
    with gzip.open(MANIFESTS / "grocery128.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            variety, _, number = Path(row["name"]).stem.rpartition("_")
            assert row["cluster"] == variety
            assert number.isdigit()
            assert Path(row["source"]).parts[-2] == variety
