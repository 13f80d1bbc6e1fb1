"""A wrapper of timm's loaders that applies NFA to each batch, then mixup and cutmix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.data.dataset import AugMixDataset
from timm.data.loader import fast_collate
from timm.data.mixup import FastCollateMixup, Mixup
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...augment.transform import NFAugment
from ...data.classes import unwrapped

__all__ = ["NFALoader"]


class NFALoader:
    """A loader whose batches are augmented: NFA first, then mixup and cutmix.

    It wraps the result of `timm.data.create_loader`, with or without prefetcher, or any loader of
    (images, labels). `len`, `dataset`, `sampler` and all other attributes are the wrapped loader's.
    `mixup_enabled` switches mixup and cutmix; `nfa.enabled` switches NFA.

    Args:
        loader: The loader. A `FastCollateMixup` in it is replaced by the same mixing after NFA, so
            wrap the loader before it is first iterated.
        nfa: The augmentation. If it has no mean and std, it gets the loader's.
        mixup: timm's `Mixup`, or any function of images and labels, which runs after NFA.
        device: The device to which batches are moved first. None leaves them where they are.
        off_epoch: NFA stops at this epoch, counted from 0. Epochs are those of `set_epoch`, or
            passes over the loader if it is not called.
        check_classes: Whether the class names of the data set, if it has any, must be the
            checkpoint's.

    Raises:
        ValueError: If class names or their order differ, mean and std differ from `nfa`'s, or the
            loader makes batches that NFA cannot augment (AugMix splits, mixup mode "half").
    """

    def __init__(
        self,
        loader: Any,
        nfa: NFAugment,
        mixup: Any = None,
        device: torch.device | str | None = None,
        *,
        off_epoch: int | None = None,
        check_classes: bool = True,
    ) -> None:
        if isinstance(loader, NFALoader):
            raise ValueError("the loader is already an NFALoader; images would be augmented twice")
        dataset = getattr(loader, "dataset", None)
        if any(isinstance(holder, AugMixDataset) for holder in unwrapped(dataset)):
            raise ValueError(
                "the loader makes AugMix splits (--aug-splits), which NFA does not support; remove "
                "--aug-splits"
            )
        if check_classes and dataset is not None:
            nfa.check_classes(dataset, required=False)
        _set_normalization(nfa, loader)
        self.loader = loader
        self.nfa = nfa
        moved = _take_mixup(loader)
        if mixup is not None and moved is not None:
            raise ValueError(
                "the loader already mixes (FastCollateMixup), and NFALoader keeps that mixing; "
                "remove it, or do not pass mixup="
            )
        self.mixup = mixup if mixup is not None else moved
        self.device = device
        self.off_epoch = off_epoch
        self._epoch: int | None = None
        self._passes = 0

    def __iter__(self) -> Iterator[Any]:
        epoch = self._passes if self._epoch is None else self._epoch
        self._passes += 1
        active = self.off_epoch is None or epoch < self.off_epoch
        for batch in self.loader:
            if self.device is not None:
                batch = tree_map_only(Tensor, self._to_device, batch)
            if active:
                batch = self.nfa(batch)
            yield batch if self.mixup is None else _mixed(self.mixup, batch)

    def _to_device(self, part: Tensor) -> Tensor:
        return part.to(self.device, non_blocking=True)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "loader" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.loader, name)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins, also on the wrapped loader's sampler."""
        self._epoch = epoch
        for name in ("batch_sampler", "sampler"):
            sampler: Any = getattr(self.loader, name, None)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
                return

    @property
    def batch_sampler(self) -> Any:
        """The wrapped loader's batch sampler, through which timm's script sets the epoch."""
        return _EpochListener(self)

    @property
    def mixup_enabled(self) -> bool:
        """Whether mixup and cutmix are on. timm's --mixup-off-epoch clears it."""
        return bool(getattr(self.mixup, "mixup_enabled", False))

    @mixup_enabled.setter
    def mixup_enabled(self, value: bool) -> None:
        if self.mixup is not None:
            self.mixup.mixup_enabled = value


class _EpochListener:
    """A batch sampler that also sets the epoch of its NFALoader."""

    def __init__(self, owner: NFALoader) -> None:
        self._owner = owner
        self._sampler = getattr(owner.loader, "batch_sampler", None)

    def set_epoch(self, epoch: int) -> None:
        self._owner.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._sampler or ())

    def __len__(self) -> int:
        return len(self._owner.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._sampler, name)


def _mixed(mixup: Any, batch: Any) -> Any:
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(f"mixup needs batches of (images, labels); got a {type(batch).__name__}")
    images, labels, *rest = batch
    return (*mixup(images, labels), *rest)


def _take_mixup(loader: Any) -> Mixup | None:
    """Remove the mixing from the loader's collate function; return it as a `Mixup`."""
    inner = getattr(loader, "loader", loader)
    collate = getattr(inner, "collate_fn", None)
    if not isinstance(collate, FastCollateMixup):
        return None
    if "half" in collate.mode:
        raise ValueError(
            f"mixup mode {collate.mode!r} exists only in timm's collate function, which runs "
            "before NFA; use batch, pair or elem"
        )
    if getattr(inner, "_iterator", None) is not None or getattr(inner, "iterator", None):
        raise ValueError("the loader is already being iterated; wrap it in NFALoader first")
    mixup = Mixup.__new__(Mixup)
    mixup.__dict__.update(collate.__dict__)
    inner.collate_fn = fast_collate
    return mixup


def _set_normalization(nfa: NFAugment, loader: Any) -> None:
    found = _normalization_of(loader)
    if found is None:
        return
    if nfa.normalization is None:
        nfa.set_normalization(*found)
        return
    ours, theirs = (
        torch.broadcast_tensors(*map(torch.tensor, x)) for x in (nfa.normalization, found)
    )
    held = getattr(loader, "mean", None)  # grey levels; steps of 1 above 128 in bfloat16
    step = torch.finfo(held.dtype).eps if isinstance(held, Tensor) else 0.0
    if not torch.allclose(torch.stack(ours), torch.stack(theirs), rtol=0, atol=max(1e-3, step)):
        raise ValueError(
            f"NFAugment has mean and std {nfa.normalization}, but the loader normalises by "
            f"{found}; create NFAugment without mean and std to use the loader's"
        )


def _normalization_of(loader: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std of a loader's normalisation, in units of [0, 1]."""
    mean, std = getattr(loader, "mean", None), getattr(loader, "std", None)
    if isinstance(mean, Tensor) and isinstance(std, Tensor):  # the prefetcher's are in grey levels
        return _floats(mean.float() / 255), _floats(std.float() / 255)
    for holder in unwrapped(getattr(loader, "dataset", None)):
        # timm has a list of transforms for --train-img-sizes; torchvision's `transforms` is one.
        several = getattr(holder, "transforms", None)
        choices = several if isinstance(several, (tuple, list)) else getattr(holder, "transform", 0)
        if found := _normalization_in(choices):
            return found
    return None


def _normalization_in(transform: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if type(transform).__name__ == "Normalize":
        return _floats(transform.mean), _floats(transform.std)
    several = isinstance(transform, (tuple, list))
    steps: Any = transform if several else getattr(transform, "transforms", None) or ()
    return next((found for found in map(_normalization_in, steps) if found), None)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(torch.as_tensor(values).flatten().tolist())
