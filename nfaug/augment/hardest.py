"""Hardest of several variants: the one with the largest loss under the classifier in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["hardest"]


@torch.no_grad()
def hardest(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the variant of each image with the largest cross-entropy under a classifier.

    Of the variants x_1, ..., x_m of an image of class y, this is the one with the smallest
    p(y | x_j). The classifier runs once on all variants, in evaluation mode, without gradients and
    under the caller's autocast. Its batch statistics and the modes of its modules do not change.
    The cost is m more forward passes of the batch.

    Example:
        >>> import torch
        >>> import nfaug
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> images, labels = torch.rand(16, 4, 3, 8, 8), torch.randint(10, (16,))
        >>> nfaug.hardest(model, images, labels).shape
        torch.Size([16, 3, 8, 8])

    Args:
        model: The classifier, from (B, C, H, W) to logits (B, K), on the device of the images.
        images: Variants (B, m, C, H, W), as a loader over `BankDataset(..., candidates=m)` gives
            them.
        labels: Integers (B,), or class probabilities (B, K).

    Returns:
        Images (B, C, H, W). Of variants with equal losses, the first.

    Raises:
        ValueError: The shapes do not fit.
    """
    if images.dim() != 5 or len(images) != len(labels):
        raise ValueError(
            f"images must have the shape (B, m, C, H, W) with one label each; got "
            f"{tuple(images.shape)} and {len(labels)} labels"
        )
    count = images.shape[1]
    with _evaluating(model):
        logits = model(images.flatten(0, 1)).float()
    if not labels.is_floating_point():
        labels = labels.long()
    losses = F.cross_entropy(logits, labels.repeat_interleave(count, 0), reduction="none")
    found = losses.unflatten(0, (-1, count)).argmax(1)
    return images[torch.arange(len(images), device=images.device), found]


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while the block runs; afterwards each module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
