"""The draws of one call of NFAugment: images, partners, weights and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..classes.pca import ClasswisePCA
from ..run.device import to_device
from ..run.seeds import own_seed
from .config import MixConfig
from .regions import draw_masks

_INDEX_BITS = 31


@dataclass(frozen=True)
class Draws:
    """What a call of `NFAugment` draws; `NFAugment.replay` uses it again.

    Attributes:
        batch: Number of images in the batch.
        mix: How two latents are mixed: "axis", "pair" or "regions".
        index: (n,) positions of the images that go through the flow.
        chosen: (n,) bool, which of them are augmented.
        partner: (n,) row of the memory, or position within `index`.
        fallback: (n,) row of the memory that a self-match uses instead of `partner`.
        from_memory: (n,) bool, whether `partner` is a row of the memory.
        paired: (n,) bool, whether a partner was found.
        weights: (n, r) or (n, 1) mixing weights times the strength, or (n, 32, 32) masks.
        noise: (n, d) noise that is added to the latents, or (n, 0) for none.
        memory: Number of rows of the memory that partners come from; 0 for none.
    """

    batch: int
    mix: str
    index: Tensor
    chosen: Tensor
    partner: Tensor
    fallback: Tensor
    from_memory: Tensor
    paired: Tensor
    weights: Tensor
    noise: Tensor
    memory: int = 0

    def to(self, device: torch.device | str) -> Draws:
        """The same draws on another device, copied without synchronising the host."""
        own = vars(self).values()
        moved: Any = [to_device(x, device) if isinstance(x, Tensor) else x for x in own]
        return Draws(*moved)

    def check(self, images: int, pca: ClasswisePCA) -> None:
        """Raise ValueError unless these are draws of so many images, axes and rows of memory."""
        if self.batch != images:
            raise ValueError(f"these draws are for {self.batch} images, and the batch has {images}")
        rows = 0 if pca.memory is None else len(pca.memory)
        axes = self.weights.shape[1] if self.mix != "regions" else pca.rank
        for what, drawn, least, own in (
            ("images in the memory", self.memory, 0, rows),
            ("axes", axes, 1, pca.rank),
            ("dimensions of latents", self.noise.shape[1], 0, pca.dim),
        ):
            if drawn not in (least, own):
                raise ValueError(
                    f"these draws are of another checkpoint, of {drawn} {what}; this one has {own}"
                )


def draw(
    config: MixConfig,
    labels: Tensor,
    ok: Tensor,
    pca: ClasswisePCA,
    generator: torch.Generator | None = None,
) -> Draws:
    """Draw images, partners, weights and noise for a batch.

    The CPU draws, so that a seed gives the same on every device. No value is read back from an
    accelerator.

    Args:
        config: The settings.
        labels: (B,), int64 in range.
        ok: (B,) bool: which images may be partners.
        pca: The axes and the memory of the classes.
        generator: Source of the seed (see `own_seed`); it does not change if no image is augmented.

    Returns:
        The draws, on the device of the labels.

    Example:
        >>> import nfaug
        >>> pca = nfaug.load("builtin:rgb32").pca
        >>> labels = torch.tensor([3, 3, 5, 5])
        >>> draws = draw(nfaug.MixConfig(), labels, torch.ones(4, dtype=torch.bool), pca)
        >>> len(draws.index)
        2
    """
    batch = len(labels)
    if isinstance(config.p, tuple):
        shares = config.p
        most = max(shares)
    else:
        shares = ()
        most = config.p
    count = min(batch, math.ceil(most * batch - 1e-6))  # of 64.000001 images, 64
    drawn = _numbers(config, batch, count, pca, generator)
    # Two uploads, since an accelerator spends as much time on a small one as on a large one.
    device = labels.device
    index, first, second = _placed([drawn.order, *drawn.integers], np.int64, device)
    coin, weights, by_class = _placed([drawn.coins, drawn.weights, shares], np.float32, device)
    noise = torch.empty(count, 0, device=device)
    if config.noise:
        noise = config.noise * to_device(torch.from_numpy(drawn.normal), device)

    own = labels[index]
    share = by_class[own] if shares else most
    partners = _partners(config, pca, own, ok[index], first, second)
    return Draws(
        batch=batch,
        mix=config.mix,
        index=index,
        # `count` is rounded up; choosing with probability p * B / count makes the share exactly p.
        chosen=coin * count < share * batch,
        weights=weights,
        noise=noise,
        **partners._asdict(),
    )


class _Numbers(NamedTuple):
    """Random numbers of a call, of NumPy, for `count` images of a batch.

    Attributes:
        order: (count,) positions in the batch.
        coins: (count,) uniform in [0, 1).
        integers: (2, count) uniform in [0, 2^31).
        weights: (count, r) or (count, 1), or (count, 32, 32) masks, times the strength.
        normal: (count, d), or (0, 0) if no noise is asked for.
    """

    order: np.ndarray
    coins: np.ndarray
    integers: np.ndarray
    weights: np.ndarray
    normal: np.ndarray


def _numbers(
    config: MixConfig,
    batch: int,
    count: int,
    pca: ClasswisePCA,
    generator: torch.Generator | None,
) -> _Numbers:
    """Draw the numbers of a call. Their order is fixed: recorded batches depend on it."""
    rng = np.random.default_rng(own_seed(generator) if count else 0)
    order = rng.permutation(batch)[:count]
    # Nothing uses the second row: it was drawn by earlier versions, and every number that is drawn
    # after it depends on it, so that without it a seed would give other batches.
    coins = rng.random((2, count), np.float32)[0]
    integers = rng.integers(2**31, size=(2, count))
    if config.mix == "regions":
        weights = draw_masks(rng, count, alpha=config.alpha, strength=config.strength)
    else:
        width = 1 if config.mix == "pair" else pca.rank
        weights = rng.beta(config.alpha, config.alpha, (count, width)).astype(np.float32)
        weights *= np.float32(config.strength)
    normal = np.empty((0, 0), np.float32)
    if config.noise:
        normal = rng.standard_normal((count, pca.dim), np.float32)
    return _Numbers(order, coins, integers, weights, normal)


class _Partners(NamedTuple):
    """Fields of `Draws` that say with which image each is mixed."""

    partner: Tensor
    fallback: Tensor
    from_memory: Tensor
    paired: Tensor
    memory: int


def _partners(
    config: MixConfig, pca: ClasswisePCA, labels: Tensor, ok: Tensor, first: Tensor, second: Tensor
) -> _Partners:
    """A partner for each image, of the memory if there is one, by integers `first` and `second`."""
    if pca.memory is None or config.partners == "batch":
        partner, paired = pick_in_batch(first, labels, ok)
        return _Partners(
            partner, torch.zeros_like(partner), torch.zeros_like(paired), paired, memory=0
        )
    found = _partners_in_memory(config, pca, labels, ok, first, second)
    return _Partners(*found, memory=len(pca.memory))


def _partners_in_memory(
    config: MixConfig, pca: ClasswisePCA, labels: Tensor, ok: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`partner`, `fallback`, `from_memory` and `paired` of `Draws`, where there is a memory.

    A class without rows has partners in the batch, but with partners "memory". So has, with
    partners "auto" and mix "regions", a class that the axes do not span.
    """
    row, fallback, stored = pick_in_memory(first, second, labels, pca.offsets)
    only_spanned = config.partners == "auto" and config.mix == "regions"
    if pca.all_stored and (pca.all_spanned or not only_spanned):
        return row, fallback, stored, stored
    other, found = pick_in_batch(first, labels, ok)
    from_memory = stored
    if only_spanned:
        spanned = pca.counts[labels] <= pca.rank + 1
        from_memory = stored & (spanned | ~found)
    paired = stored if config.partners == "memory" else found | stored
    return torch.where(from_memory, row, other), fallback, from_memory, paired


