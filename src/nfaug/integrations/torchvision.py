"""NFAugment goes where v2.MixUp goes: after the loader, in v2.Compose, or in a `collate_fn`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import default_collate

from ..augment.transform import NFAugment, check_nfa

__all__ = ["NFACollate"]


class NFACollate:
    """A `collate_fn` that collates a batch and augments it on the CPU, in the loader's workers.

    It can be pickled, which spawned workers require. `nfa.stats()` counts the images of all
    workers, and setting `nfa.enabled` affects them all; `nfa.eval()` and other settings reach only
    workers that start later. With an accelerator, calling `NFAugment` after the batch has been
    moved to it is faster. A checkpoint on an accelerator is copied to the CPU here, because workers
    that are forked cannot reach it there.

    Args:
        nfa: The augmentation.
        collate_fn: Makes a batch (images, labels) of samples.

    Example:
        >>> import torch
        >>> import nfaug
        >>> from nfaug.integrations.torchvision import NFACollate
        >>> digits = nfaug.open_dataset("digits", per_class=10)
        >>> nfa = nfaug.NFAugment(nfaug.fit("builtin:pixels", digits, progress=False))
        >>> loader = torch.utils.data.DataLoader(digits, 20, collate_fn=NFACollate(nfa))
        >>> images, labels = next(iter(loader))
        >>> images.shape
        torch.Size([20, 1, 8, 8])
    """

    def __init__(
        self, nfa: NFAugment, collate_fn: Callable[[list[Any]], Any] = default_collate
    ) -> None:
        self.nfa = check_nfa(nfa)
        self.collate_fn = collate_fn
        nfa.engine.on(torch.device("cpu"))

    def __call__(self, batch: list[Any]) -> Any:
        """Collate samples and augment the batch."""
        return self.nfa(self.collate_fn(batch))
