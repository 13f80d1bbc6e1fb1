"""NFA in kornia's containers."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.constants import DataKey
from torch import Tensor, nn

from ..augment.params import SharedGenerator, own_seed, to_device
from ..augment.transform import NFAugment

__all__ = ["NFAugmentation", "with_labels"]


class NFAugmentation(IntensityAugmentationBase2D):
    """`NFAugment` as an augmentation of kornia, alone or in a container.

    It goes before kornia's mix augmentations. A container passes images alone to its children:
    `with_labels` gives them the labels too. `_params` holds the seed of all draws beside kornia's
    `batch_prob`, which says which images are augmented. Replayed with the same images and labels,
    they give the same result. `eval()` turns it off, and no gradient flows through it.

    Example:
        >>> import torch
        >>> import nfaug
        >>> from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
        >>> from nfaug.integrations.kornia import NFAugmentation, with_labels
        >>> images = torch.randint(256, (20, 3, 64, 64), dtype=torch.uint8)
        >>> dataset = torch.utils.data.TensorDataset(images, torch.arange(20) % 2)
        >>> flow = nfaug.fit("builtin:rgb32", dataset, rank=9, progress=False)
        >>> nfa = NFAugmentation(flow, p=0.5)
        >>> augment = with_labels(
        ...     AugmentationSequential(nfa, RandomHorizontalFlip(), data_keys=["input", "class"])
        ... )
        >>> images, labels = augment(images / 255, torch.arange(20) % 2)
        >>> images.shape
        torch.Size([20, 3, 64, 64])

    Args:
        checkpoint: As for `NFAugment`.
        p: Probability that an image is augmented.
        options: Keyword arguments of `NFAugment`, but p.
    """

    def __init__(self, checkpoint: Any, p: float = 0.5, **options: Any) -> None:
        super().__init__(p=p)
        self.nfa = NFAugment(checkpoint, **options)
        self.nfa.settings = dataclasses.replace(self.nfa.settings, p=1.0)
        self.labels: Tensor | None = None

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """The seed of the draws."""
        if self.same_on_batch:
            raise ValueError("same_on_batch=True is impossible: each image has its own partner")
        return {"seed": torch.tensor([own_seed()])}

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        labels: Tensor | None = None,
        params: dict[str, Tensor] | None = None,
        **options: Any,
    ) -> Any:
        """Augment images; with labels, which `with_labels` sets otherwise, also return these."""
        if labels is None:
            return super().forward(input, params=params, **options)
        self.labels = labels
        try:
            return super().forward(input, params=params, **options), labels
        finally:
            self.labels = None

    def transform_inputs(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Called by kornia with all images of a batch."""
        if self.labels is None:
            raise ValueError("pass labels: nfa(images, labels), or with_labels(container) once")
        self.validate_tensor(input)
        labels = self.labels[None] if self.labels.dim() == 0 else self.labels
        generator = SharedGenerator().manual_seed(int(params["seed"]))
        drawn = self.nfa.make_params(to_device(labels, input.device), generator=generator)
        chosen = (params["batch_prob"] > 0.5).to(input.device)
        drawn = dataclasses.replace(drawn, chosen=drawn.chosen & chosen[drawn.index])
        return self.nfa(input, labels, params=drawn)[0]


def with_labels(container: nn.Module) -> nn.Module:
    """Hand the labels of a kornia container's calls to each `NFAugmentation` in it.

    The container, which is returned with two hooks, is an `AugmentationSequential` with "class" or
    "label" in its `data_keys`, or called with a dictionary that has such a key.
    """
    container.register_forward_pre_hook(_hand_over, with_kwargs=True)
    container.register_forward_hook(_take_back, always_call=True)
    return container


def _hand_over(container: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
    if len(inputs) == 1 and isinstance(inputs[0], dict):
        named = inputs[0]
        found = [named[key] for key in named if str(key).lower().startswith(("class", "label"))]
    else:
        keys = options.get("data_keys") or getattr(container, "data_keys", None) or []
        # kornia itself refuses inputs and keys of different numbers, with a message of its own.
        pairs = zip(keys, inputs, strict=False)
        found = [value for key, value in pairs if DataKey.get(key) == DataKey.CLASS]
    _set_labels(container, found[0] if found else None)


def _take_back(container: nn.Module, inputs: Any, output: Any) -> None:
    _set_labels(container, None)


def _set_labels(container: nn.Module, labels: Any) -> None:
    for module in container.modules():
        if isinstance(module, NFAugmentation):
            module.labels = labels
