"""A bank as image files, in folders or in WebDataset shards, for other frameworks."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..augment.pixels import to_pil
from ..data.images import progress_bar
from ..io.atomic import replace_directory
from .dataset import check_same_data
from .format import to_uint8
from .reader import Bank

__all__ = ["export_bank"]

Write = Callable[[int, int, str, bytes], None]  # image, variant, class and PNG file


def export_bank(
    bank: Bank | str | Path,
    out: str | Path,
    *,
    dataset: Any = None,
    format: Literal["png", "wds"] = "png",
    per_shard: int = 10_000,
    progress: bool = True,
) -> dict[str, int]:
    """Write the variants as PNG files, in one folder per class or in WebDataset shards.

    Variant 1 of image 12 is CLASS/000012-1.png. Variants that equal their image are left out. The
    shards train-000000.tar, ... hold a .png and a .cls (the label) for each variant, beside
    `_info.json`, which timm's `wds/` reader needs, and `classnames.txt`.

    Args:
        bank: The bank or its directory.
        out: The folder, which must be empty or missing.
        dataset: The images of a residual bank, at the size to write, as in `BankDataset`.
        format: "png" for folders, "wds" for shards, which need the package webdataset.
        per_shard: The largest number of variants in a shard.
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
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} is not empty; choose another directory")
    channels = bank.manifest.shape[0]
    if channels not in (1, 3):
        raise ValueError(f"PNG files have 1 or 3 channels; the bank has {channels}")
    if bank.manifest.residual and dataset is None:
        raise ValueError("a residual bank has changes of images: pass dataset= (--data)")
    if bank.manifest.residual:
        check_same_data(dataset, bank)
    classes = list(bank.manifest.classes) or [str(y) for y in range(int(bank.labels.max()) + 1)]
    names = [_file_name(name) for name in classes]
    if len(set(names)) != len(names):
        names = [f"{label:05}-{name}" for label, name in enumerate(names)]
    written = dict.fromkeys(names, 0)
    bar = progress_bar(len(bank), "export", "image", shown=progress)
    with replace_directory(path, sync=False) as staged, bar:  # all files or none
        made = _folders(staged) if format == "png" else _shards(staged, bank, classes, per_shard)
        with made as write:
            for i in range(len(bank)):
                name, numbers = names[int(bank.labels[i])], bank.applied[i].nonzero()[0].tolist()
                pixels: np.ndarray | None = None
                if bank.manifest.residual and numbers:
                    pixels = to_uint8(dataset[i][0], channels).permute(1, 2, 0).numpy()
                for v in numbers:
                    file = io.BytesIO()
                    to_pil(bank.variant(i, v, pixels)).save(file, "PNG")
                    write(i, v, name, file.getvalue())
                    written[name] += 1
                bar.update()
    return written


@contextlib.contextmanager
def _folders(path: Path) -> Iterator[Write]:
    def write(image: int, variant: int, name: str, data: bytes) -> None:
        (path / name).mkdir(exist_ok=True)
        (path / name / f"{image:06}-{variant}.png").write_bytes(data)

    yield write


@contextlib.contextmanager
def _shards(path: Path, bank: Bank, classes: list[str], per_shard: int) -> Iterator[Write]:
    try:
        from webdataset import ShardWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("shards need webdataset: pip install 'nfaug[wds]'") from error
    lengths: list[int] = []
    pattern = str(path / "train-%06d.tar")
    # No limit of bytes: `_info.json` names a shard for each `per_shard` variants.
    limits = {"maxcount": per_shard, "maxsize": math.inf}
    with ShardWriter(pattern, **limits, verbose=0, mtime=0) as shards:

        def write(image: int, variant: int, name: str, data: bytes) -> None:
            label = str(bank.labels[image]).encode()
            shards.write({"__key__": f"{image:08}-{variant}", "png": data, "cls": label})
            if not lengths or lengths[-1] == per_shard:
                lengths.append(0)
            lengths[-1] += 1

        yield write
    (path / "classnames.txt").write_text("".join(f"{name}\n" for name in classes), "utf-8")
    files = [f"train-{number:06}.tar" for number in range(len(lengths))]
    split = {"name": "train", "num_samples": sum(lengths)}
    split |= {"filenames": files, "shard_lengths": lengths}
    (path / "_info.json").write_text(json.dumps({"splits": {"train": split}}, indent=2) + "\n")


def _file_name(name: str) -> str:
    """A safe folder name for a class name, which may come from an untrusted file."""
    safe = "".join(c if c.isalnum() or c in " -_.,()+" else "_" for c in name).strip(" .")
    return safe[:100] or "_"
