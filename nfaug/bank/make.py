"""make_bank: compute and store augmented variants of a data set."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..augment.params import seed_of
from ..augment.settings import MixKeywords, MixSettings
from ..augment.transform import NFAugment
from ..data.checks import check_class_names
from ..data.classes import dataset_classes, labels_of
from ..data.images import progress_bar
from ..io.atomic import is_empty, replace_directory
from ..io.lock import lock_output
from .dataset import BankDataset
from .export import export_bank
from .format import (
    APPLIED,
    LABELS,
    MANIFEST,
    PROBES,
    VARIANTS,
    Bank,
    Manifest,
    bank_bytes,
    labels_sha256,
    load_probes,
    probe_indices,
    thumbnails,
    to_uint8,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Bank", "BankDataset", "bank_bytes", "export_bank", "make_bank"]

_SAVE_SECONDS = 5.0  # time between two updates of the manifest's progress
_TOLERANCE = 2  # grey levels of a thumbnail: image decoders may round differently


def make_bank(
    checkpoint: Any,
    dataset: Dataset[Any],
    out: str | Path,
    *,
    variants: int = 4,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    settings: MixSettings | None = None,
    **changes: Unpack[MixKeywords],
) -> Bank:
    """Make and store augmented variants of every image of a data set.

    The same call continues an interrupted bank, with bit-identical results: each batch is drawn
    from `seed` and the batch's position alone. `bank_bytes` gives the size on disk.

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
        checkpoint: A checkpoint that is fitted to the classes of the data.
        dataset: Data set of (image, label) with untransformed images of one size, PIL or uint8
            (C, H, W).
        out: Directory of the bank.
        variants: Number of variants per image.
        seed: Seed of the variants.
        batch_size: Number of images at a time.
        workers: Number of processes that decode images.
        overwrite: Replace a different bank in `out`.
        progress: Show a progress bar.
        settings: Settings of `NFAugment`; `p` is always 1.
        changes: Single settings, which override `settings`.

    Raises:
        ValueError: Classes or their order differ, images differ in size, or `out` holds a bank
            with other settings or of other images.
        FileExistsError: `out` holds something other than a bank.
        OSError: Another process writes to `out`, or there is not enough disk space.
    """
    if variants < 1 or batch_size < 1:
        raise ValueError(f"variants and batch_size must be >= 1; got {variants} and {batch_size}")
    path = Path(out)
    nfa = NFAugment(checkpoint, settings=MixSettings.merge(settings, {**changes, "p": 1.0}))
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise ValueError("the data set is empty")
    labels = labels_of(dataset)
    planned = _plan(nfa, checkpoint, dataset, labels, variants, seed, batch_size)
    with lock_output(path):
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
    labels: np.ndarray,
    variants: int,
    seed: int,
    batch_size: int,
) -> Manifest:
    names = dataset_classes(dataset)
    if names and nfa.class_names:
        check_class_names(names, nfa.class_names)
    channels = checkpoint.flow.codec.channels
    first = to_uint8(dataset[0][0], channels)
    fingerprint = getattr(dataset, "fingerprint", None)
    height, width = first.shape[1:]
    return Manifest(
        images=len(dataset),
        variants=variants,
        shape=(channels, height, width),
        classes=tuple(names or nfa.class_names),
        labels_sha256=labels_sha256(labels),
        source=fingerprint() if callable(fingerprint) else "",
        flow_sha256=_weights_sha256(checkpoint, gaussians=nfa.settings.keep == "consistent"),
        seed=seed,
        batch_size=batch_size,
        parameters=nfa.settings,
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
    return thumbnails([to_uint8(dataset[i][0], made.shape[0]) for i in rows])


def _create(path: Path, made: Manifest, dataset: Any, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    need = bank_bytes(made.images, made.variants, made.shape)
    free = shutil.disk_usage(path if path.exists() else path.parent).free
    if need > free:
        raise OSError(
            f"the bank needs {need / 2**20:.0f} MiB and {path} has {free / 2**20:.0f} MiB free: "
            "use fewer variants or smaller images"
        )
    with replace_directory(path, last=MANIFEST) as staged:  # all files or none
        np.save(staged / PROBES, _probes(dataset, made))
        np.save(staged / LABELS, labels)
        for name, shape, dtype in _arrays(made):
            with (staged / name).open("wb") as file:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
        made.save(staged)


def _arrays(made: Manifest) -> tuple[tuple[str, tuple[int, ...], Any], ...]:
    channels, height, width = made.shape
    rows = (made.images, made.variants)
    return (
        (VARIANTS, (*rows, height, width, channels), np.uint8),
        (APPLIED, rows, np.bool_),
    )


def _fill(
    path: Path, made: Manifest, nfa: NFAugment, dataset: Any, workers: int, progress: bool
) -> None:
    device = nfa.engine.device
    labels = torch.from_numpy(np.load(path / LABELS))
    bar = progress_bar(made.images, "bank", "image", shown=progress, initial=made.done)
    with bar, _appending(path, made) as files:
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
    rest = Subset(dataset, range(made.done, made.images))
    loader = DataLoader(
        rest,
        batch_size=made.batch_size,
        num_workers=workers,
        collate_fn=functools.partial(_stack, shape=made.shape),  # can be pickled
        generator=torch.Generator(),  # by default a loader draws from torch's generator
    )
    start = made.done
    for images in loader:
        yield start, images
        start += len(images)


def _stack(batch: list[Any], shape: tuple[int, int, int]) -> Tensor:
    """Collate items with uint8 images of one shape."""
    images = [to_uint8(item[0], shape[0]) for item in batch]
    for image in images:
        if tuple(image.shape) != shape:
            raise ValueError(
                f"images of a bank must have one shape; got {shape} and {tuple(image.shape)}. Open "
                "the data with image_size= (--image-size)"
            )
    return torch.stack(images)


def _variants(
    nfa: NFAugment, images: Tensor, labels: Tensor, made: Manifest, start: int
) -> tuple[Tensor, Tensor]:
    """Variants, uint8 (B, V, H, W, C), and whether they differ from the image, bool (B, V)."""
    new, applied = [], []
    for result in nfa.variants(images, labels, _generators(made, start)):
        new.append(result.permute(0, 2, 3, 1))
        applied.append((result != images).flatten(1).any(1))
    return torch.stack(new, 1).cpu(), torch.stack(applied, 1).cpu()


def _generators(made: Manifest, start: int) -> Iterator[torch.Generator]:
    """The generator of each variant of the batch that begins at `start`."""
    for number in range(made.variants):
        yield torch.Generator().manual_seed(seed_of(made.seed, number, start))


@contextlib.contextmanager
def _appending(path: Path, made: Manifest) -> Iterator[list[IO[bytes]]]:
    """The array files at the end of the manifest's progress; what is beyond it is removed."""
    with contextlib.ExitStack() as stack:
        files: list[IO[bytes]] = []
        for name, shape, dtype in _arrays(made):
            files.append(stack.enter_context((path / name).open("r+b")))
            values = made.done * math.prod(shape[1:])
            _seek_end(files[-1], path / name, values, np.dtype(dtype))
        yield files


def _seek_end(file: IO[bytes], name: Path, values: int, dtype: np.dtype) -> None:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    end = file.tell() + values * dtype.itemsize
    if os.fstat(file.fileno()).st_size < end:
        raise ValueError(
            f"{name} is shorter than its manifest says; replace the bank with overwrite=True "
            "(--overwrite)"
        )
    file.truncate(end)
    file.seek(end)
