"""Build a dataset of the studies from its public source.

    python lab/data.py cells --out DATA
    python lab/data.py cells --out DATA --source Blood-Cell-Classification-main.tar.gz

writes DATA/blood128-train.tar, -validation.tar and -test.tar, the files of `lab/sets.py`. Without
--source, the archive of a commit is downloaded from GitHub. In lab/manifests, sources.csv has the
commit, the licence, the split, and the SHA-256 that the files of the source must have (see
`digest`); STEM.csv.gz says which of them is which image of which part and, where images belong
together, of which `cluster`; SHA256SUMS holds for the archives that Pillow 12.3.0 makes. Another
version may encode equal pixels in other bytes.

The commits of CIFAR-10, cells, clothes, signs and speech were not noted when the images of the
studies were made. At the one named here, all images are equal.

`cifar10-png` has the lossless images of CIFAR-10: the first 1,017 of each of its six files, and of
the 1,017 test images those that are not among the JPEG files of cifar10-test.tar
(cifar10-png-unseen.tar). --source is the folder that torchvision keeps CIFAR-10 in; without it,
torchvision downloads them.

The sets of the second frozen run (`lab/second.py`) become folders, DATA/pollen/train/CLASS/FILE and
DATA/pollen/test/CLASS/FILE. Their manifests have the SHA-256 of each image, and the cluster that it
belongs to where the source names one: a speaker, a drawer, a traffic sign that was passed. It is
the part of the file's name before `__`, and no cluster is in both parts. The emoji come from the
npm registry: `npm pack emoji-datasource-twitter@16.0.0` brings the file for --source.

Fashion-MNIST has no manifest. Its source is a folder of four .gz files, by default that of Debian's
package dataset-fashion-mnist; without the package, torchvision downloads them. It becomes
fashion-mnist-train.npz and -test.npz, with classes named by numbers.
"""

import argparse
import csv
import gzip
import hashlib
import io
import tarfile
import tempfile
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling
from torchvision.datasets import CIFAR10, FashionMNIST

from nfaug.io.atomic import write_bytes

MANIFESTS = Path(__file__).resolve().parent / "manifests"
PACKAGE = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
# Spectrograms, at 8,000 samples a second: samples from frame to frame and of a window, points of
# the FFT, the range of tones in Hz, and that of loudness in decibels.
RATE = 8000
FRAMES, BANDS, HOP, WINDOW, POINTS, TONES, LOUDNESS = 64, 64, 100, 256, 1024, (60, 4000), 60


def opened(data: bytes, mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(data)).convert(mode)


def shrunk(image: Image.Image, pixels: int) -> Image.Image:
    """An image whose shorter side has so many pixels."""
    scale = pixels / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    if image.height > 2 * image.width:  # height first, as tall images of the studies were made
        image = image.resize((image.width, height), Resampling.LANCZOS)
    return image.resize((width, height), Resampling.LANCZOS)


def resized(image: Image.Image, pixels: int) -> Image.Image:
    return image.resize((pixels, pixels), Resampling.BICUBIC)


def centre(image: Image.Image) -> Image.Image:
    """The square in the middle of an image."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def jpeg(image: Image.Image, quality: int, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, **options)
    return data.getvalue()


def padded(image: Image.Image, level: int = 255) -> Image.Image:
    """An image of one channel in the middle of a square of this level."""
    side = max(image.size)
    square = Image.new("L", (side, side), level)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def on_white(data: bytes) -> Image.Image:
    """A picture with transparent parts, on white."""
    drawn = opened(data, "RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    return Image.alpha_composite(white, drawn).convert("RGB")


def png(image: Image.Image) -> bytes:
    image.info.clear()  # such as a color profile
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def mel_bands(rate: int, points: int) -> NDArray[np.float64]:
    """Triangles (BANDS, points // 2 + 1) of height 1, at equal steps of 2595 log10(1 + f / 700)."""
    low, high = (2595 * np.log10(1 + tone / 700) for tone in TONES)
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    tones = np.linspace(0, rate / 2, points // 2 + 1)
    rising = (tones - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - tones) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling))


