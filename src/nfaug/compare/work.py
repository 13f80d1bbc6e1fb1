"""What is computed for a row and a seed, from images that lie in a folder.

The folder is that of a running comparison: its processes share the decoded images in it.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from nfaug.augment.transform import NFAugment
from nfaug.data.images import LabelledImages, to_tensors
from nfaug.data.open import wrap_dataset
from nfaug.fitting import fit
from nfaug.io.device import pick_device

from .classifier import Classifier
from .config import CompareConfig
from .frozen import FrozenNetwork, Regression, strength_of_penalty
from .report.figures import Cell
from .rows import Row
from .transforms import transform_of

__all__ = [
    "JUDGED", "Part", "Strength", "Work", "bank_of", "draw_batch", "read_part", "write_part",
]  # fmt: skip

JUDGED = "judged"
#: Variants of an image whose features are computed, each of which takes a pass of the network.
FROZEN_VARIANTS = 4
_PROBABILITIES = (0.25, 0.5, 0.75)  # that --tune chooses from
_MAGNITUDES = (5, 9, 14)


class Part(NamedTuple):
    """The labelled images of a seed, or those to judge by.

    Attributes:
        images: (N, C, H, W), uint8, at the size at which networks are trained.
        labels: (N,), int64.
        groups: (N,), int64; images of one group are not to be on both sides of a split.
        large: The images at the size at which a frozen network reads them; empty without one.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    large: Tensor

    def rows(self, rows: Tensor) -> Part:
        """Some of the images."""
        large = self.large[rows] if len(self.large) else self.large
        return Part(self.images[rows], self.labels[rows], self.groups[rows], large)


def write_part(
    folder: Path, name: str, data: LabelledImages, groups: Tensor, side: int | None
) -> None:
    """Decode images into a folder; `side` is that of a frozen network's images."""
    images, labels = to_tensors(data, progress=False)
    arrays = {"images": images, "labels": labels, "groups": groups}
    arrays["large"] = torch.empty(0, dtype=torch.uint8)
    if side is not None:
        arrays["large"], _ = to_tensors(data.resized((side, side)), progress=False)
    for kind, array in arrays.items():
        np.save(folder / f"{name}-{kind}.npy", array.numpy())


def read_part(folder: Path, name: str) -> Part:
    """The images that `write_part` wrote."""
    arrays = []
    for kind in Part._fields:
        # Copy-on-write memory is shared by all processes, and torch takes no read-only arrays.
        stored = np.load(folder / f"{name}-{kind}.npy", mmap_mode="c")
        arrays.append(torch.from_numpy(stored))
    return Part(*arrays)


class Strength(NamedTuple):
    """How strongly a row augments: the share p that NFA replaces, and RandAugment's magnitude."""

    p: float
    magnitude: int

    def __str__(self) -> str:
        return f"p={self.p:g} magnitude={self.magnitude}"

    @classmethod
    def parse(cls, text: str) -> Strength:
        """The strength that a cell records."""
        p, magnitude = re.findall(r"=([\d.]+)", text)
        return cls(float(p), int(magnitude))


