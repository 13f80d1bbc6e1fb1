"""make_bank: compute and store augmented variants of a data set."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..augment.params import SharedGenerator, seed_of
from ..augment.settings import MixSettings
from ..augment.transform import NFAugment
from ..checkpoint.checkpoint import load
from ..data.batches import LoaderBatches
from ..data.checks import check_class_names
from ..data.classes import dataset_classes
from ..data.images import progress_bar
from ..io.atomic import is_empty, replace_directory
from ..io.lock import lock_output
from .format import (
    HASH_BYTES,
    HASHES,
    LABELS,
    MANIFEST,
    PATHS,
    RESIDUALS,
    STEPS,
    VARIANTS,
    Manifest,
    array_files,
    array_sha256,
    differences,
    read_array,
)  # fmt: skip
from .reader import Bank
from .residual import low_resolution, quantize
from .shards import Shard
from .source import Source

__all__ = ["make_bank"]

_SAVE_SECONDS = 5.0  # time between two updates of the manifest's progress


def make_bank(
    checkpoint: Any,
    dataset: Dataset[Any],
    out: str | Path,
    *,
    variants: int = 4,
    residual: bool = False,
    shard: Shard | tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    settings: MixSettings | None = None,
    **changes: Any,
) -> Bank:
    """Make and store augmented variants of every image of a data set.

    The same call continues an interrupted bank: each batch is drawn from `seed` and the batch's
    position alone. Several processes can therefore make one shard each of the same bank, which
    `merge_bank` then joins. The results are bit for bit those of one process if all run on the same
    kind of device with the same version of torch and the same number of threads, which decide
    how sums are rounded. `bank_bytes` gives the size on disk.

    Example:
        >>> import tempfile
        >>> import torch
        >>> import nfaug.bank
        >>> images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
        >>> data = torch.utils.data.TensorDataset(images, torch.arange(20) % 10)
        >>> bank = nfaug.bank.make_bank(
        ...     nfaug.load("builtin:rgb32"), data, tempfile.mkdtemp(), variants=2, progress=False
        ... )
        >>> bank.variants.shape
        (20, 2, 32, 32, 3)

    Args:
        checkpoint: A checkpoint that is fitted to the classes of the data, its name or its
            directory.
        dataset: Data set of (image, label) with untransformed images, PIL or uint8 (C, H, W). They
            must have one size, except for a residual bank.
        out: Directory of the bank.
        variants: Number of variants per image.
        residual: Whether to store the change of each image at the flow's size, for images that are
            larger than the flow's: 3 kB for a flow of 32 pixels, whatever the size of the images
            (see `nfaug.bank.residual`).
        shard: (i, n) to make part i of n, counted from 0, in a folder of its own in `out`.
        seed: Seed of the variants.
        batch_size: Number of images at a time.
        workers: Number of processes that decode images; they change no result.
        overwrite: Replace a different bank in `out`.
        progress: Show a progress bar.
        settings: Settings of `NFAugment`; `p` is always 1.
        changes: Single settings, which override `settings`.

    Returns:
        The bank, or the bank of the shard's images.

    Raises:
        ValueError: Classes or their order differ, images differ in size, there are fewer batches
            than shards, a number is out of range, or `out` holds a bank with other settings or of
            other images.
        FileExistsError: `out` holds something other than a bank, or other shards.
        OSError: Another process writes to `out`, or the disk is full.
    """
    part = Shard(*shard) if isinstance(shard, tuple) else shard
    path = Path(out).expanduser()
    folder = path if part is None else part.folder(path)
    with lock_output(folder, every_rank=True):  # `torchrun` may call this on every rank
        checkpoint = load(checkpoint) if isinstance(checkpoint, (str, Path)) else checkpoint
        mixing = replace(settings or MixSettings(), **{**changes, "p": 1.0})
        nfa = NFAugment(checkpoint, settings=mixing)
        source = Source(dataset, checkpoint.flow.codec.channels)
        _check(nfa, source, variants, batch_size)
        codec = checkpoint.flow.codec
        height, width = codec.image_size if residual else source.read(0)[0].shape[1:]
        weights = {**checkpoint.flow.state_dict(), **checkpoint.pca.tensors()}
        planned = Manifest(
            images=len(source),
            variants=variants,
            shape=(codec.channels, height, width),
            classes=tuple(dataset_classes(dataset) or nfa.class_names),
            data_sha256=source.sha256(),
            flow_sha256=_weights_sha256(weights),
            seed=seed,
            batch_size=batch_size,
            parameters=nfa.settings,
            residual=residual,
            total=len(source),
        )
        if part is not None:
            part.check_beside(path, planned)
            if overwrite:
                (path / MANIFEST).unlink(missing_ok=True)  # of the merged bank
            rows = part.rows(planned.total, batch_size)
            planned = replace(planned, images=len(rows), first=rows.start)
        made = _unfinished(folder, planned, source, overwrite)
        if made is None:
            made = _create(folder, planned, source)
        if not made.complete:
            _fill(folder, made, nfa, source, workers, progress)
    return Bank(folder)


def _check(nfa: NFAugment, source: Source, variants: int, batch_size: int) -> None:
    if len(source) < 1 or variants < 1 or batch_size < 1:
        raise ValueError(
            "the data set must not be empty, and variants and batch_size must be at least 1; got "
            f"{len(source)} images, {variants} and {batch_size}"
        )
    names = dataset_classes(source.dataset)
    if names and nfa.class_names:
        check_class_names(names, nfa.class_names)


def _weights_sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _rows(values: Any, made: Manifest) -> Any:
    """Those of a bank's images, of values of all images."""
    return values[made.first : made.first + made.images]