def spectrogram(data: bytes, rate: int = RATE, hop: int = HOP) -> bytes:
    """A log-mel spectrogram of the middle of a sound; a shorter one lies in silence.

    Column k is the power in mel bands of the samples around `hop` k under a symmetric Hann window.
    White is the loudest point, black is 60 decibels below it; low tones are at the bottom.

    Args:
        data: A .wav file of one channel of 16-bit samples.
        rate: Samples a second.
        hop: Samples from a column to the next: FRAMES of them are shown, by default 0.8 seconds.
    """
    window = WINDOW * rate // RATE
    points = POINTS * rate // RATE
    with wave.open(io.BytesIO(data)) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
    length = FRAMES * hop
    start = max(0, (len(sound) - length) // 2)
    sound = sound[start : start + length]
    before = (length - len(sound)) // 2
    after = length - len(sound) - before
    around = np.pad(sound, (before + window // 2, after + window // 2))
    frames = np.lib.stride_tricks.sliding_window_view(around, window)[::hop][:FRAMES]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), points)) ** 2
    decibels = 10 * np.log10(np.maximum(mel_bands(rate, points) @ power.T, 1e-10))
    levels = 255 * np.clip(1 + (decibels - decibels.max()) / LOUDNESS, 0, 1)
    return png(Image.fromarray(levels.round().astype(np.uint8)[::-1]))


#: A file of the source -> the file of the dataset.
MAKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "cifar10": lambda data: data,
    "cells": lambda data: jpeg(resized(centre(opened(data)), 128), 92, subsampling="4:4:4"),
    "clothes": lambda data: jpeg(shrunk(opened(data), 128), 88),  # not cropped
    "signs": lambda data: png(resized(opened(data), 64)),
    "speech": spectrogram,
    "letters": lambda data: png(shrunk(shrunk(opened(data, "L"), 96), 64)),
    "steel": lambda data: png(centre(shrunk(opened(data, "L"), 128))),
    "groceries": lambda data: jpeg(centre(shrunk(opened(data), 128)), 95),
    "pollen": lambda data: jpeg(centre(shrunk(opened(data), 128)), 95),
    "textures": lambda data: jpeg(centre(shrunk(opened(data), 128)), 95),
    "rubbish": lambda data: png(centre(opened(data))),
    "traffic": lambda data: png(resized(opened(data), 64)),
    "emoji": lambda data: png(on_white(data)),
    "shapes": lambda data: png(opened(data, "L")),
    "words": lambda data: spectrogram(data, rate=16000, hop=250),
    "plankton": lambda data: png(resized(padded(opened(data, "L")), 64)),
}
#: The sets of the second frozen run, which become folders.
SECOND = ("pollen", "textures", "rubbish", "traffic", "emoji", "shapes", "words", "plankton")


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 of what `sha256sum` prints for these files in the order of their names."""
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check(files: Mapping[str, bytes], expected: str, source: Path) -> None:
    """Raise ValueError if files have another digest."""
    if digest(files) != expected:
        raise ValueError(
            f"{source} has other files than the studies had: the SHA-256 of their list is "
            f"{digest(files)}, not {expected}"
        )


def files_of(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Files of an archive by their paths in its first folder. Nothing is unpacked to the disk.

    Raises:
        ValueError: It is no whole tar archive, or files are missing.
    """
    found = {}
    try:
        with tarfile.open(archive) as members:
            for member in members:
                path = member.name.partition("/")[2]
                if path in wanted and member.isfile():
                    file = members.extractfile(member)
                    assert file is not None
                    found[path] = file.read()
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} is no whole tar archive: {error}") from error
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(f"{archive} lacks {len(missing)} files, such as {missing[0]}")
    return found


def packed(images: Mapping[str, bytes]) -> bytes:
    """A tar archive that depends on names and contents alone."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(images):
            entry = tarfile.TarInfo(name)
            entry.size = len(images[name])
            archive.addfile(entry, io.BytesIO(images[name]))
    return data.getvalue()


def build(name: str, record: Mapping[str, str], archive: Path) -> dict[str, bytes]:
    """The files of a dataset by their names. It raises ValueError as `files_of` and `check`."""
    parts = parts_of(record)
    found = files_of(archive, {path for paths in parts.values() for path in paths.values()})
    check(found, record["sha256"], archive)
    if name in SECOND:
        images = {}
        for part, sources in parts.items():
            for image, source in sources.items():
                images[f"{name}/{part}/{image}"] = MAKERS[name](found[source])
        return images
    return archives_of(record, parts, lambda source: MAKERS[name](found[source]))


def parts_of(record: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The parts of a dataset by its manifest, each with the source of an image by its name."""
    parts: dict[str, dict[str, str]] = {}
    for row in rows_of(record["stem"]):
        parts.setdefault(row["part"], {})[row["name"]] = row["source"]
    return parts


