"""The offline bank: variants made once and stored, so that training costs nothing more."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from ..augment.transform import NFAugment
from ..data.checks import check_same_classes
from ..data.classes import dataset_classes
from ..io.atomic import replace_directory
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
    labels_of,
    labels_sha256,
    load_probes,
    probe_indices,
    thumbnails,
    to_uint8,
)

__all__ = ["Bank", "BankDataset", "bank_bytes", "export_bank", "make_bank"]

_SYNC_EVERY = 2**26  # bytes of variants between two notes of how far it is
_ALIKE = 2  # grey levels of a thumbnail: another release of a decoder may round otherwise


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
    **settings: Any,
) -> Bank:
    """Make `variants` augmented copies of every image and store them.

    A bank that was interrupted is continued by the same call, and comes out bit for bit as if it
    had not been: every batch is drawn from `seed` and its number alone. The size on disk is
    `bank_bytes`.

    Args:
        checkpoint: the flow, fitted to the classes of the data.
        dataset: (image, label) with images before any transform, PIL or uint8 (C, H, W), all of
            one size. A `BankDataset` around the same data then swaps images for variants.
        out: directory of the bank.
        workers: processes that decode images.
        overwrite: begin anew where `out` holds another bank.
        settings: of `NFAugment`: alpha, mix, partners, strength, noise, axes, gate, keep.

    Raises:
        ValueError: classes or their order differ, images differ in size, or `out` holds a bank that
            was made otherwise, or of other images.
        FileExistsError: `out` holds something else.
        OSError: there is not enough space.
    """
    if variants < 1 or batch_size < 1:
        raise ValueError(
            f"variants and batch_size must be at least 1; got {variants} and {batch_size}"
        )
    path = Path(out)
    nfa = NFAugment(checkpoint, p=1.0, **settings)
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise ValueError("the data set is empty: there is nothing to make variants of")
    wanted = _plan(nfa, checkpoint, dataset, variants, seed, batch_size, settings)
    begun = _continued(path, wanted, dataset, overwrite)
    if begun is None:
        begun = _begin(path, wanted, dataset)
    if not begun.complete:
        _fill(path, begun, nfa, checkpoint.flow.device, dataset, workers, progress)
    return Bank(path)


def _plan(
    nfa: NFAugment,
    checkpoint: Any,
    dataset: Any,
    variants: int,
    seed: int,
    batch_size: int,
    settings: dict[str, Any],
) -> Manifest:
    names = dataset_classes(dataset)
    if names and nfa.class_names:
        check_same_classes(names, nfa.class_names)
    channels = checkpoint.flow.codec.channels
    first = to_uint8(dataset[0][0], channels)
    labels = labels_of(dataset)
    if labels is None:
        labels = np.asarray([int(dataset[i][1]) for i in range(len(dataset))], dtype=np.int64)
    fingerprint = getattr(dataset, "fingerprint", None)
    height, width = first.shape[1:]
    return Manifest(
        images=len(dataset),
        variants=variants,
        shape=(channels, height, width),
        classes=tuple(names or nfa.class_names),
        labels_sha256=labels_sha256(labels),
        source=fingerprint() if callable(fingerprint) else "",
        flow_sha256=_weights_sha256(checkpoint, gaussians=nfa.keep == "consistent"),
        seed=seed,
        batch_size=batch_size,
        parameters={
            "alpha": nfa.alpha,
            "mix": nfa.mix,
            "partners": nfa.partners,
            "strength": nfa.strength,
            "noise": nfa.noise,
            "axes": nfa.axes,
            "gate": nfa.gate,
            "keep": nfa.keep,
        },
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


def _continued(path: Path, wanted: Manifest, dataset: Any, overwrite: bool) -> Manifest | None:
    """The manifest of a bank to go on with, None to begin one."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    if not path.is_dir() or not (path / MANIFEST).is_file():
        raise FileExistsError(f"{path} holds something that is no bank; choose another place")
    if overwrite:
        return None
    found = Manifest.load(path)
    ours, theirs = wanted.settings(), found.settings()
    if differing := [name for name in ours if ours[name] != theirs[name]]:
        shown = ", ".join(f"{n} ({theirs[n]!r:.40} there, {ours[n]!r:.40} now)" for n in differing)
        raise ValueError(
            f"{path} holds a bank that was made otherwise: {shown}. Choose another place, or pass "
            "overwrite=True (--overwrite)"
        )
    probes = _probes(dataset, wanted)
    apart = np.abs(load_probes(path, wanted.images).astype(np.int16) - probes).max((1, 2))
    if different := int((apart > _ALIKE).sum()):
        raise ValueError(
            f"{path} holds a bank of other images, or in another order: of {len(probes)} that were "
            f"compared {different} differ. Choose another place, or pass overwrite=True "
            "(--overwrite)"
        )
    return found


def _probes(dataset: Any, made: Manifest) -> np.ndarray:
    """Thumbnails by which the images are known again."""
    rows = probe_indices(made.images)
    return thumbnails([to_uint8(dataset[i][0], made.shape[0]) for i in rows])


