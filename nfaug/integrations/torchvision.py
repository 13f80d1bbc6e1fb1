"""NFAugment in torchvision's training loops.

`NFAugment` itself stands where `torchvision.transforms.v2.MixUp` would: after the loader, in
`v2.Compose`, or in the loader's `collate_fn` with `NFACollate`. `v2.Compose` is a plain list that
moves no modules; `NFAugment` follows the device of the images by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import default_collate

from ..augment.transform import NFAugment

__all__ = ["NFACollate"]


class NFACollate:
    """A `collate_fn` that collates a batch and augments it on the CPU, in the loader's workers.

    It can be pickled, as workers that are spawned require. `nfa.stats()` counts in each worker for
    itself; setting `nfa.enabled` takes effect in all of them. Where there is an accelerator it is
    faster to call `NFAugment` after the batch has been moved.
    """

    def __init__(
        self, nfa: NFAugment, collate_fn: Callable[[list[Any]], Any] = default_collate
    ) -> None:
        self.nfa = nfa
        self.collate_fn = collate_fn

    def __call__(self, batch: list[Any]) -> Any:
        """Collate samples and augment the batch."""
        return self.nfa(self.collate_fn(batch))

    def __repr__(self) -> str:
        return f"NFACollate({self.nfa!r}, {self.collate_fn!r})"
