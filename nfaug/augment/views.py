"""Random views of images under a training script's transforms, to which a flow can be fitted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..data.classes import dataset_classes, labels_of
from .params import seed_of
from .pixels import resize_levels, to_pil
from .transform import NFAugment

__all__ = ["AugmentedViews", "gated_share"]


class AugmentedViews(Dataset[tuple[Tensor, int]]):
    """Several random views of every image of a data set, as uint8 (C, H, W) at a flow's size.

    Item i is view i // N of image i % N. A view is the same on every access. A flow that is fitted
    to the views (`nfaug.fit`) has the statistics, axes, memory and gate of the images that the
    script trains on. With `per_class` some items are left out.

    Args:
        dataset: (image, label) before any transform, with PIL images or uint8 (C, H, W) at the size
            that the script reads.
        transform: The script's transform without its normalisation: from a PIL image to a PIL
            image, uint8 (C, H, W), or floating point in [0, 1].
        image_size: (height, width) of the flow. Views are resized to it as `NFAugment` does.
        views: Number of views of each image.
        seed: Seed of the random numbers of the transform (Python's, numpy's and torch's) and of the
            choice of `per_class`. Different seeds give different views.
        per_class: The largest number of views of each class, or None for all. They are spread
            evenly: the numbers of views of two images of a class differ by at most one.

    Raises:
        ValueError: If `views` or `per_class` is below 1, or, on access, the transform returns
            another type.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Callable[[Any], Any],
        *,
        image_size: tuple[int, int],
        views: int = 1,
        seed: int = 0,
        per_class: int | None = None,
    ) -> None:
        if views < 1:
            raise ValueError(f"views must be at least 1; got {views}")
        if per_class is not None and per_class < 1:
            raise ValueError(f"per_class must be at least 1, or None for all; got {per_class}")
        self.dataset = dataset
        self.transform = transform
        self.image_size = image_size
        self.views = views
        self.seed = seed
        labels = labels_of(dataset)
        known = torch.from_numpy(np.array(labels))  # a copy, because labels may be read-only
        if per_class is None:
            self._items = torch.arange(len(known) * views)
        else:
            self._items = _spread(known, views, per_class, seed)
        self.targets = known[self._items % len(known)]
        names = dataset_classes(dataset)
        self.classes = names or [str(label) for label in range(int(labels.max()) + 1)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index = range(len(self))[index]
        view_number, number = divmod(int(self._items[index]), len(self.dataset))
        image = self.dataset[number][0]
        if isinstance(image, Tensor):
            image = to_pil(image.permute(1, 2, 0).numpy())
        with _seeded(seed_of(self.seed, view_number, number)):
            view = _to_unit(self.transform(image))
        return resize_levels(255 * view[None], self.image_size)[0], int(self.targets[index])


def gated_share(nfa: NFAugment, dataset: Any, *, batch_size: int = 128) -> dict[str, float]:
    """Shares of a data set's images by outcome, with the keys of `NFAugment.stats` except "seen".

    Each image is tried once, whatever `nfa.p` is. The counters of `nfa` do not change.
    """
    generator = torch.Generator().manual_seed(0)
    probe = NFAugment(nfa.engine, settings=nfa.settings, p=1.0, generator=generator)
    for start in range(0, len(dataset), batch_size):
        items = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        images = torch.stack([item[0] for item in items]).to(nfa.engine.device)
        probe(images, torch.tensor([int(item[1]) for item in items]))
    stats = probe.stats()
    seen = max(1, stats.pop("seen"))
    return {name: count / seen for name, count in stats.items()}


def _spread(labels: Tensor, views: int, per_class: int, seed: int) -> Tensor:
    """At most `per_class` items of each class. Every image comes once before any comes twice."""
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for label in labels.unique().tolist():
        images = (labels == label).nonzero().flatten()
        images = images[torch.randperm(len(images), generator=generator)]
        items = torch.arange(views)[:, None] * len(labels) + images
        kept.append(items.flatten()[:per_class])
    return torch.cat(kept).sort().values


def _to_unit(view: Any) -> Tensor:
    """Convert the result of a transform to float32 (C, H, W) in [0, 1]."""
    if isinstance(view, Image.Image):
        array = np.asarray(view)
        view = torch.from_numpy(np.array(array if array.ndim == 3 else array[..., None]))
        view = view.permute(2, 0, 1)
    elif isinstance(view, np.ndarray):
        view = torch.from_numpy(np.array(view))
    if isinstance(view, Tensor) and view.ndim == 3:
        view = view.as_subclass(Tensor)
        if view.dtype == torch.uint8:
            return view.float() / 255
        if view.is_floating_point() and -0.01 <= float(view.min()) <= float(view.max()) <= 1.01:
            return view.float()
    kind = f"{view.dtype} {tuple(view.shape)}" if isinstance(view, Tensor) else type(view).__name__
    raise ValueError(
        "the transform must return a PIL image, uint8 (C, H, W) or floating point in [0, 1]; got "
        f"{kind}. Remove its normalisation"
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that a transform may use, and restore their states on exit."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
