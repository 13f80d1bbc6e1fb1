"""One ascent step on the weights of mixing, through the decoder and a classifier.

Flow-based latent perturbations (arXiv:2108.07958) move a latent anywhere near its image. Here only
the weights w of mixing move, so that a variant stays on the axes between two images of a class. The
classifier is trained on the labelled images alone beforehand, so that banks can be made: the cheap
form of an online step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nfaug import Flow
from nfaug.data.images import TensorImages

from .classifiers import new_classifier, train_classifier

__all__ = ["bare_classifier", "weight_signs"]

_STEPS = 2000


@torch.enable_grad()
def bare_classifier(labelled: TensorImages, seed: int) -> nn.Module:
    """The study's small CNN, trained on the labelled images with flip + crop."""
    model = new_classifier(labelled.channels, len(labelled.classes), seed)
    images = labelled.images
    train_classifier(
        model,
        lambda rows, *_: images[rows],
        "flip+crop",
        labelled.targets,
        steps=_STEPS,
        seed=seed,
    )
    return model.eval().requires_grad_(False)


@torch.enable_grad()
def weight_signs(
    flow: Flow,
    model: nn.Module,
    z: Tensor,
    weights: Tensor,
    difference: Tensor,
    axes: Tensor,
    labels: Tensor,
) -> Tensor:
    """sign dL/dw, L the cross-entropy of decode(z + (w * difference) axes), in {-1, 0, 1}; (N, r).

    Args:
        flow: The flow.
        model: Classifier of images in [-1, 1].
        z: Latents (N, d).
        weights: w (N, r).
        difference: Coefficients of the partners less those of the images (N, r).
        axes: Axes (r, d).
        labels: Labels (N,).
    """
    w = weights.detach().requires_grad_()
    latents = z + (w * difference) @ axes
    images = flow.decode(latents.unflatten(1, flow.config.shape), quantize=False)
    loss = F.cross_entropy(model(2 * images - 1), labels, reduction="sum")
    return torch.autograd.grad(loss, w)[0].sign()