def _placed(arrays: Sequence[Any], dtype: Any, device: torch.device) -> list[Tensor]:
    """Tensors of these arrays on a device, which share one upload."""
    shapes = [np.shape(array) for array in arrays]
    flat = np.concatenate([np.asarray(array, dtype).ravel() for array in arrays])
    parts = to_device(torch.from_numpy(flat), device).split([math.prod(s) for s in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def pick_in_batch(uniform: Tensor, labels: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Another allowed position with the same label, and whether there is one; (n,) both.

    `uniform` holds integers in [0, 2^31) that choose among the candidates.
    """
    same = (labels[:, None] == labels[None, :]) & allowed[None, :]
    same = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    running = same.cumsum(1)
    count = same.sum(1)
    number = _below(uniform, count)
    # The position of candidate `number`: the first where the running count exceeds it.
    partner = (running <= number[:, None]).sum(1).clamp(max=max(0, len(labels) - 1))
    return partner, count > 0


def pick_in_memory(
    uniform: Tensor, second: Tensor, labels: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A row of the class's memory, another row of it, and whether the class has rows; (n,) each.

    The second row is uniform over the remaining rows, and equals the first if there are none.
    """
    start, size = offsets[labels], offsets[labels + 1] - offsets[labels]
    first = _below(uniform, size)
    step = 1 + _below(second, (size - 1).clamp(min=0))
    return start + first, start + (first + step) % size.clamp(min=1), size > 0


def _below(uniform: Tensor, count: Tensor) -> Tensor:
    """An integer in [0, count), or 0; float32 would be too coarse for large counts."""
    return (uniform * count) >> _INDEX_BITS
