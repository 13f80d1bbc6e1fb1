"""NFA in kornia's containers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..augment.params import SharedGenerator, own_seed
from ..augment.settings import MixSettings, accepts_settings
from ..augment.transform import NFAugment

try:
    from kornia.augmentation import IntensityAugmentationBase2D
    from kornia.constants import DataKey
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('this needs kornia: pip install "nfaug[kornia]"') from error

__all__ = ["NFAugmentation", "with_labels"]


class NFAugmentation(IntensityAugmentationBase2D):
    """`NFAugment` as an augmentation of kornia, alone or in a container.

    Images are floating point in [0, 1], or normalized by `mean` and `std`. Labels stay as they are,
    so kornia counts it among the intensity augmentations, and it goes before kornia's mix
    augmentations. A container passes images alone to its children: `with_labels` gives them the
    labels too.

    `_params` holds the seed of all draws beside kornia's `batch_prob`, which says which images are
    augmented. Replayed with the same images and labels, they give the same result. `eval()` turns
    it off, and no gradient flows through it.

    Example:
        >>> import torch
        >>> from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
        >>> from nfaug.integrations.kornia import NFAugmentation, with_labels
        >>> nfa = NFAugmentation("builtin:rgb32", p=0.5)
        >>> augment = with_labels(
        ...     AugmentationSequential(nfa, RandomHorizontalFlip(), data_keys=["input", "class"])
        ... )
        >>> images, labels = augment(torch.rand(20, 3, 64, 64), torch.randint(10, (20,)))
        >>> images.shape
        torch.Size([20, 3, 64, 64])

    Args:
        checkpoint: As for `NFAugment`.
        p: Probability that an image is augmented.
        mean: Mean that images are normalized by, a number or one per channel.
        std: Standard deviation that images are normalized by, like `mean`.
        smoothing: Label smoothing of soft labels; required with two classes.
        same_on_batch: Must be False: each image has its own partner and weights.
        keepdim: Whether an image (C, H, W) comes back without a batch dimension.
        settings: All settings at once; single ones override it.
        changes: Single settings, the fields of `MixSettings` but p.

    Raises:
        ValueError: See `NFAugment`, or `same_on_batch` is set.
        TypeError: A keyword argument is unknown.
    """

    @accepts_settings("p")
    def __init__(
        self,
        checkpoint: Any,
        p: float = 0.5,
        *,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        smoothing: float | None = None,
        same_on_batch: bool = False,
        keepdim: bool = False,
        settings: MixSettings | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self._check_same_on_batch()
        settings = MixSettings.merge(settings, {**changes, "p": 1.0})
        self.nfa = NFAugment(checkpoint, settings=settings, mean=mean, std=std, smoothing=smoothing)
        self.labels: Tensor | None = None

    def _check_same_on_batch(self) -> None:
        if self.same_on_batch:
            raise ValueError(
                "same_on_batch=True is impossible: each image is mixed with a partner of its own "
                "class, so the images of a batch cannot share a transformation"
            )

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """The seed of the draws. A container may have set `same_on_batch` after `__init__`."""
        self._check_same_on_batch()
        return {"seed": torch.tensor([own_seed()])}

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        labels: Tensor | None = None,
        params: dict[str, Tensor] | None = None,
        **options: Any,
    ) -> Any:
        """Augment images; with labels, return (images, labels).

        Args:
            input: Images (B, C, H, W) or (C, H, W).
            labels: Labels (B,), or one-hot or smoothed rows. Without, those that `with_labels` set.
            params: `_params` of an earlier call to replay.
            options: As for other augmentations of kornia.

        Raises:
            ValueError: There are no labels, or images or labels are not valid.
        """
        if labels is None:
            return super().forward(input, params=params, **options)
        before, self.labels = self.labels, labels
        try:
            return super().forward(input, params=params, **options), labels
        finally:
            self.labels = before

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
            raise ValueError(
                "NFAugmentation needs labels: call nfa(images, labels), or with_labels(container) "
                'for a container with data_keys=["input", "class"]'
            )
        self.validate_tensor(input)
        labels = self.labels[None] if self.labels.dim() == 0 else self.labels
        generator = SharedGenerator().manual_seed(int(params["seed"]))
        drawn = self.nfa.make_params(labels, device=input.device, generator=generator)
        chosen = (params["batch_prob"] > 0.5).to(input.device)
        drawn = dataclasses.replace(drawn, chosen=drawn.chosen & chosen[drawn.index])
        return self.nfa(input, labels, params=drawn)[0]


def with_labels(container: nn.Module) -> nn.Module:
    """Hand the labels of a kornia container's calls to each `NFAugmentation` in it.

    Args:
        container: An `AugmentationSequential` with "class" or "label" in its `data_keys`, or called
            with a dictionary that has such a key.

    Returns:
        The same container, with hooks that run before and after each call.
    """
    container.register_forward_pre_hook(_hand_over, with_kwargs=True)
    container.register_forward_hook(_take_back, always_call=True)
    return container


def _hand_over(container: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
    if len(inputs) == 1 and isinstance(inputs[0], dict):
        names, values = [*inputs[0]], [*inputs[0].values()]
        keys = [str(name).lower().replace("-", "_").partition("_")[0] for name in names]
        found = [
            value for key, value in zip(keys, values, strict=True) if key in ("class", "label")
        ]
    else:
        given = options.get("data_keys") or getattr(container, "data_keys", None) or []
        are_labels = [DataKey.get(key) == DataKey.CLASS for key in given]
        # kornia itself refuses inputs and keys of different numbers, with a message of its own.
        found = [value for is_label, value in zip(are_labels, inputs, strict=False) if is_label]
    for module in container.modules():
        if isinstance(module, NFAugmentation):
            module.labels = found[0] if found else None


def _take_back(container: nn.Module, inputs: Any, output: Any) -> None:
    for module in container.modules():
        if isinstance(module, NFAugmentation):
            module.labels = None