def rows_of(stem: str) -> list[dict[str, str]]:
    """The rows of a manifest."""
    with gzip.open(MANIFESTS / f"{stem}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def lossless(record: Mapping[str, str], folder: Path) -> dict[str, bytes]:
    """Lossless images of CIFAR-10, from torchvision's folder; it raises as `build` does.

    A source is train/NUMBER or test/NUMBER, a number of torchvision's `CIFAR10`. The digest is that
    of pixels.
    """
    stored = {part: CIFAR10(folder, train=part == "train").data for part in ("train", "test")}
    parts = parts_of(record)
    found = {}
    for source in {source for paths in parts.values() for source in paths.values()}:
        part, _, number = source.partition("/")
        found[source] = stored[part][int(number)]
    check({source: pixels.tobytes() for source, pixels in found.items()}, record["sha256"], folder)
    return archives_of(record, parts, lambda source: png(Image.fromarray(found[source])))


def archives_of(
    record: Mapping[str, str],
    parts: Mapping[str, Mapping[str, str]],
    image_of: Callable[[str], bytes],
) -> dict[str, bytes]:
    """An archive for each part, of the images that `image_of` makes from their sources."""
    made = {}
    for part, sources in parts.items():
        images = {name: image_of(source) for name, source in sources.items()}
        made[f"{record['stem']}-{part}.tar"] = packed(images)
    return made


def fashion(record: Mapping[str, str], folder: Path) -> dict[str, bytes]:
    """Fashion-MNIST as two .npz files, from a folder of IDX files; it raises as `build` does."""
    files, made = {}, {}
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        files[name] = gzip.decompress((folder / f"{name}-ubyte.gz").read_bytes())
    check(files, record["sha256"], folder)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = np.frombuffer(files[f"{prefix}-images-idx3"], np.uint8, offset=16)
        labels = np.frombuffer(files[f"{prefix}-labels-idx1"], np.uint8, offset=8)
        data = io.BytesIO()
        np.savez(data, images=images.reshape(-1, 28, 28), labels=labels.astype(np.int64))
        made[f"{record['stem']}-{part}.npz"] = data.getvalue()
    return made


def made_from(name: str, record: Mapping[str, str], source: Path | None) -> dict[str, bytes]:
    """The files of a dataset, by their names; without a source, it is downloaded."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "fashion":
            if source is None and not PACKAGE.is_dir():
                FashionMNIST(folder, download=True)
                source = Path(folder, "FashionMNIST", "raw")
            return fashion(record, source or PACKAGE)
        if name == "cifar10-png":
            if source is None:
                CIFAR10(folder, download=True)
            return lossless(record, source or Path(folder))
        if source is None and not record["commit"]:
            raise ValueError(f"{record['repository']} is no repository: --source takes its file")
        if source is None:
            source = Path(folder, "source.tar.gz")
            address = f"https://github.com/{record['repository']}/archive/{record['commit']}.tar.gz"
            print(f"From {address}; --source takes such a file")
            torch.hub.download_url_to_file(address, str(source))
        return build(name, record, source)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=[*MAKERS, "fashion", "cifar10-png"])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--source", type=Path, help="what to read and not to download")
    args = parser.parse_args()
    with (MANIFESTS / "sources.csv").open(encoding="utf-8", newline="") as file:
        record = next(row for row in csv.DictReader(file) if row["name"] == args.name)
    print(f"{record['repository']}, {record['licence']}. Split: {record['split']}")
    try:
        files = made_from(args.name, record, args.source)
    except (ValueError, OSError, EOFError) as error:
        parser.exit(1, f"{error}\n")
    stated = stated_digests(record)
    same = 0
    for name, data in files.items():
        (args.out / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(args.out / name, data)
        as_stated = stated.get(name) == hashlib.sha256(data).hexdigest()
        same += as_stated
        if args.name not in SECOND:
            print(f"{args.out / name}: {'as' if as_stated else 'not as'} in SHA256SUMS")
    if args.name in SECOND:
        print(f"{args.out / args.name}: {same} of {len(files)} images as in the manifest")


def stated_digests(record: Mapping[str, str]) -> dict[str, str]:
    """The SHA-256 that the files of a dataset should have, by their names."""
    digests = {}
    if record["name"] in SECOND:
        for row in rows_of(record["stem"]):
            digests[f"{record['name']}/{row['part']}/{row['name']}"] = row["sha256"]
        return digests
    for line in (MANIFESTS / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest_of_file, _, name = line.partition("  ")
        digests[name] = digest_of_file
    return digests


if __name__ == "__main__":
    main()
