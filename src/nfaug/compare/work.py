"""What is computed for the methods of a seed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from nfaug.augment.transform import NFAugment
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.data.batches import decode
from nfaug.data.open import open_dataset
from nfaug.fitting.checkpoints import fit, load_base
from nfaug.run.device import pick_device

from .classifier import Classifier
from .config import CompareConfig
from .figures import Cell
from .frozen import FrozenNetwork, classify, input_size
from .images import CompareImages, Part
from .methods import Method
from .transforms import transform_of

_LAST = 0.1  # of the steps, whose mean loss is what training left


class Work:
    """Trains and tests the classifiers of a comparison.

    Args:
        images: The images of the comparison.
        config: What is compared.
        after_step: Called after each step of an optimiser.
    """

    def __init__(
        self, images: CompareImages, config: CompareConfig, after_step: Callable[[], object]
    ) -> None:
        self.images: CompareImages = images
        self.config: CompareConfig = config
        self.after_step: Callable[[], object] = after_step
        self._network: FrozenNetwork | None = None
        self._bank: tuple[str, int, Tensor] | None = None  # the last one, its flow and its seed
        transform_of((), "", (8, 8))  # torchvision is slow to import: not in a method's seconds

    def test_features(self, start: int, stop: int) -> NDArray[np.float32]:
        """Features of some of the test images."""
        return self._features(self.images.test.rows(torch.arange(start, stop)))

    def _features(self, part: Part) -> NDArray[np.float32]:
        if self._network is None:
            side, _ = input_size(self.config)
            channels, _, _ = self.images.shape
            self._network = FrozenNetwork(self.config, channels, (side, side))
        return self._network.features(part.large)

    def frozen(self, seed: int, test: NDArray[np.float32]) -> list[Cell]:
        """Classify the features `test` by those of a seed's labelled images."""
        started = monotonic()
        part = self.images.labelled(self.config.per_class, seed)
        guesses = classify(self._features(part), part.labels.numpy(), test, seed)
        right = guesses == self.images.test.labels.numpy()
        return [Cell(right, monotonic() - started)]

    def trained(self, methods: Sequence[Method], seed: int) -> list[Cell]:
        """Train a classifier for each of these methods, and test them."""
        part = self.images.labelled(self.config.per_class, seed)
        cells = []
        for method in methods:
            started = monotonic()
            bank = self._bank_of(method.flow, part, seed) if method.flow else None
            right, left = self._train(method, seed, part, bank)
            cells.append(Cell(right, monotonic() - started, left))
        return cells

    def _bank_of(self, flow: str, part: Part, seed: int) -> Tensor:
        """The variants of a flow, which the next method of the same flow and seed shares."""
        if self._bank is None or self._bank[:2] != (flow, seed):
            few = TensorDataset(part.images, part.labels)
            self._bank = flow, seed, bank_of(flow, few, self.config, seed)
        return self._bank[2]

    def _train(
        self, method: Method, seed: int, part: Part, bank: Tensor | None
    ) -> tuple[NDArray[np.bool_], float]:
        """Which test images are right, and the share of the training loss that is left."""
        shape = self.images.shape
        classes = len(self.images.classes)
        losses: list[Tensor] = []

        def after_step(loss: Tensor) -> None:
            losses.append(loss)
            self.after_step()

        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(seed)
            transform = transform_of(self.config.safe, method.policy, shape[1:])
            mixup = None
            if method.policy == "mixup":
                mixup = _mixup(classes)

            def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
                batch, labels = draw_batch(
                    part.images, part.labels, bank, self.config.p, transform, rows
                )
                # A weighted mean of bytes would be rounded.
                return (batch, labels) if mixup is None else mixup(batch.float(), labels)

            classifier = Classifier(self.config, shape, classes, seed)
            classifier.train(draw, len(part.labels), after_step)
        test = self.images.test
        last = torch.stack(losses[-math.ceil(_LAST * len(losses)) :])
        left = float(last.mean()) / math.log(classes)
        return classifier.right(test.images, test.labels).numpy(), left


def _mixup(classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    from torchvision.transforms import v2

    mixup: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = v2.MixUp(num_classes=classes)
    return mixup


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


def bank_of(flow: str, few: Any, config: CompareConfig, seed: int, **mixing: Any) -> Tensor:
    """Variants (N, V, C, H, W) of labelled images under a flow that is fitted to them."""
    nfa = NFAugment(fitted(flow, few, config, seed), p=1.0, **mixing)
    return variants_of(nfa, few, config, seed)


def fitted(flow: str, few: Any, config: CompareConfig, seed: int) -> Checkpoint:
    """A flow that is fitted to labelled images where it is used, with all their axes, up to 64."""
    base = load_base(flow).to(pick_device(config.device))
    few = open_dataset(few)
    largest_class = int(torch.bincount(few.targets).max())
    rank = max(1, min(64, largest_class - 1))
    with warnings.catch_warnings():
        # The report says it, once.
        warnings.filterwarnings("ignore", ".* classes have one image")
        return fit(base, few, rank=rank, progress=False, seed=seed)


def variants_of(nfa: NFAugment, few: Any, config: CompareConfig, seed: int) -> Tensor:
    """So many variants of each image as the settings say, (N, V, C, H, W)."""
    few = open_dataset(few)
    images = decode(few, progress=False)
    device = pick_device(config.device)
    seeds = range(1000 * seed, 1000 * seed + config.variants)
    generators = [torch.Generator().manual_seed(number) for number in seeds]
    bank: list[Tensor] = []
    for batch, targets in zip(images.split(256), few.targets.split(256), strict=True):
        made = nfa.variants(batch.to(device), targets.to(device), generators)
        bank.append(torch.stack([variant.cpu() for variant in made], 1))
    return torch.cat(bank)
