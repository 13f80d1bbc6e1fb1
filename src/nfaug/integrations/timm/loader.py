"""A wrapper of timm's loaders that applies NFA to each batch, then mixup and cutmix."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from timm.data.dataset import AugMixDataset
from timm.data.loader import PrefetchLoader, fast_collate
from timm.data.mixup import FastCollateMixup, Mixup
from timm.data.scheduled_sampler import ScheduledTransformDataset
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from ...augment.pixels import Normalization
from ...augment.transform import NFAugment, check_nfa
from ...data.classes import item_sources
from ...data.torch_datasets import normalization_of
from ...run.ranks import own_rank
from .counts import many_unchanged


class NFALoader:
    """A loader whose batches are augmented: NFA first, then mixup and cutmix.

    It wraps the result of `timm.data.create_loader`, with or without prefetcher, or any loader of
    (images, labels). `len`, `dataset`, `sampler` and other attributes are the wrapped loader's.
    `mixup_enabled` switches mixup and cutmix; `nfa.enabled` switches NFA. With accelerate, it wraps
    the prepared loader: `NFALoader(accelerator.prepare(loader), nfa)`.

    If NFA has left more than a third of the images that it chose unchanged, the loader says so at
    the end of an epoch, in a warning, once. In a distributed run the first process says it, of its
    own images.

    Args:
        loader: The loader, not iterated yet. A `FastCollateMixup` in it is moved to after NFA.
        nfa: The augmentation. If it has no mean and std, it gets the loader's.
        mixup: timm's `Mixup`, or any function of images and labels, which runs after NFA.
        device: The device to which batches are moved first. None leaves them where they are.

    Raises:
        ValueError: Class names, mean or std differ, or NFA cannot augment the loader's batches
            (AugMix splits, mixup mode "half"). In iteration: each of several processes of
            accelerate would read all images, or mixup meets a dictionary.
        TypeError: `nfa` is no `NFAugment`.

    Example:
        >>> import torch
        >>> import nfaug
        >>> from nfaug.integrations.timm import NFALoader
        >>> digits = nfaug.open_dataset("digits", per_class=10)
        >>> nfa = nfaug.NFAugment(nfaug.fit("builtin:pixels", digits, progress=False))
        >>> loader = NFALoader(torch.utils.data.DataLoader(digits, batch_size=50), nfa)
        >>> [images.shape for images, labels in loader]
        [torch.Size([50, 1, 8, 8]), torch.Size([50, 1, 8, 8])]
    """

    def __init__(
        self,
        loader: Any,
        nfa: NFAugment,
        mixup: Any = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_nfa(nfa)
        if isinstance(loader, NFALoader):
            raise ValueError("the loader is already an NFALoader; images would be augmented twice")
        dataset = getattr(loader, "dataset", None)
        if any(isinstance(source, AugMixDataset) for source in item_sources(dataset)):
            raise ValueError("NFA does not support AugMix splits; remove --aug-splits")
        labelled = dataset
        if isinstance(dataset, ScheduledTransformDataset):  # which leaves labels as they are
            labelled = dataset.dataset
        nfa.check_classes(labelled, required=False)
        _set_normalization(nfa, loader)
        loader_mixup = _take_mixup(loader)
        if mixup is not None and loader_mixup is not None:
            raise ValueError("pass mixup=, or a loader with FastCollateMixup; got both")
        self.loader = loader
        self.nfa = nfa
        self.mixup: Any = loader_mixup if mixup is None else mixup
        self.device = device
        self._mixes = True
        self._warns = own_rank() == 0  # until it has

    def __iter__(self) -> Iterator[Any]:
        _check_shared(self.loader)
        for batch in self.loader:
            yield self._augmented(batch)
        if not self._warns:
            return
        message = many_unchanged(self.nfa.stats())
        if message:
            self._warns = False
            warnings.warn(message, stacklevel=2)

    def _augmented(self, batch: Any) -> Any:
        """The batch on `device`, after NFA and then mixup."""
        if self.device is not None:
            batch = self._moved(batch)
        batch = self.nfa(batch)
        if self.mixup is None or not self._mixes:
            return batch
        if isinstance(batch, dict):
            raise ValueError(
                f"mixup= takes (images, labels); got a dictionary of {', '.join(batch)}"
            )
        images, labels, *rest = batch
        return (*self.mixup(images, labels), *rest)

    def _moved(self, batch: Any) -> Any:
        """The batch, a sequence or a dictionary, with its tensors on `device`."""
        if isinstance(batch, dict):
            return {key: self._moved_value(value) for key, value in batch.items()}
        return [self._moved_value(value) for value in batch]

    def _moved_value(self, value: Any) -> Any:
        if torch.is_tensor(value):
            return value.to(self.device, non_blocking=True)
        return value

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "loader" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.loader, name)

    @property
    def mixup_enabled(self) -> bool:
        """Whether mixup and cutmix are on. timm's --mixup-off-epoch clears it."""
        return self.mixup is not None and bool(getattr(self.mixup, "mixup_enabled", self._mixes))

    @mixup_enabled.setter
    def mixup_enabled(self, value: bool) -> None:
        if hasattr(self.mixup, "mixup_enabled"):  # timm's smooths labels when it is off
            self.mixup.mixup_enabled = value
        else:
            self._mixes = value


