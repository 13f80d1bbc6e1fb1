"""CNN-Acc: accuracy of a classifier trained only on images that the flow generates."""

from __future__ import annotations

import torch
from torch import Tensor

from ...augment.preview import sample_images
from ...flows.flow import Flow
from ...gaussians.gaussians import ClassGaussians
from .classifier import accuracy, resnet18, train_classifier

__all__ = ["cnn_accuracy"]


def cnn_accuracy(
    flow: Flow,
    gaussians: ClassGaussians,
    test_images: Tensor,
    test_labels: Tensor,
    *,
    temperature: float = 1.0,
    per_class: int = 500,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 0.05,
    small: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> float:
    """Accuracy on real images of a ResNet-18 trained only on generated ones (paper, section 5.3).

    `per_class` latents of each class are drawn once from N(mu_y, T^2 Sigma_y) and decoded; the
    network trains on these images for `steps` steps.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: If the flow has a single gaussian.
    """
    if gaussians.num_classes < 2:
        raise ValueError("CNN-Acc needs class gaussians; this flow has one for all images")
    labels = torch.arange(gaussians.num_classes).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(seed)
    images = sample_images(flow, gaussians, labels, temperature=temperature, generator=generator)
    model = resnet18(images.shape[1], gaussians.num_classes, seed=seed, small=small)
    train_classifier(
        model,
        images.cpu(),
        labels,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        progress="CNN-Acc" if progress else None,
    )
    return accuracy(model, test_images, test_labels)
