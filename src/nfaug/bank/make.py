"""make_bank: compute and store augmented variants of a dataset."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..augment.config import MixConfig, MixSettings, one_config
from ..augment.transform import NFAugment, warn_of_order
from ..checkpoint.checkpoint import Checkpoint, load
from ..data.batches import Batched, Streamed, batches
from ..data.classes import dataset_classes
from ..data.images import Images, run_over
from ..data.open import open_dataset
from ..data.torch_datasets import check_dataset, images_of, part, split_transform
from ..io.atomic import replace_directory
from ..io.lock import lock_output
from ..io.numbers import as_size, check_seed, check_whole
from ..io.progress import progress_bar
from ..io.tensors import tensors_sha256
from ..run.seeds import SharedGenerator, seed_of
from .dataset import check_untransformed
from .format import MANIFEST, Manifest, array_files, array_sha256, read_array
from .reader import Bank, check_variants
from .shards import check_shards, shard_folder, shard_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SAVE_SECONDS = 5.0  # time between two updates of the manifest's progress


def make_bank(
    checkpoint: Any,
    data: Dataset[Any],
    out: str | Path,
    *,
    variants: int = 20,
    image_size: int | tuple[int, int] | None = None,
    shard: tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    overwrite: bool = False,
    progress: bool = True,
    config: MixConfig | None = None,
    **settings: Unpack[MixSettings],
) -> Bank:
    """Compute variants of every image of a dataset, and store them on disk.

    Each batch is drawn from `seed` and the batch's position alone. The same call therefore
    continues an interrupted bank, after a comparison of labels, paths and the contents of some
    images; `BankDataset` compares that of each. Several processes can make one shard each of the
    same bank, which `Bank(out)` joins. On CPUs the results are bit for bit those of one process if
    all have the same version of torch and the same number of threads, which decide how sums are
    rounded. On GPUs this has not been measured.

    Args:
        checkpoint: A checkpoint that is fitted to the classes of the data, its name or its
            folder.
        data: Dataset of (image, label), PIL images or uint8 tensors (C, H, W), or a path or a name
            that `nfaug.open_dataset` takes. Images must have one size, but for `image_size`. A
            dataset's `transform`, if it has one, is left out: `BankDataset` applies it to the
            variants.
        out: Folder of the bank.
        variants: Number of variants per image.
        image_size: (height, width), or the side of a square, to resize and crop every image to.
        shard: (i, n) to make part i of n, counted from 0, in a folder of its own in `out`.
        seed: Seed of the variants.
        batch_size: Number of images at a time.
        workers: Number of processes that decode images; they change no result.
        overwrite: Replace another bank in `out`. A folder without the manifest of a bank that can
            be read is not replaced, and files of other programs in the bank's folder stay.
        progress: Show a progress bar.
        config: Settings of `NFAugment`; `p` is always 1.
        settings: Fields of `MixConfig` as keywords, if `config` is not given.

    Returns:
        The bank, or the bank of the shard's images.

    Raises:
        ValueError: Classes or their order differ, images differ in size, a number is out of range,
            no image has a variant, `out` holds a bank with other settings or of other images, or
            its manifest is not that of a bank.
        FileExistsError: `out` holds something other than a bank, or other shards.
        OSError: Another process writes to `out`, or the disk is full.

    Example:
        >>> import tempfile
        >>> import nfaug.bank
        >>> digits = nfaug.open_dataset("digits", per_class=10)
        >>> checkpoint = nfaug.fit("builtin:pixels", digits, progress=False)
        >>> bank = nfaug.bank.make_bank(
        ...     checkpoint, digits, tempfile.mkdtemp(), variants=2, progress=False
        ... )
        >>> bank.manifest.variants
        2
    """
    config = one_config(config, settings)
    size = None if image_size is None else as_size(image_size)
    variants = check_whole("variants", variants)
    batch_size = check_whole("batch_size", batch_size)
    seed = check_seed(seed)
    workers = check_whole("workers", workers, 0)
    path = Path(out).expanduser()
    folder = path if shard is None else shard_folder(path, *shard)
    with lock_output(folder, every_rank=True):  # `torchrun` may call this on every rank
        if isinstance(checkpoint, (str, Path)):
            checkpoint = load(checkpoint, gaussians=False)
        nfa = NFAugment(checkpoint, config=replace(config, p=1.0))  # every image is augmented
        if isinstance(data, (str, Path)):
            data = open_dataset(data, progress=progress)
        data = _untransformed(data)
        nfa.check_classes(data, required=False)
        if dataset_classes(data) is None:
            warn_of_order(nfa)
        codec = checkpoint.flow.codec
        images = open_dataset(data, channels=codec.channels, image_size=size, progress=progress)
        planned = Manifest(
            images=len(images),
            variants=variants,
            shape=(codec.channels, *images.image_size),
            classes=tuple(dataset_classes(data) or nfa.classes),
            data_sha256=images.fingerprint(progress=progress),
            flow_sha256=_flow_sha256(checkpoint),
            seed=seed,
            batch_size=batch_size,
            parameters=nfa.config,
        )
        if shard is not None:
            check_shards(folder, planned)
            rows = shard_rows(*shard, len(images), batch_size)
            planned = replace(planned, images=len(rows), first=rows.start)
            images = images.subset(torch.arange(rows.start, rows.stop))
        labels = images.targets.numpy()
        planned = replace(planned, labels_sha256=array_sha256(labels))
        manifest = _stored_manifest(folder)
        if manifest is None or overwrite:
            _create(folder, planned, images)
            manifest = planned
        else:
            _check_continued(folder, manifest, planned)
        if manifest.done < manifest.images:
            source: Batched[_Identified] = _WithDigests(images)
            if workers:
                source = Streamed(source, images.targets, workers)
            _fill(folder, manifest, nfa, source, images.targets, progress)
    bank = Bank(folder)
    if shard is None:
        check_variants(bank)
    return bank


def _untransformed(data: Any) -> Any:
    """The dataset without its transform.

    Raises:
        ValueError: It is no dataset, has no image, or its first image is transformed otherwise.
    """
    check_dataset(data)
    plain, _ = split_transform(data)
    if not len(plain):
        raise ValueError("the dataset has no images")
    if images_of(plain) is None:
        check_untransformed(part(plain[0], "image"))
    return plain


def _flow_sha256(checkpoint: Checkpoint) -> str:
    """SHA-256 of the weights of flow and PCA."""
    assert checkpoint.pca is not None  # `NFAugment` refuses a checkpoint without
    return tensors_sha256(checkpoint.flow.state_dict() | checkpoint.pca.tensors())


def _stored_manifest(path: Path) -> Manifest | None:
    """The manifest of the bank in a folder; None if there is no folder, or it is empty.

    Raises:
        FileExistsError: The folder holds something else.
        ValueError: Its manifest is not that of a bank.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    if not (path / MANIFEST).is_file():
        raise FileExistsError(
            f"{path} holds something other than a bank in one piece: choose another folder, or "
            "continue a bank in shards with shard= (--shard i/n)"
        )
    return Manifest.load(path)