def _check_shared(loader: Any) -> None:
    """Raise ValueError if each process of accelerate would read all images.

    `Accelerator.prepare` does not know `NFALoader`, and returns one unchanged.
    """
    state: Any = sys.modules.get("accelerate.state")  # None if the script does not use accelerate
    if state is None or not state.is_initialized():
        return
    count = state.PartialState().num_processes
    inner = getattr(loader, "loader", loader)
    if count == 1 or type(inner) is not DataLoader:  # prepared loaders are of other classes
        return
    torch_sampler = type(inner.sampler).__module__ == RandomSampler.__module__
    if torch_sampler and type(inner.batch_sampler) is BatchSampler:
        raise ValueError(
            f"each of {count} processes would read all images, since accelerate does not share out "
            "an NFALoader: wrap the prepared loader, NFALoader(accelerator.prepare(loader), nfa)"
        )


def _take_mixup(loader: Any) -> Mixup | None:
    """Remove the mixing from the loader's collate function; return it as a `Mixup`."""
    inner = getattr(loader, "loader", loader)
    collate = getattr(inner, "collate_fn", None)
    if not isinstance(collate, FastCollateMixup):
        return None
    if "half" in collate.mode:
        raise ValueError(f"mixup mode {collate.mode!r} runs before NFA; use batch, pair or elem")
    mixup = Mixup.__new__(Mixup)
    mixup.__dict__.update(collate.__dict__)
    inner.collate_fn = fast_collate
    return mixup


def _set_normalization(nfa: NFAugment, loader: Any) -> None:
    """Give NFA the loader's mean and std, or check that they agree within a gray level."""
    mean_and_std = _normalization_of(loader)
    if mean_and_std is None:
        return
    mean, std = mean_and_std
    channels = nfa.engine.codec.channels
    count = torch.as_tensor(mean).numel()
    if count not in (1, channels):
        raise ValueError(
            f"the loader normalizes images of {count} channels, but the checkpoint is for images "
            f"of {channels}: pass --in-chans {channels} to timm's script, or fit with "
            f"channels={count} (nfaug fit --channels {count})"
        )
    theirs = Normalization(mean, std, channels)
    ours = nfa.normalization
    if ours.mean is None:
        nfa.normalization = theirs
        return
    same = False
    if ours.pair is not None and theirs.pair is not None:
        same = torch.allclose(ours.pair, theirs.pair, rtol=0, atol=1 / 255)
    if not same:
        raise ValueError(
            f"NFAugment has mean {ours.mean} and std {ours.std}, but the loader normalizes by "
            f"{theirs.mean} and {theirs.std}; create NFAugment without mean and std to use these"
        )


def _normalization_of(loader: Any) -> tuple[Any, Any] | None:
    """Mean and std of a loader's normalization, in units of [0, 1]."""
    if isinstance(loader, PrefetchLoader):  # which holds gray levels
        return loader.mean.float() / 255, loader.std.float() / 255
    return normalization_of(getattr(loader, "dataset", None))
