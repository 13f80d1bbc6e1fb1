"""Run a comparison: seed by seed, as many as the time allows."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from nfaug.augment.transform import NFAugment
from nfaug.data.augmentation import FlowAugmentation
from nfaug.data.classes import check_class_names
from nfaug.data.images import LabelledImages, progress_bar, split_per_class, to_tensors
from nfaug.data.open import wrap_dataset
from nfaug.fitting import fit, load_base
from nfaug.io.atomic import write_bytes, write_text
from nfaug.io.device import pick_device
from nfaug.io.lock import lock_output
from nfaug.io.manifest import read_manifest
from nfaug.io.resolve import read_resolved
from nfaug.io.tensors import read_tensors

from .classifier import Classifier
from .report import Cells, Comparison
from .settings import PIXELS, CompareSettings

__all__ = ["bank_of", "compare", "spec_augment", "split_images", "transform_of"]

_MOST_SHARED = 0.01  # of the images to judge by; public data sets hold a few copies


def compare(
    dataset: Any,
    settings: CompareSettings | None = None,
    *,
    out: str | Path,
    test: Any = None,
    progress: bool = True,
) -> Comparison:
    """Compare augmentations on a data set, by classifiers that are trained on few of its images.

    Every row adds something to the safe augmentations of `settings.augment`: nothing, NFA in
    pixels, NFA with a flow, RandAugment, TrivialAugment, or NFA before one of these. All rows of a
    seed share the labelled images, the initial weights and the order of the images. NFA's class
    statistics come from the labelled images alone.

    Cells are kept in `out`: after an interruption the same call goes on.

    Args:
        dataset: Images as `nfaug.wrap_dataset` takes them.
        settings: What to compare, and how long.
        out: The folder of the results: cells.csv, table.md and gains.png.
        test: Images to judge by, none of which are trained on; by default a part of each class is
            held out.
        progress: Show a bar.

    Raises:
        ValueError: A class has too few images, an image to judge by is trained on, there is a flow
            and no `test`, or `out` holds a comparison of something else.
        FileExistsError: `out` holds other files than a comparison's.

    Example:
        >>> from tempfile import mkdtemp
        >>> from nfaug.compare import CompareSettings, compare
        >>> from nfaug import open_dataset
        >>> digits = open_dataset("digits", per_class=20)
        >>> settings = CompareSettings(per_class=5, seeds=1, steps=5)
        >>> comparison = compare(digits, settings, out=mkdtemp(), progress=False)
        >>> comparison.rows[0].title, len(comparison.rows)
        ('nothing more', 6)
    """
    settings = settings or CompareSettings()
    trained_flows = [flow for flow in settings.flow if flow != PIXELS]
    if trained_flows and test is None:
        raise ValueError(
            f"the flow {trained_flows[0]} may have been trained on images that are held out to "
            "judge by: pass test (--test-data), images that it was not trained on"
        )
    data = wrap_dataset(dataset)
    test_data = None if test is None else wrap_dataset(test)
    _check_shape(data, settings)
    pool, judged = split_images(data, test_data, settings.per_class)
    settings = replace(settings, steps=settings.steps or _default_steps(settings, data, pool))
    validation = to_tensors(judged, progress=False)
    if test_data is not None:
        _check_apart(pool, judged, validation[0], settings)
    # Errors of flows and weights come here, before `out` holds anything and before any training.
    record = _record(settings, data, test_data)
    Classifier(settings, record["shape"], len(data.classes), seed=0)
    folder = Path(out).expanduser()
    with lock_output(folder):
        cells = Cells(folder, record, len(judged))
        try:
            _fill(cells, settings, pool, validation, progress)
        finally:  # also after Ctrl-C
            if cells.seeds(settings.augmentations()):
                comparison = Comparison(settings, cells)
                write_text(folder / "table.md", comparison.text())
                if len(comparison.seeds) > 1:
                    write_bytes(folder / "gains.png", comparison.plot())
    return comparison


def _default_steps(settings: CompareSettings, data: LabelledImages, pool: LabelledImages) -> int:
    """Ten passes over the labelled images, at least 300 steps and at most 2,000."""
    count = len(pool)
    if settings.per_class:
        count = settings.per_class * len(data.classes)
    return min(2000, max(300, count // 5))


def _record(
    settings: CompareSettings, data: LabelledImages, test_data: LabelledImages | None
) -> dict[str, Any]:
    """What the results depend on; a comparison goes on only while it is the same.

    Raises:
        ValueError: A flow takes other images than these, or a file of weights is damaged.
    """
    record = asdict(settings)
    for name in ("minutes", "seeds", "device"):  # they may change when a comparison goes on
        del record[name]
    record["images"] = data.fingerprint()
    record["test"] = None if test_data is None else test_data.fingerprint()
    record["shape"] = [data.channels, *data.image_size]
    for name in settings.flow:
        flow = load_base(name, None).flow
        manifest = read_resolved(read_manifest, name, whole=False)
        record[f"files of {name}"] = manifest["files"]
        if not flow.shape_free and flow.codec.channels != data.channels:
            raise ValueError(
                f"{name} takes images of {flow.codec.channels} channels; the data have "
                f"{data.channels}"
            )
    if settings.weights is not None:
        file = Path(settings.weights)
        read_tensors(file)  # for a damaged file timm raises no ValueError
        del record["weights"]  # the path
        record["weights_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return record


def _check_shape(data: LabelledImages, settings: CompareSettings) -> None:
    """Raise ValueError if an augmentation cannot be applied to images of this shape."""
    height, width = data.image_size
    if data.channels not in (1, 3):
        raise ValueError(
            f"a comparison takes grey or RGB images, as its rivals do; got {data.channels} channels"
        )
    if "rotate" in settings.safe and height != width:
        raise ValueError(
            f"quarter turns (augment rotate) need square images; got {height} x {width}: choose a "
            "square (--image-size), or leave rotate out"
        )


def _labelled(pool: LabelledImages, settings: CompareSettings, seed: int) -> LabelledImages:
    """The images that the classifiers of a seed are trained on."""
    if settings.per_class is None:
        return pool
    few, _ = split_per_class(pool, settings.per_class, seed)
    return few


def _check_apart(
    pool: LabelledImages, judged: LabelledImages, pixels: Tensor, settings: CompareSettings
) -> None:
    """Warn of images to judge by that have the pixels of one that is trained on.

    `pixels` are those of `judged`.

    Raises:
        ValueError: They are more than one in a hundred.
    """
    rows = {_digest(image): row for row, image in enumerate(pixels)}
    shared: dict[int, str] = {}  # by row of `judged`, the name of the same image in training
    draws = 1 if settings.per_class is None else settings.seeds
    for seed in range(draws):
        few = _labelled(pool, settings, seed)
        images, _ = to_tensors(few, progress=False)
        for index, image in enumerate(images):
            row = rows.get(_digest(image))
            if row is not None:
                shared[row] = few.name(index)
    if not shared:
        return
    row, name = next(iter(shared.items()))
    problem = (
        f"{len(shared)} of {len(pixels)} images to judge by are trained on: {judged.name(row)} has "
        f"the pixels of {name}"
    )
    if len(shared) > _MOST_SHARED * len(pixels):
        raise ValueError(
            f"{problem}. Remove them, or leave out test (--test-data), and a part is held out"
        )
    warnings.warn(f"{problem}. Accuracy is that much too high at most", stacklevel=3)


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.numpy().tobytes()).digest()


def _fill(
    cells: Cells,
    settings: CompareSettings,
    pool: LabelledImages,
    validation: tuple[Tensor, Tensor],
    progress: bool,
) -> None:
    """Train the classifiers that are missing, while the time left is enough for a seed."""
    rows = settings.augmentations()
    deadline = monotonic() + 60 * settings.minutes - cells.seconds
    for seed in range(settings.seeds):
        missing = [row for row in rows if (row.name, seed) not in cells]
        if not missing:
            continue
        needed = cells.seconds / max(1, len(cells)) * len(missing)
        if cells.seeds(rows) and monotonic() + needed > deadline:
            continue
        few = _labelled(pool, settings, seed)
        labelled = to_tensors(few, progress=False)
        shape = (few.channels, *few.image_size)
        banks: dict[str, Tensor | None] = {"": None}
        with progress_bar(len(missing), f"seed {seed + 1}", "classifier", shown=progress) as bar:
            for row in missing:
                started = monotonic()
                if row.flow not in banks:
                    banks[row.flow] = bank_of(row.flow, few, settings, seed)
                transform = transform_of(settings.safe, row.policy, few.image_size)
                draw = partial(_draw, labelled, banks[row.flow], settings.p, transform)
                classifier = Classifier(settings, shape, len(few.classes), seed)
                with torch.random.fork_rng(devices=[]):  # torchvision draws from the global one
                    torch.default_generator.manual_seed(seed)
                    classifier.train(draw, len(few))
                right = classifier.right(*validation)
                cells.add(row.name, seed, right, monotonic() - started)
                seconds_left = max(0, deadline - monotonic())
                bar.set_postfix_str(f"{seconds_left:.0f} s left", refresh=False)
                bar.update()


def _draw(
    labelled: tuple[Tensor, Tensor],
    bank: Tensor | None,
    p: float,
    transform: Callable[[Tensor], Tensor],
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """An augmented batch with its labels: a variant with probability p, then the transform."""
    images, labels = labelled
    batch = images[rows]
    if bank is not None:
        variants = bank[rows, torch.randint(bank.shape[1], rows.shape)]
        replaced = torch.rand(len(rows)) < p
        batch = torch.where(replaced[:, None, None, None], variants, batch)
    return transform(batch), labels[rows]


def split_images(
    data: LabelledImages, test: LabelledImages | None, few: int | None
) -> tuple[LabelledImages, LabelledImages]:
    """Images to draw labelled ones from, and those to validate with.

    Without `test`, a quarter of each class is held out, or half of it if `few` labelled images of a
    class are enough.

    Raises:
        ValueError: A class has too few images, or `test` has other classes.
    """
    if len(data.classes) < 2:
        raise ValueError(f"classifiers need at least two classes; the data have {data.classes}")
    needed = few or 2
    if test is None:
        needed += 1
    counts = torch.bincount(data.targets, minlength=len(data.classes)).tolist()
    smallest = min(counts)
    if smallest < needed:
        raise ValueError(
            f"class {data.classes[counts.index(smallest)]!r} has {smallest} images; {needed} are "
            "needed, those to validate with included: lower --per-class, or leave the class out"
        )
    if test is not None:
        check_class_names(test.classes, data.classes)
        shape = (data.channels, *data.image_size)
        test_shape = (test.channels, *test.image_size)
        if shape != test_shape:
            raise ValueError(f"the images are {shape}, those to judge by {test_shape}")
        return data, test
    held = torch.zeros(len(data), dtype=torch.bool)
    for label, count in enumerate(counts):
        number = min(count // 2, count - few) if few else count // 4
        number = min(max(1, number), 500)  # more take time and add little precision
        order = torch.randperm(count, generator=torch.Generator().manual_seed(label))
        rows = (data.targets == label).nonzero().flatten()
        held[rows[order[:number]]] = True
    return data.subset((~held).nonzero().flatten()), data.subset(held.nonzero().flatten())


def bank_of(
    flow: str,
    few: LabelledImages,
    settings: CompareSettings,
    seed: int,
    autoencoder: str | None = None,
    **mixing: Any,
) -> Tensor:
    """Variants (N, V, C, H, W) of the labelled images under a flow that is fitted to them."""
    images, labels = to_tensors(few, progress=False)
    largest_class = int(torch.bincount(labels).max())
    rank = max(1, min(64, largest_class - 1))
    fitted = fit(flow, few, rank=rank, progress=False, seed=seed, autoencoder=autoencoder)
    device = pick_device(settings.device)
    nfa = NFAugment(fitted.to(device), p=1.0, **mixing)
    seeds = range(1000 * seed, 1000 * seed + settings.variants)
    generators = [torch.Generator().manual_seed(number) for number in seeds]
    bank: list[Tensor] = []
    for batch, targets in zip(images.split(256), labels.split(256), strict=True):
        variants = nfa.variants(batch.to(device), targets.to(device), generators)
        bank.append(torch.stack([variant.cpu() for variant in variants], 1))
    return torch.cat(bank)


def transform_of(
    safe: Collection[str], policy: str, size: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """The policy and then the safe augmentations, for uint8 images (B, C, H, W) of this size.

    Each image is shifted by up to an eighth of its shorter side, with mirrored borders.
    """
    from torchvision.transforms import v2

    policies: dict[str, Callable[[Tensor], Tensor]] = {
        "randaugment": v2.RandAugment(2, 9),
        "trivialaugment": v2.TrivialAugmentWide(),
        "specaugment": spec_augment,
    }
    of_one_image: list[Callable[[Tensor], Tensor]] = []
    if policy:
        of_one_image.append(policies[policy])
    if "colour" in safe:
        of_one_image.append(v2.ColorJitter(0.3, 0.3, 0.3))
    shift = 0
    if "crop" in safe or "spectrogram" in safe:
        shift = max(1, min(size) // 8)
    flip_and_shift = FlowAugmentation(hflip="flip" in safe or "rotate" in safe, pad_crop=shift)

    def transform(images: Tensor) -> Tensor:
        for change in of_one_image:
            images = torch.stack([change(image) for image in images])
        draws = flip_and_shift.draw(len(images), torch.default_generator)
        images = flip_and_shift.apply(images, draws)
        if "rotate" in safe:
            quarters = torch.randint(4, (len(images),)).tolist()
            turned = []
            for image, turns in zip(images, quarters, strict=True):
                turned.append(image.rot90(turns, (1, 2)))
            images = torch.stack(turned)
        return images

    return transform


def spec_augment(image: Tensor, share: float = 1 / 8) -> Tensor:
    """Mask two bands of frequency (rows) and two of time (columns) with the mean of the image.

    Each is up to a `share` of the image wide: the masks of arXiv:1904.08779, no time warping.
    """
    masked = image.clone()
    grey = int(image.float().mean())
    for side in (1, 1, 2, 2):
        length = image.shape[side]
        width = int(torch.randint(int(length * share) + 1, ()))
        start = int(torch.randint(length - width + 1, ()))
        masked.narrow(side, start, width).fill_(grey)
    return masked