def _begin(path: Path, made: Manifest, dataset: Any) -> Manifest:
    path.parent.mkdir(parents=True, exist_ok=True)
    need = bank_bytes(made.images, made.variants, made.shape)
    free = shutil.disk_usage(path if path.exists() else path.parent).free
    if need > free:
        raise OSError(
            f"the bank needs {need / 2**20:.0f} MiB, {path} has {free / 2**20:.0f} MiB free: make "
            "fewer variants, or smaller images"
        )
    labels = labels_of(dataset)
    if labels is None:
        labels = np.asarray([int(dataset[i][1]) for i in range(made.images)], dtype=np.int64)
    with replace_directory(path, last=MANIFEST) as staged:  # a kill leaves all of it or nothing
        np.save(staged / PROBES, _probes(dataset, made))
        np.save(staged / LABELS, labels)
        for name, shape, dtype in _arrays(made):
            with (staged / name).open("wb") as file:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
        made.save(staged)
    return made


def _arrays(made: Manifest) -> tuple[tuple[str, tuple[int, ...], Any], ...]:
    channels, height, width = made.shape
    rows = (made.images, made.variants)
    return (
        (VARIANTS, (*rows, height, width, channels), np.uint8),
        (APPLIED, rows, np.bool_),
    )


def _fill(
    path: Path,
    made: Manifest,
    nfa: NFAugment,
    device: torch.device,
    dataset: Any,
    workers: int,
    progress: bool,
) -> None:
    labels = torch.from_numpy(np.load(path / LABELS))
    stats = dict(made.stats)
    with _Appender(path, made) as files:
        bar = tqdm(
            total=made.images, initial=made.done, desc="bank", unit="image", disable=not progress
        )
        with bar:
            for start, images in _batches(dataset, made, workers):
                own = labels[start : start + len(images)].to(device)
                new, applied = _variants(nfa, images.to(device), own, made, start)
                files.append(new, applied)
                for name, count in nfa.stats().items():
                    stats[name] = stats.get(name, 0) + count
                nfa.reset_stats()
                bar.update(len(images))
                done = start + len(images)
                if files.unsynced >= _SYNC_EVERY or done == made.images:
                    files.sync()
                    finished = done == made.images
                    dataclasses.replace(made, done=done, complete=finished, stats=stats).save(path)


def _batches(dataset: Any, made: Manifest, workers: int) -> Iterator[tuple[int, Tensor]]:
    rest = Subset(dataset, range(made.done, made.images))
    loader = DataLoader(
        rest,
        batch_size=made.batch_size,
        num_workers=workers,
        collate_fn=_Stack(made.shape),
        generator=torch.Generator(),  # its own: a loader draws a seed from torch's otherwise
    )
    start = made.done
    for images in loader:
        yield start, images
        start += len(images)


class _Stack:
    """Collate to uint8 images of one shape; a class, so that spawned workers can have it."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def __call__(self, batch: list[Any]) -> Tensor:
        images = [to_uint8(item[0], self.shape[0]) for item in batch]
        for image in images:
            if tuple(image.shape) != self.shape:
                raise ValueError(
                    f"images of a bank have one shape: the first has {self.shape}, another "
                    f"{tuple(image.shape)}. Open the data with image_size= (--image-size)"
                )
        return torch.stack(images)


def _variants(
    nfa: NFAugment, images: Tensor, labels: Tensor, made: Manifest, start: int
) -> tuple[Tensor, Tensor]:
    """uint8 (B, V, H, W, C) and bool (B, V) on the CPU."""
    new, applied = [], []
    for number in range(made.variants):
        # A hash: torch's CPU generator looks at the lower 32 bits of a seed only.
        key = f"{made.seed} {number} {start}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:4], "big")
        nfa.generator = torch.Generator().manual_seed(seed)
        result, _ = nfa(images, labels)
        new.append(result.permute(0, 2, 3, 1))
        applied.append((result != images).flatten(1).any(1))
    return torch.stack(new, 1).cpu(), torch.stack(applied, 1).cpu()


class _Appender:
    """Appends to the array files; what a killed run wrote after its last note is cut off."""

    def __init__(self, path: Path, made: Manifest) -> None:
        self._files: list[IO[bytes]] = []
        self._stack = contextlib.ExitStack()
        self.unsynced = 0
        with self._stack:
            for name, shape, dtype in _arrays(made):
                file = self._stack.enter_context((path / name).open("r+b"))
                _seek_end(file, path / name, made.done * math.prod(shape[1:]), np.dtype(dtype))
                self._files.append(file)
            self._stack = self._stack.pop_all()

    def append(self, *arrays: Tensor) -> None:
        for file, array in zip(self._files, arrays, strict=True):
            data = array.contiguous().numpy()
            file.write(data.tobytes())
            self.unsynced += data.nbytes

    def sync(self) -> None:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        self.unsynced = 0

    def __enter__(self) -> _Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _seek_end(file: IO[bytes], name: Path, values: int, dtype: np.dtype) -> None:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    end = file.tell() + values * dtype.itemsize
    if os.fstat(file.fileno()).st_size < end:
        raise ValueError(
            f"{name} is shorter than its manifest says; make the bank anew (overwrite=True, "
            "--overwrite)"
        )
    file.truncate(end)
    file.seek(end)
