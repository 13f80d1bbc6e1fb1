"""make_bank: compute and store augmented variants of a data set."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..augment.params import SharedGenerator, seed_of
from ..augment.settings import MixSettings
from ..augment.transform import NFAugment
from ..checkpoint.checkpoint import load
from ..data.batches import ErrorsAsItems
from ..data.checks import check_class_names
from ..data.classes import dataset_classes, labels_of
from ..data.images import progress_bar
from ..io.atomic import is_empty, replace_directory
from ..io.lock import lock_output
from .dataset import BankDataset
from .export import export_bank
from .format import (
    LABELS,
    MANIFEST,
    PROBES,
    RESIDUALS,
    STEPS,
    VARIANTS,
    Manifest,
    appending,
    array_files,
    bank_bytes,
    labels_sha256,
    load_probes,
    probe_indices,
    thumbnails,
    to_uint8,
)
from .reader import Bank
from .residual import low_resolution, quantize
from .shards import Shard, merge_bank

__all__ = ["Bank", "BankDataset", "bank_bytes", "export_bank", "make_bank", "merge_bank"]

_SAVE_SECONDS = 5.0  # time between two updates of the manifest's progress
_TOLERANCE = 2  # grey levels of a thumbnail: image decoders may round differently


def make_bank(
    checkpoint: Any,
    dataset: Dataset[Any],
    out: str | Path,
    *,
    variants: int = 4,
    residual: bool = False,
    shard: tuple[int, int] | None = None,
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
        OSError: Another process writes to `out`, or there is not enough disk space.
    """
    if variants < 1 or batch_size < 1:
        raise ValueError(f"variants and batch_size must be >= 1; got {variants} and {batch_size}")
    if workers < 0:
        raise ValueError(f"workers must be >= 0; got {workers}")
    path = Path(out).expanduser()
    if isinstance(checkpoint, (str, Path)):
        checkpoint = load(checkpoint)
    settings = dataclasses.replace(settings or MixSettings(), **{**changes, "p": 1.0})
    nfa = NFAugment(checkpoint, settings=settings)
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise ValueError("the data set is empty")
    planned = _plan(nfa, checkpoint, dataset, variants, seed, batch_size, residual)
    labels, part = labels_of(dataset), range(planned.images)
    if shard is not None:
        own = Shard(*shard)
        own.check_folder(path)
        if overwrite:
            (path / MANIFEST).unlink(missing_ok=True)
        path, part = own.folder(path), own.rows(planned.images, batch_size)
        dataset = Subset(dataset, part)
    labels = labels[part.start : part.stop]
    planned = dataclasses.replace(
        planned, images=len(part), first=part.start, labels_sha256=labels_sha256(labels)
    )
    with lock_output(path, every_rank=True):  # `torchrun` may call this on every rank
        manifest = _unfinished(path, planned, dataset, overwrite)
        if manifest is None:
            _create(path, planned, dataset, labels)
        if not (manifest or planned).complete:
            _fill(path, manifest or planned, nfa, dataset, workers, progress)
    return Bank(path)


def _plan(
    nfa: NFAugment,
    checkpoint: Any,
    dataset: Any,
    variants: int,
    seed: int,
    batch_size: int,
    residual: bool,
) -> Manifest:
    """The manifest of a bank of the whole data set, without the hash of its labels."""
    names = dataset_classes(dataset)
    if names and nfa.class_names:
        check_class_names(names, nfa.class_names)
    codec = checkpoint.flow.codec
    size = to_uint8(dataset[0][0], codec.channels).shape[1:]
    height, width = codec.image_size if residual else size
    fingerprint = getattr(dataset, "fingerprint", None)
    return Manifest(
        images=len(dataset),
        variants=variants,
        shape=(codec.channels, height, width),
        classes=tuple(names or nfa.class_names),
        labels_sha256="",
        source=fingerprint() if callable(fingerprint) else "",
        flow_sha256=_weights_sha256(checkpoint, gaussians=False),
        seed=seed,
        batch_size=batch_size,
        parameters=nfa.settings,
        residual=residual,
        total=len(dataset),
    )


def _weights_sha256(checkpoint: Any, *, gaussians: bool) -> str:
    digest = hashlib.sha256()
    tensors = {**checkpoint.flow.state_dict(), **checkpoint.pca.tensors()}
    if gaussians:
        tensors |= {f"gaussians.{k}": v for k, v in checkpoint.gaussians.state_dict().items()}
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unfinished(path: Path, planned: Manifest, dataset: Any, overwrite: bool) -> Manifest | None:
    """The manifest of an existing bank that matches the plan; None to create a new one."""
    if not path.exists() or (path.is_dir() and is_empty(path)):
        return None
    if not path.is_dir() or not (path / MANIFEST).is_file():
        raise FileExistsError(f"{path} holds something other than a bank; choose another directory")
    if overwrite:
        return None
    found = Manifest.load(path)
    if found.shards:
        raise ValueError(f"{path} holds a bank in shards; continue one with shard= (--shard i/n)")
    ours, theirs = planned.settings(), found.settings()
    if differing := [name for name in ours if ours[name] != theirs[name]]:
        shown = ", ".join(f"{n} ({theirs[n]!r:.40} there, {ours[n]!r:.40} now)" for n in differing)
        raise ValueError(
            f"{path} holds a bank with other settings: {shown}. Choose another directory, or pass "
            "overwrite=True (--overwrite)"
        )
    probes = _probes(dataset, planned)
    difference = np.abs(load_probes(path, planned.images).astype(np.int16) - probes).max((1, 2))
    if different := int((difference > _TOLERANCE).sum()):
        raise ValueError(
            f"{path} holds a bank of other images, or of images in another order: {different} of "
            f"{len(probes)} compared images differ. Choose another directory, or pass "
            "overwrite=True (--overwrite)"
        )
    return found


