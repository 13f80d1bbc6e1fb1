"""NFA in kornia's containers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..augment.draws import SharedGenerator, own_seed
from ..augment.samples import as_labels
from ..augment.transform import NFAugment
from ..io.device import to_device
from ..io.extras import optional_imports

with optional_imports():
    from kornia.augmentation import AugmentationSequential, IntensityAugmentationBase2D
    from kornia.constants import DataKey

__all__ = ["NFAugmentation", "with_labels"]

# How kornia's names begin, of what has positions in an image and of labels.
_SPATIAL = ("mask", "bbox", "keypoints")
_LABELS = ("class", "label")


class NFAugmentation(IntensityAugmentationBase2D):
    """`NFAugment` as an augmentation of kornia, alone or in a container.

    It goes after flips and crops, and before kornia's mix augmentations. A container passes images
    alone to its children: `with_labels` gives them the labels too. `_params` holds the seed of all
    draws beside kornia's `batch_prob`, which says which images are augmented. Replayed with the
    same images and labels, they give the same result. `eval()` turns it off, and no gradient flows
    through it. Masks, boxes, keypoints and videos cannot be transformed, and are an error while it
    is on.

    Example:
        >>> import torch
        >>> import nfaug
        >>> from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
        >>> from nfaug.integrations.kornia import NFAugmentation, with_labels
        >>> images = torch.randint(256, (20, 3, 64, 64), dtype=torch.uint8)
        >>> labels = torch.arange(20) % 2
        >>> dataset = torch.utils.data.TensorDataset(images, labels)
        >>> nfa = NFAugmentation(nfaug.fit("builtin:pixels", dataset, progress=False), p=0.5)
        >>> augment = with_labels(
        ...     AugmentationSequential(RandomHorizontalFlip(), nfa, data_keys=["input", "class"])
        ... )
        >>> new_images, labels = augment(images / 255, labels)
        >>> new_images.shape
        torch.Size([20, 3, 64, 64])

    Args:
        checkpoint: As for `NFAugment`.
        p: Probability that an image is augmented; by default that of `NFAugment`.
        p_batch: Probability that a batch is augmented at all.
        keepdim: Return one image (C, H, W) as it came; otherwise as a batch (1, C, H, W).
        same_on_batch: False; kornia's other value is impossible.
        options: Other keyword arguments of `NFAugment`.

    Raises:
        ValueError: See `NFAugment`; p is a number for each class; p_batch is no probability; or
            same_on_batch is True, since each image has a partner of its own. At a call:
            labels are missing, or a sample has masks, boxes, keypoints or videos.
    """

    def __init__(
        self,
        checkpoint: Any,
        p: float | None = None,
        *,
        p_batch: float = 1.0,
        keepdim: bool = False,
        same_on_batch: bool = False,
        **options: Any,
    ) -> None:
        _check_same_on_batch(same_on_batch)
        if not 0 <= p_batch <= 1:
            raise ValueError(f"p_batch must be a probability in [0, 1]; got {p_batch}")
        if p is not None:
            options["p"] = p
        nfa = NFAugment(checkpoint, **options)
        probability = nfa.config.p
        if isinstance(probability, tuple):
            raise ValueError(
                f"p must be one number, since kornia draws the images; got {probability}"
            )
        super().__init__(p=probability, p_batch=p_batch, keepdim=keepdim)
        nfa.config = dataclasses.replace(nfa.config, p=1.0)  # of the images that kornia draws
        self.nfa = nfa
        self.labels: Any = None  # of the batch that is being augmented

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """The seed of the draws."""
        _check_same_on_batch(self.same_on_batch)  # a container may have set it
        return {"seed": torch.tensor([own_seed()])}

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        labels: Tensor | Sequence[str] | None = None,
        params: dict[str, Tensor] | None = None,
        **options: Any,
    ) -> Any:
        """Replace images by variants.

        Args:
            input: Images (B, C, H, W), or one image (C, H, W), in floating point in [0, 1].
            labels: (B,), integers or names of classes; `with_labels` sets them otherwise.
            params: Draws of an earlier call to replay, its `_params`.
            options: As kornia's.

        Returns:
            The new images; with `labels`, a pair of them and the labels.

        Example:
            >>> new_images, labels = nfa(images / 255, labels)
            >>> new_images.dtype
            torch.float32
        """
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
        """Called by kornia with all images of a batch, or with one image."""
        images = self.transform_tensor(input)
        images = self.apply_transform(images, params, flags, transform)
        return self.transform_output_tensor(images, tuple(input.shape))

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """The images (B, C, H, W), of which those that `params` chooses are augmented."""
        if not self.is_on():
            return input
        if self.labels is None:
            raise ValueError("pass labels: nfa(images, labels), or with_labels(container) once")
        self.validate_tensor(input)
        labels = as_labels(self.labels, self.nfa.classes)
        if labels.dim() == 0:
            labels = labels[None]
        if len(labels) != len(input):
            raise ValueError(
                f"there are {len(input)} images and {len(labels)} labels: NFAugmentation needs one "
                "for each image. Frames of videos have none: keep it out of VideoSequential"
            )
        generator = SharedGenerator().manual_seed(int(params["seed"]))
        draws = self.nfa.draw(to_device(labels, input.device), generator=generator)
        chosen = (params["batch_prob"] > 0.5).to(input.device)
        draws = dataclasses.replace(draws, chosen=draws.chosen & chosen[draws.index])
        images, _ = self.nfa.replay(input, labels, draws)
        return images

    def is_on(self) -> bool:
        """Whether images are augmented: in training, unless `nfa.enabled` is false.

        Returns:
            The state.

        Example:
            >>> nfa.is_on(), nfa.eval().is_on()
            (True, False)
        """
        return self.training and self.nfa.enabled


def _check_same_on_batch(value: bool | None) -> None:
    if value:
        raise ValueError("same_on_batch=True is impossible: each image has its own partner")


def with_labels(container: nn.Module) -> nn.Module:
    """Hand the labels of a kornia container's calls to each `NFAugmentation` in it.

    Args:
        container: An `AugmentationSequential` with "class" or "label" in its `data_keys`, or called
            with a dictionary that has such a key.

    Returns:
        The container, with two hooks.

    Raises:
        ValueError: The container is of another kind, whose calls hold no labels.

    Example:
        >>> from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
        >>> from nfaug.integrations.kornia import with_labels
        >>> container = AugmentationSequential(RandomHorizontalFlip(), data_keys=["input"])
        >>> augment = with_labels(container)
        >>> augment(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """
    if not isinstance(container, AugmentationSequential):
        raise ValueError(
            f"with_labels takes an AugmentationSequential, which knows where its labels are; got a "
            f"{type(container).__name__}. Put it into an AugmentationSequential"
        )
    container.register_forward_pre_hook(_set_labels_of_call, with_kwargs=True)
    container.register_forward_hook(_clear_labels, always_call=True)
    return container


def _set_labels_of_call(
    container: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """Give the labels in a call's inputs to the augmentations, before the call."""
    spatial = []
    labels = []
    for name, value in _named_inputs(container, inputs, options):
        if name.startswith(_SPATIAL):
            spatial.append(name)
        elif name.startswith(_LABELS):
            labels.append(value)
    if spatial and any(nfa.is_on() for nfa in _augmentations(container)):
        raise ValueError(
            f"NFAugmentation cannot transform {', '.join(spatial)}: mixing changes where things "
            "are. Leave them out, or turn it off with nfa.nfa.enabled = False"
        )
    _set_labels(container, labels[0] if labels else None)


def _named_inputs(
    container: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
) -> list[tuple[str, Any]]:
    """The inputs of a call with their names in lower case, in order."""
    if len(inputs) == 1 and isinstance(inputs[0], dict):
        return [(str(key).lower(), value) for key, value in inputs[0].items()]
    keys = options.get("data_keys") or getattr(container, "data_keys", None) or []
    # kornia itself refuses inputs and keys of different numbers, with a message of its own.
    pairs = zip(keys, inputs, strict=False)
    return [(DataKey.get(key).name.lower(), value) for key, value in pairs]


def _clear_labels(container: nn.Module, inputs: Any, output: Any) -> None:
    """Forget the labels after a call, and after one that failed."""
    _set_labels(container, None)


def _set_labels(container: nn.Module, labels: Any) -> None:
    for nfa in _augmentations(container):
        nfa.labels = labels


def _augmentations(container: nn.Module) -> list[NFAugmentation]:
    return [module for module in container.modules() if isinstance(module, NFAugmentation)]