def _check_continued(path: Path, stored: Manifest, planned: Manifest) -> None:
    """Check that an interrupted bank is the planned one.

    Labels, paths and the contents of some images are compared. An image that has changed since its
    variants were made is found when they are served: see `BankDataset`.

    Raises:
        ValueError: A setting or a label is another, or the data are.
    """
    what = f"{path} holds a bank"
    cure = "Choose another folder, or pass overwrite=True (--overwrite)"
    planned.facts().check_same(stored.facts(), what, cure)


def _create(path: Path, planned: Manifest, images: Images) -> None:
    """Make the folder of a bank, with empty arrays, labels and paths: all of it or nothing.

    The files of an old bank go, and other files of its folder stay.
    """
    with replace_directory(path) as staged:
        np.save(staged / "labels.npy", images.targets.numpy())
        paths = images.paths or [""] * len(images)
        np.save(staged / "paths.npy", [os.fsencode(name) for name in paths])
        for name, layout in array_files(planned).items():
            np.lib.format.open_memmap(staged / name, "w+", layout.dtype, layout.shape)
        planned.save(staged)


class _Identified(NamedTuple):
    """A batch of images, uint8 (B, C, H, W), and the digest of each, uint8 (B, 32)."""

    images: Tensor
    digests: Tensor


class _WithDigests:
    """Gives batches of images with their digests."""

    def __init__(self, images: Images) -> None:
        self.images: Images = images

    @property
    def threads(self) -> bool:
        return self.images.threads

    def batch(self, rows: Tensor) -> _Identified:
        """The images at these indices."""
        read = run_over(self.images.with_digest, rows.tolist(), threads=self.threads)
        images, digests = zip(*read, strict=True)
        as_bytes = np.frombuffer(b"".join(digests), np.uint8).copy()
        return _Identified(torch.stack(images), torch.from_numpy(as_bytes).view(len(rows), -1))


