"""A bank as image files, in folders or in WebDataset shards, for other frameworks."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..augment.pixels import to_pil
from ..data.images import progress_bar
from ..io.atomic import is_empty, replace_directory
from .dataset import match
from .reader import Bank
from .source import to_uint8

__all__ = ["export_bank"]

_PER_SHARD = 10_000  # variants
_File = tuple[int, int, int, bytes]  # image, variant, label and PNG file


def export_bank(
    bank: Bank | str | Path,
    out: str | Path,
    *,
    dataset: Any = None,
    format: Literal["png", "wds"] = "png",
    progress: bool = True,
) -> dict[str, int]:
    """Write the variants as PNG files, in one folder per class or in WebDataset shards.

    Variant 1 of image 12 is CLASS/000012-1.png. Variants that equal their image are left out. The
    shards train-000000.tar, ... hold a .png and a .cls (the label) for each variant, beside
    `_info.json`, which timm's `wds/` reader needs, and `classnames.txt`.

    Args:
        bank: The bank or its directory.
        out: The folder, which must be empty or missing.
        dataset: The images of a residual bank, as in `BankDataset`.
        format: "png" for folders, "wds" for shards.
        progress: Show a progress bar.

    Returns:
        The number of files of each class.

    Raises:
        ValueError: The images have neither one nor three channels, or a residual bank has no
            `dataset` or one of other images.
        FileExistsError: `out` is not empty.
    """
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    path = Path(out).expanduser()
    if path.exists() and not (path.is_dir() and is_empty(path)):
        raise FileExistsError(f"{path} is not empty; choose another directory")
    if bank.manifest.shape[0] not in (1, 3):
        raise ValueError(f"PNG files have 1 or 3 channels; the bank has {bank.manifest.shape[0]}")
    if bank.manifest.residual and dataset is None:
        raise ValueError("a residual bank has changes of images: pass dataset= (--data)")
    classes = list(bank.manifest.classes) or [str(y) for y in range(int(bank.labels.max()) + 1)]
    counts = np.bincount(bank.labels, bank.applied.sum(1), len(classes)).astype(int).tolist()
    files = _png_files(bank, dataset, progress)
    with replace_directory(path, sync=False) as staged:  # all files or none
        if format == "wds":
            _write_shards(staged, files, sum(counts), classes)
        else:
            _write_folders(staged, files, classes)
    return dict(zip(classes, counts, strict=True))


def _png_files(bank: Bank, dataset: Any, progress: bool) -> Iterator[_File]:
    """All variants that differ from their image, in the order of the bank."""
    place = np.argsort(match(dataset, bank)[0]) if bank.manifest.residual else None
    with progress_bar(len(bank), "export", "image", shown=progress) as bar:
        for row in range(len(bank)):
            numbers, pixels = bank.applied[row].nonzero()[0].tolist(), None
            if place is not None and numbers:
                image = to_uint8(dataset[int(place[row])][0], bank.manifest.shape[0])
                pixels = image.permute(1, 2, 0).numpy()
            for number in numbers:
                file = io.BytesIO()
                to_pil(bank.variant(row, number, pixels)).save(file, "PNG")
                yield row, number, int(bank.labels[row]), file.getvalue()
            bar.update()


def _write_folders(path: Path, files: Iterator[_File], classes: list[str]) -> None:
    names = [_folder_name(name) for name in classes]
    if len(set(names)) != len(names):
        names = [f"{label:05}-{name}" for label, name in enumerate(names)]
    for image, variant, label, png in files:
        (path / names[label]).mkdir(exist_ok=True)
        (path / names[label] / f"{image:06}-{variant}.png").write_bytes(png)


def _folder_name(name: str) -> str:
    """A safe folder name for a class name, which may come from an untrusted file."""
    safe = "".join(c if c.isalnum() or c in " -_.,()+" else "_" for c in name).strip(" .")
    return safe[:100] or "_"


def _write_shards(path: Path, files: Iterator[_File], total: int, classes: list[str]) -> None:
    lengths = [min(_PER_SHARD, total - start) for start in range(0, total, _PER_SHARD)]
    names = [f"train-{number:06}.tar" for number in range(len(lengths))]
    for name in names:
        with tarfile.open(path / name, "w") as tar:
            for image, variant, label, png in itertools.islice(files, _PER_SHARD):
                for ending, data in (("png", png), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{image:08}-{variant}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (path / "classnames.txt").write_text("".join(f"{name}\n" for name in classes), "utf-8")
    split = {"name": "train", "num_samples": total, "filenames": names, "shard_lengths": lengths}
    (path / "_info.json").write_text(json.dumps({"splits": {"train": split}}, indent=2) + "\n")