class Work:
    """Computes cells from the images in a folder.

    Args:
        folder: The folder of images.
        config: What is compared.
        classes: The number of classes.
    """

    def __init__(self, folder: Path, config: CompareConfig, classes: int) -> None:
        self.folder: Path = folder
        self.config: CompareConfig = config
        self.classes: int = classes
        self.labelled = functools.lru_cache(2)(self._labelled)
        self.bank = functools.lru_cache(4)(self._bank)
        self.penalty = functools.lru_cache(16)(self._penalty)

    @functools.cached_property
    def judged(self) -> Part:
        """The images to judge by."""
        return read_part(self.folder, JUDGED)

    @functools.cached_property
    def network(self) -> FrozenNetwork:
        """The frozen network."""
        return FrozenNetwork(self.config, self.judged.images.shape[1])

    @functools.cached_property
    def judged_features(self) -> NDArray[np.float32]:
        """The features of the images to judge by, which were computed before."""
        features: NDArray[np.float32] = np.load(self.folder / f"{JUDGED}-features.npy")
        return features

    def _labelled(self, seed: int) -> Part:
        return read_part(self.folder, f"seed-{seed}")

    def features_of_judged(self, start: int, stop: int) -> NDArray[np.float32]:
        """The features of some of the images to judge by."""
        return self.network.compute(self.judged.large[start:stop])

    def cell(self, row: Row, seed: int) -> Cell:
        """Train or fit the classifier of a row and a seed, and judge it."""
        started = monotonic()
        part = self.labelled(seed)
        strength = self._strength(row, seed)
        right = self._right(row, seed, part, strength, None)
        shown = str(strength) if self.config.tune else ""
        return Cell(right, monotonic() - started, shown)

    def _strength(self, row: Row, seed: int) -> Strength:
        """The strength of the settings, or the one that a part of the labelled images chooses."""
        best = Strength(self.config.p, self.config.magnitude)
        part = self.labelled(seed)
        held = _third(part, seed)
        if not self.config.tune or not held.any():
            return best
        choices: list[tuple[str, tuple[Any, ...]]] = []
        if row.flow:
            choices.append(("p", _PROBABILITIES))
        if row.policy == "randaugment":
            choices.append(("magnitude", _MAGNITUDES))
        for name, values in choices:
            found = []
            for value in values:
                strength = best._replace(**{name: value})
                found.append(self._right(row, seed, part, strength, held).mean())
            best = best._replace(**{name: values[int(np.argmax(found))]})
        return best

    def _right(
        self, row: Row, seed: int, part: Part, strength: Strength, held: Tensor | None
    ) -> NDArray[np.bool_]:
        """Which images are right: those to judge by or, with `held`, these labelled ones."""
        train = part
        chosen = torch.arange(len(part.labels))
        if held is not None:
            chosen = (~held).nonzero().flatten()
            train = part.rows(chosen)
        bank = None
        if row.flow:
            bank = self.bank(row.flow, seed, row.frozen, tuple(chosen.tolist()))
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(seed)
            if row.frozen:
                return self._frozen(row, seed, part, train, strength, bank, held)
            shape = train.images.shape[1:]
            size = (shape[1], shape[2])
            transform = transform_of(self.config.safe, row.policy, size, strength.magnitude)
            draw = functools.partial(
                draw_batch, train.images, train.labels, bank, strength.p, transform
            )
            classifier = Classifier(self.config, shape, self.classes, seed)
            classifier.train(draw, len(train.labels))
        judged = self.judged if held is None else part.rows(held.nonzero().flatten())
        return classifier.right(judged.images, judged.labels).numpy()

    def _frozen(
        self,
        row: Row,
        seed: int,
        part: Part,
        train: Part,
        strength: Strength,
        bank: Tensor | None,
        held: Tensor | None,
    ) -> NDArray[np.bool_]:
        """Logistic regression on features of the images and, with less weight, of variants."""
        features = self.network.features(train.large)
        labels = train.labels.numpy()
        weights = np.ones(len(labels))
        if row.flow or row.policy:
            variants = bank
            if variants is None:
                variants = torch.stack([train.large] * FROZEN_VARIANTS, 1)
            height, width = train.large.shape[2:]
            policy = transform_of((), row.policy, (height, width), strength.magnitude)
            flat = policy(variants.flatten(0, 1))
            made = self.network.compute(flat)
            features = np.concatenate([features, made])
            labels = np.concatenate([labels, np.repeat(labels, FROZEN_VARIANTS)])
            share = strength.p / FROZEN_VARIANTS
            weights = np.concatenate([weights * (1 - strength.p), np.full(len(made), share)])
        chosen = tuple(range(len(part.labels)))
        if held is not None:
            chosen = tuple((~held).nonzero().flatten().tolist())
        model = Regression.fit(features, labels, self.penalty(seed, chosen), weights)
        if held is None:
            return model.predict(self.judged_features) == self.judged.labels.numpy()
        tested = part.rows(held.nonzero().flatten())
        return model.predict(self.network.features(tested.large)) == tested.labels.numpy()

    def _penalty(self, seed: int, chosen: tuple[int, ...]) -> float:
        """C of the features without variants, which mix images of several folds."""
        part = self.labelled(seed).rows(torch.tensor(chosen))
        features = self.network.features(part.large)
        return strength_of_penalty(features, part.labels.numpy(), part.groups.numpy(), seed)

    def _bank(self, flow: str, seed: int, large: bool, chosen: tuple[int, ...]) -> Tensor:
        """Variants of some labelled images of a seed."""
        part = self.labelled(seed).rows(torch.tensor(chosen))
        images = part.large if large else part.images
        count = FROZEN_VARIANTS if large else self.config.variants
        few = TensorDataset(images, part.labels)
        return bank_of(flow, few, self.config, seed, variants=count)


def _third(part: Part, seed: int) -> Tensor:
    """A third of the images of each class, (N,) bool, whole groups; none if classes are small."""
    from sklearn.model_selection import StratifiedGroupKFold

    held = torch.zeros(len(part.labels), dtype=torch.bool)
    labels = part.labels.numpy()
    groups = part.groups.numpy()
    if np.bincount(labels).min() < 3 or len(np.unique(groups)) < 3:
        return held
    splitter = StratifiedGroupKFold(3, shuffle=True, random_state=seed)
    train, test = next(splitter.split(labels, labels, groups))
    if set(labels[train]) == set(labels):  # every class can still be learnt
        held[torch.from_numpy(test)] = True
    return held


def draw_batch(
    images: Tensor,
    labels: Tensor,
    bank: Tensor | None,
    p: float,
    transform: Callable[[Tensor], Tensor],
    rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """An augmented batch with its labels: a variant with probability p, then the transform."""
    batch = images[rows]
    if bank is not None:
        variants = bank[rows, torch.randint(bank.shape[1], rows.shape)]
        replaced = torch.rand(len(rows)) < p
        batch = torch.where(replaced[:, None, None, None], variants, batch)
    return transform(batch), labels[rows]


def bank_of(
    flow: str,
    few: Any,
    config: CompareConfig,
    seed: int,
    autoencoder: str | None = None,
    variants: int | None = None,
    **mixing: Any,
) -> Tensor:
    """Variants (N, V, C, H, W) of labelled images under a flow that is fitted to them."""
    few = wrap_dataset(few)
    images, labels = to_tensors(few, progress=False)
    largest_class = int(torch.bincount(labels).max())
    rank = max(1, min(64, largest_class - 1))
    with warnings.catch_warnings():
        # The report says it, once.
        warnings.filterwarnings("ignore", ".* classes have one image")
        fitted = fit(flow, few, rank=rank, progress=False, seed=seed, autoencoder=autoencoder)
    device = pick_device(config.device)
    nfa = NFAugment(fitted.to(device), p=1.0, **mixing)
    seeds = range(1000 * seed, 1000 * seed + (variants or config.variants))
    generators = [torch.Generator().manual_seed(number) for number in seeds]
    bank: list[Tensor] = []
    for batch, targets in zip(images.split(256), labels.split(256), strict=True):
        variants_of_batch = nfa.variants(batch.to(device), targets.to(device), generators)
        bank.append(torch.stack([variant.cpu() for variant in variants_of_batch], 1))
    return torch.cat(bank)