class _Rows:
    """The arrays of a bank that is being made, which are checked and opened once.

    Rows are written to files and not to memory maps, where a full disk would end the process.

    Args:
        path: The folder of the bank.
        manifest: What it holds.
        files: Closes the files.
    """

    def __init__(self, path: Path, manifest: Manifest, files: ExitStack) -> None:
        self.files: dict[str, FileIO] = {}
        for name in array_files(manifest):
            stored = read_array(path, name, manifest)
            file = files.enter_context((path / name).open("r+b", buffering=0))
            file.seek(stored.offset + stored[: manifest.done].nbytes)
            self.files[name] = file

    def write(self, arrays: dict[str, Tensor]) -> None:
        """Write the rows that follow those that are written, given by file name."""
        for name, array in arrays.items():
            rest = array.contiguous().numpy().data.cast("B")
            while len(rest):
                written = self.files[name].write(rest)
                rest = rest[written:]

    def sync(self) -> None:
        """Wait until all that is written has reached the disk."""
        for file in self.files.values():
            os.fsync(file.fileno())


def _fill(
    path: Path,
    manifest: Manifest,
    nfa: NFAugment,
    source: Batched[_Identified],
    targets: Tensor,
    progress: bool,
) -> None:
    """Make the rows that are missing. The manifest says how many are safely on the disk."""
    parts = torch.arange(manifest.done, manifest.images).split(manifest.batch_size)
    variants = manifest.variants
    title = f"bank of {manifest.nbytes / 2**20:.1f} MiB"
    saved = time.monotonic()
    with (
        ExitStack() as files,
        progress_bar(
            manifest.images * variants,
            title,
            "variant",
            shown=progress,
            initial=manifest.done * variants,
        ) as bar,
    ):
        stored = _Rows(path, manifest, files)
        try:
            for images, digests in batches(source, parts):
                done = manifest.done + len(images)
                labels = targets[manifest.done : done]
                arrays = _variants(nfa, images, labels, manifest, bar)
                arrays["hashes.npy"] = digests
                stored.write(arrays)
                manifest = replace(manifest, done=done)
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    stored.sync()
                    manifest.save(path)
                    saved = time.monotonic()
        finally:  # also after Ctrl-C
            stored.sync()
            manifest.save(path)


def _variants(
    nfa: NFAugment, images: Tensor, labels: Tensor, manifest: Manifest, bar: Any
) -> dict[str, Tensor]:
    """The next rows of the files of `array_files` by name, without the hashes.

    The progress bar counts the variants.
    """
    images = images.to(nfa.engine.device)
    labels = labels.to(nfa.engine.device)
    position = manifest.first + manifest.done  # in the whole dataset
    generators = []
    for number in range(manifest.variants):
        seed = seed_of(manifest.seed, number, position)
        generators.append(SharedGenerator().manual_seed(seed))
    variants = _counted(nfa.variants(images, labels, generators), bar)
    count, channels, height, width = images.shape
    pixels = torch.empty(count, manifest.variants, height, width, channels, dtype=torch.uint8)
    applied = torch.empty(count, manifest.variants, dtype=torch.bool)
    for number, variant in enumerate(variants):
        pixels[:, number] = variant.permute(0, 2, 3, 1).cpu()
        applied[:, number] = (variant != images).flatten(1).any(1).cpu()
    sums = [[zlib.crc32(variant.data) for variant in image] for image in pixels.numpy()]
    checksums = torch.from_numpy(np.array(sums, np.uint32))
    return {"variants.npy": pixels, "checksums.npy": checksums, "applied.npy": applied}


def _counted(variants: Iterable[Tensor], bar: Any) -> Iterator[Tensor]:
    for batch in variants:
        yield batch
        bar.update(len(batch))