def _probes(dataset: Any, made: Manifest) -> np.ndarray:
    """Thumbnails of some images, which identify the data set."""
    rows = probe_indices(made.images)
    images = [to_uint8(dataset[i][0], made.shape[0]) for i in rows]
    return thumbnails([low_resolution(x, made.shape) for x in images] if made.residual else images)


def _create(path: Path, made: Manifest, dataset: Any, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    need = bank_bytes(made.images, made.variants, made.shape, residual=made.residual)
    free = shutil.disk_usage(path if path.exists() else path.parent).free
    if need > free:
        raise OSError(
            f"the bank needs {need / 2**20:.0f} MiB and {path} has {free / 2**20:.0f} MiB free: "
            "use fewer variants or smaller images"
        )
    old = {RESIDUALS, STEPS, VARIANTS}  # of the other kind of bank
    with replace_directory(path, drop=frozenset(old), last=MANIFEST) as staged:  # all or none
        np.save(staged / PROBES, _probes(dataset, made))
        np.save(staged / LABELS, labels)
        for name, shape, dtype in array_files(made):
            with (staged / name).open("wb") as file:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
        made.save(staged)


def _fill(
    path: Path, made: Manifest, nfa: NFAugment, dataset: Any, workers: int, progress: bool
) -> None:
    device = nfa.engine.device
    labels = torch.from_numpy(np.load(path / LABELS))
    bar = progress_bar(made.images, "bank", "image", shown=progress, initial=made.done)
    with bar, appending(path, made) as files:
        saved = time.monotonic()

        def save() -> None:
            for file in files:
                file.flush()
                os.fsync(file.fileno())
            made.save(path)

        try:
            for start, images in _batches(dataset, made, workers):
                own = labels[start : start + len(images)].to(device)
                arrays = _variants(nfa, images.to(device), own, made, start)
                for file, array in zip(files, arrays, strict=True):
                    file.write(array.contiguous().numpy().tobytes())
                counts, done = nfa.stats(), start + len(images)
                nfa.reset_stats()
                made = dataclasses.replace(
                    made,
                    done=done,
                    complete=done == made.images,
                    stats={name: made.stats.get(name, 0) + n for name, n in counts.items()},
                )
                bar.update(len(images))
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    save()
                    saved = time.monotonic()
        finally:  # also after Ctrl-C
            save()


def _batches(dataset: Any, made: Manifest, workers: int) -> Iterator[tuple[int, Tensor]]:
    rest = ErrorsAsItems(Subset(dataset, range(made.done, made.images)))
    loader = DataLoader(
        rest,
        batch_size=made.batch_size,
        num_workers=workers,
        collate_fn=functools.partial(_stack, made=made),  # can be pickled
        generator=torch.Generator(),  # by default a loader draws from torch's generator
    )
    start = made.done
    for images in loader:
        if isinstance(images, Exception):
            raise images
        yield start, images
        start += len(images)


def _stack(batch: list[Any], made: Manifest) -> Tensor | Exception:
    """Collate items with uint8 images of one shape, or return what went wrong.

    An exception that a worker raises would have the worker's traceback as its message.
    """
    if failed := [item for item in batch if isinstance(item, Exception)]:
        return failed[0]
    shape = made.shape
    try:
        images = [to_uint8(item[0], shape[0]) for item in batch]
        if made.residual:
            return torch.stack([low_resolution(image, shape) for image in images])
    except ValueError as error:
        return error
    for image in images:
        if tuple(image.shape) != shape:
            return ValueError(
                f"images of a bank must have one shape; got {shape} and {tuple(image.shape)}. Open "
                "the data with image_size= (--image-size), or make a residual bank (--residual)"
            )
    return torch.stack(images)


def _variants(
    nfa: NFAugment, images: Tensor, labels: Tensor, made: Manifest, start: int
) -> tuple[Tensor, ...]:
    """The rows of a batch in the files of `array_files`."""
    generators = _generators(made, made.first + start)
    new, applied = [], []
    if made.residual:
        low = images.float() / 255
        for result in nfa.variants(low, labels, generators):
            new.append(((result - low) * 255).permute(0, 2, 3, 1))
        change = torch.stack(new, 1).cpu()
        q, steps = quantize(change.flatten(0, 1))
        q, steps = q.view_as(change), steps.view(change.shape[:2])
        return q, steps.to(torch.uint16), (q != 0).flatten(2).any(2)
    for result in nfa.variants(images, labels, generators):
        new.append(result.permute(0, 2, 3, 1))
        applied.append((result != images).flatten(1).any(1))
    return torch.stack(new, 1).cpu(), torch.stack(applied, 1).cpu()


def _generators(made: Manifest, start: int) -> Iterator[torch.Generator]:
    """The generator of each variant of the batch at a position of the whole data set."""
    for number in range(made.variants):
        yield SharedGenerator().manual_seed(seed_of(made.seed, number, start))
