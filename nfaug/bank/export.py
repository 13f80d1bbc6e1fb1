"""A bank as WebDataset shards, for other frameworks."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..augment.pixels import to_pil
from ..data.images import progress_bar
from ..io.atomic import is_empty, replace_directory
from .reader import Bank

__all__ = ["export_bank"]

_PER_SHARD = 10_000  # variants


def export_bank(
    bank: Bank | str | Path, out: str | Path, *, progress: bool = True
) -> dict[str, int]:
    """Write the variants as PNG files in WebDataset shards, all of them or none.

    Variant 1 of image 12 is 00000012-1.png, beside its label in 00000012-1.cls, in one of
    train-000000.tar, ... Variants that equal their image are left out. `_info.json` is for timm's
    `wds/` reader, and `classnames.txt` holds the names in label order.

    Args:
        bank: The bank or its directory.
        out: The folder, which must be empty or missing.
        progress: Show a progress bar.

    Returns:
        The number of variants of each class.

    Raises:
        ValueError: It is a residual bank, which holds no images.
        FileExistsError: `out` is not empty.
    """
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    path = Path(out).expanduser()
    if path.exists() and not (path.is_dir() and is_empty(path)):
        raise FileExistsError(f"{path} is not empty; choose another directory")
    if bank.manifest.residual:
        raise ValueError("a residual bank holds no images: export one made without --residual")
    classes = list(bank.manifest.classes) or [str(y) for y in range(int(bank.labels.max()) + 1)]
    counts = np.bincount(bank.labels, bank.applied.sum(1), len(classes)).astype(int).tolist()
    total, files = sum(counts), _files(bank, progress)
    lengths = [min(_PER_SHARD, total - start) for start in range(0, total, _PER_SHARD)]
    names = [f"train-{number:06}.tar" for number in range(len(lengths))]
    split = {"name": "train", "num_samples": total, "filenames": names, "shard_lengths": lengths}
    with replace_directory(path, sync=False) as staged:
        for name in names:
            with tarfile.open(staged / name, "w") as tar:
                for member, data in itertools.islice(files, 2 * _PER_SHARD):
                    entry = tarfile.TarInfo(member)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        (staged / "classnames.txt").write_text("".join(f"{name}\n" for name in classes), "utf-8")
        info = json.dumps({"splits": {"train": split}}, indent=2)
        (staged / "_info.json").write_text(info + "\n")
    return dict(zip(classes, counts, strict=True))


def _files(bank: Bank, progress: bool) -> Iterator[tuple[str, bytes]]:
    """Name and content of the two files of each variant that differs from its image."""
    with progress_bar(len(bank), "export", "image", shown=progress) as bar:
        for row in range(len(bank)):
            for number in bank.applied[row].nonzero()[0].tolist():
                png = io.BytesIO()
                to_pil(bank.variant(row, number)).save(png, "PNG")
                yield f"{row:08}-{number}.png", png.getvalue()
                yield f"{row:08}-{number}.cls", str(int(bank.labels[row])).encode()
            bar.update()