def _unfinished(path: Path, planned: Manifest, source: Source, overwrite: bool) -> Manifest | None:
    """The manifest of an existing bank that matches the plan; None to create a new one."""
    if not path.exists() or (path.is_dir() and is_empty(path)):
        return None
    if not (path / MANIFEST).is_file():
        raise FileExistsError(f"{path} holds something other than a bank; choose another directory")
    if overwrite:
        return None
    found = Manifest.load(path)
    if found.shards:
        raise ValueError(f"{path} holds a bank in shards; continue one with shard= (--shard i/n)")
    shown = differences(found, planned)
    hashes = read_array(path / HASHES, (found.images, HASH_BYTES), np.uint8)
    for row in range(0 if shown else found.done):
        if (source.digest(found.first + row) != hashes[row]).any():
            shown = f"image {found.first + row} is another"
            break
    if shown:
        raise ValueError(
            f"{path} holds a bank of other images or settings: {shown}. Choose another directory, "
            "or pass overwrite=True (--overwrite)"
        )
    return found


def _create(path: Path, planned: Manifest, source: Source) -> Manifest:
    """Make the folder of a bank, with empty arrays, labels and paths: all of it or nothing."""
    labels = _rows(source.labels, planned)
    made = replace(planned, labels_sha256=array_sha256(labels))
    arrays = array_files(made)
    with replace_directory(path) as staged:
        np.save(staged / LABELS, labels)
        paths = _rows(source.paths or [""] * made.total, made)
        np.save(staged / PATHS, [os.fsencode(name) for name in paths])
        for name, shape, dtype in arrays:
            np.lib.format.open_memmap(staged / name, "w+", dtype, shape)
        made.save(staged)
    for name in {RESIDUALS, STEPS, VARIANTS} - {name for name, *_ in arrays}:
        (path / name).unlink(missing_ok=True)  # of a bank of the other kind
    return made


def _fill(
    path: Path, made: Manifest, nfa: NFAugment, source: Source, workers: int, progress: bool
) -> None:
    """Make the rows that are missing. The manifest says how many are safely on the disk."""
    labels = torch.from_numpy(_rows(source.labels, made))
    loader = LoaderBatches(_Images(source, made), labels, workers)
    rest = loader.iterate(torch.arange(made.done, made.images), made.batch_size)
    saved = time.monotonic()
    with progress_bar(made.images, "bank", "image", shown=progress, initial=made.done) as bar:
        try:
            for images, hashes in rest:
                own = labels[made.done : made.done + len(images)]
                _write(path, made, *_variants(nfa, images, own, made), hashes)
                stats = {name: made.stats.get(name, 0) + n for name, n in nfa.stats().items()}
                nfa.reset_stats()
                made = replace(made, done=made.done + len(images), stats=stats)
                bar.update(len(images))
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    _save(path, made)
                    saved = time.monotonic()
        finally:  # also after Ctrl-C
            _save(path, made)


def _write(path: Path, made: Manifest, *arrays: Tensor) -> None:
    """Write the rows that follow those that are done."""
    for (name, shape, dtype), array in zip(array_files(made), arrays, strict=True):
        stored = read_array(path / name, shape, dtype)
        with (path / name).open("r+b") as file:
            file.seek(stored.offset + stored[: made.done].nbytes)
            file.write(array.contiguous().numpy().tobytes())


def _save(path: Path, made: Manifest) -> None:
    """Record the progress, once all that is written has reached the disk."""
    for name, *_ in array_files(made):
        with (path / name).open("r+b") as file:
            os.fsync(file.fileno())
    if made.complete:
        hashes = read_array(path / HASHES, (made.images, HASH_BYTES), np.uint8)
        made = replace(made, hashes_sha256=array_sha256(hashes))
    made.save(path)


class _Images(Dataset[tuple[Tensor, Tensor]]):
    """The images of a bank at its size, with their hashes."""

    def __init__(self, source: Source, made: Manifest) -> None:
        self.source, self.made = source, made

    def __len__(self) -> int:
        return self.made.images

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        index, made = self.made.first + row, self.made
        image, digest = self.source.read(index)
        if not made.residual and tuple(image.shape) != made.shape:
            raise ValueError(
                f"images of a bank must have one shape; got {made.shape} and {tuple(image.shape)}. "
                "Open the data with image_size= (--image-size), or make a residual bank "
                "(--residual)"
            )
        image = low_resolution(image, made.shape) if made.residual else image
        return image, torch.from_numpy(digest.copy())


def _variants(nfa: NFAugment, images: Tensor, labels: Tensor, made: Manifest) -> tuple[Tensor, ...]:
    """The next rows of the files of `array_files`, but for the hashes."""
    images, labels = images.to(nfa.engine.device), labels.to(nfa.engine.device)
    images = images.float() / 255 if made.residual else images
    found = torch.stack([*nfa.variants(images, labels, _generators(made))], 1)
    if not made.residual:
        applied = (found != images[:, None]).flatten(2).any(2)
        return found.permute(0, 1, 3, 4, 2).cpu(), applied.cpu()
    change = ((found - images[:, None]) * 255).permute(0, 1, 3, 4, 2).cpu()
    q, steps = quantize(change.flatten(0, 1))
    q, steps = q.view_as(change), steps.view(change.shape[:2])
    return q, steps.to(torch.uint16), (q != 0).flatten(2).any(2)


def _generators(made: Manifest) -> Iterator[torch.Generator]:
    """The generator of each variant of the next batch, by its position in the whole data set."""
    for number in range(made.variants):
        seed = seed_of(made.seed, number, made.first + made.done)
        yield SharedGenerator().manual_seed(seed)
