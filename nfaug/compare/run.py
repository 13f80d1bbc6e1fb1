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
        dataset: Images as `nfaug.training.wrap_dataset` takes them.
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
        >>> from nfaug.training import open_dataset
        >>> digits = open_dataset("digits", per_class=20)
        >>> settings = CompareSettings(per_class=5, seeds=1, steps=5)
        >>> found = compare(digits, settings, out=mkdtemp(), progress=False)
        >>> found.rows[0].title, len(found.rows)
        ('nothing more', 6)
    """
    settings = settings or CompareSettings()
    trained = [flow for flow in settings.flow if flow != PIXELS]
    if trained and test is None:
        raise ValueError(
            f"the flow {trained[0]} may have been trained on images that are held out to judge by: "
            "pass test (--test-data), images that it was not trained on"
        )
    data = wrap_dataset(dataset)
    judged = None if test is None else wrap_dataset(test)
    _check_shape(data, settings)
    pool, held = split_images(data, judged, settings.per_class)
    count = settings.per_class * len(data.classes) if settings.per_class else len(pool)
    settings = replace(settings, steps=settings.steps or min(2000, max(300, count // 5)))
    validation = to_tensors(held, progress=False)
    if judged is not None:
        _check_apart(pool, held, validation[0], settings)
    free = ("minutes", "seeds", "device")  # they may change when a comparison goes on
    record = {name: value for name, value in asdict(settings).items() if name not in free}
    record |= {"images": data.fingerprint(), "test": judged and judged.fingerprint()}
    record["shape"] = [data.channels, *data.image_size]
    for flow in settings.flow:  # before `out` holds anything, and classifiers take their time
        base = load_base(flow, None).flow
        record |= {f"files of {flow}": read_resolved(read_manifest, flow, whole=False)["files"]}
        if not base.shape_free and base.codec.channels != data.channels:
            taken = f"{flow} takes images of {base.codec.channels} channels"
            raise ValueError(f"{taken}; the data have {data.channels}")
    if settings.weights is not None:
        file = Path(settings.weights)
        read_tensors(file)  # of a damaged file timm's error is no ValueError
        del record["weights"]  # the path
        record["weights_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    Classifier(settings, record["shape"], len(data.classes), seed=0)
    folder = Path(out).expanduser()
    with lock_output(folder):
        cells = Cells(folder, record, len(held))
        try:
            _fill(cells, settings, pool, validation, progress)
        finally:  # also after Ctrl-C
            if cells.seeds(settings.augmentations()):
                found = Comparison(settings, cells)
                write_text(folder / "table.md", found.text())
                if len(found.seeds) > 1:
                    write_bytes(folder / "gains.png", found.plot())
    return found


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
    return split_per_class(pool, settings.per_class, seed)[0]


def _check_apart(
    pool: LabelledImages, test: LabelledImages, judged: Tensor, settings: CompareSettings
) -> None:
    """Warn of images to judge by that have the pixels of one that is trained on.

    Raises:
        ValueError: They are more than one in a hundred.
    """
    places = {_digest(image): index for index, image in enumerate(judged)}
    shared: dict[int, str] = {}  # the image that is trained on, by the place of the other
    for seed in range(1 if settings.per_class is None else settings.seeds):
        few = _labelled(pool, settings, seed)
        for index, image in enumerate(to_tensors(few, progress=False)[0]):
            place = places.get(_digest(image))
            if place is not None:
                shared[place] = few.name(index)
    if not shared:
        return
    place, name = next(iter(shared.items()))
    told = (
        f"{len(shared)} of {len(judged)} images to judge by are trained on: {test.name(place)} has "
        f"the pixels of {name}"
    )
    if len(shared) > _MOST_SHARED * len(judged):
        raise ValueError(
            f"{told}. Remove them, or leave out test (--test-data), and a part is held out"
        )
    warnings.warn(f"{told}. Accuracy is that much too high at most", stacklevel=3)


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
        needed = cells.seconds / max(1, len(cells)) * len(missing)
        if not missing or (cells.seeds(rows) and monotonic() + needed > deadline):
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
                cells.add(row.name, seed, classifier.right(*validation), monotonic() - started)
                bar.set_postfix_str(f"{max(0, deadline - monotonic()):.0f} s left", refresh=False)
                bar.update()


def _draw(
    labelled: tuple[Tensor, Tensor], bank: Tensor | None, p: float, transform: Any, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """An augmented batch with its labels: a variant with probability p, then the transform."""
    batch, targets = (each[rows] for each in labelled)
    if bank is not None:
        variant = bank[rows, torch.randint(bank.shape[1], rows.shape)]
        batch = torch.where((torch.rand(len(rows)) < p)[:, None, None, None], variant, batch)
    return transform(batch), targets


def split_images(
    data: LabelledImages, test: LabelledImages | None, few: int | None
) -> tuple[LabelledImages, LabelledImages]:
    """Images to draw labelled ones from, and those to validate with.

    Without `test`, a quarter of each class is held out, or half of it if `few` labelled images of a
    class are enough.

    Raises:
        ValueError: A class has too few images, or `test` has other classes.
    """
    needed = (few or 2) + (test is None)
    if len(data.classes) < 2:
        raise ValueError(f"classifiers need at least two classes; the data have {data.classes}")
    counts = torch.bincount(data.targets, minlength=len(data.classes)).tolist()
    if (smallest := min(counts)) < needed:
        raise ValueError(
            f"class {data.classes[counts.index(smallest)]!r} has {smallest} images; {needed} are "
            "needed, those to validate with included: lower --per-class, or leave the class out"
        )
    if test is not None:
        check_class_names(test.classes, data.classes)
        ours, theirs = ((each.channels, *each.image_size) for each in (data, test))
        if ours != theirs:
            raise ValueError(f"the images are {ours}, those to judge by {theirs}")
        return data, test
    held = torch.zeros(len(data), dtype=torch.bool)
    for label, count in enumerate(counts):
        number = min(count // 2, count - few) if few else count // 4
        order = torch.randperm(count, generator=torch.Generator().manual_seed(label))
        chosen = order[: min(max(1, number), 500)]  # more take time and add little precision
        held[(data.targets == label).nonzero().flatten()[chosen]] = True
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
    rank = max(1, min(64, int(torch.bincount(labels).max()) - 1))
    fitted = fit(flow, few, rank=rank, progress=False, seed=seed, autoencoder=autoencoder)
    device = pick_device(settings.device)
    nfa = NFAugment(fitted.to(device), p=1.0, **mixing)
    numbers = range(1000 * seed, 1000 * seed + settings.variants)
    draws = [torch.Generator().manual_seed(number) for number in numbers]
    made = list[Tensor]()
    for batch, targets in zip(images.split(256), labels.split(256), strict=True):
        variants = nfa.variants(batch.to(device), targets.to(device), draws)
        made.append(torch.stack([variant.cpu() for variant in variants], 1))
    return torch.cat(made)


def transform_of(
    safe: Collection[str], policy: str, size: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """The policy and then the safe augmentations, for uint8 images (B, C, H, W) of this size.

    Each image is shifted by up to an eighth of its shorter side, with mirrored borders.
    """
    from torchvision.transforms import v2

    known: dict[str, Any] = {"randaugment": v2.RandAugment(2, 9), "specaugment": spec_augment}
    known["trivialaugment"] = v2.TrivialAugmentWide()
    single = [known[policy]] if policy else []
    single += [v2.ColorJitter(0.3, 0.3, 0.3)] if "colour" in safe else []
    shifts = max(1, min(size) // 8) if {"crop", "spectrogram"} & {*safe} else 0
    plain = FlowAugmentation(hflip=bool({"flip", "rotate"} & {*safe}), pad_crop=shifts)

    def transform(images: Tensor) -> Tensor:
        for change in single:
            images = torch.stack([change(image) for image in images])
        images = plain.apply(images, plain.draw(len(images), torch.default_generator))
        if "rotate" in safe:
            turned = zip(images, torch.randint(4, (len(images),)).tolist(), strict=True)
            images = torch.stack([image.rot90(turns, (1, 2)) for image, turns in turned])
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
        masked.narrow(side, int(torch.randint(length - width + 1, ())), width).fill_(grey)
    return masked
