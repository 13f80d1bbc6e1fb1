"""Implicit semantic data augmentation (Wang et al. 2019, arXiv:1909.12220), a rival of NFA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ISDA"]


class ISDA(nn.Module):
    """Cross-entropy of features under gaussian noise with the class's covariance, in its limit.

    With features a of class y, weights w and biases b of the last layer, the loss is the
    cross-entropy of the logits

        w_j . a + b_j + lambda / 2 (w_j - w_y)^T Sigma_y (w_j - w_y),

    an upper bound of the expected loss over a + N(0, lambda Sigma_y) (Eq. 5). Sigma_y (K, A, A) is
    estimated from the features of all batches so far. lambda grows linearly to `strength`.
    """

    def __init__(self, head: nn.Linear, strength: float) -> None:
        super().__init__()
        classes, size = head.weight.shape
        self.head, self.strength = head, strength
        self.register_buffer("count", torch.zeros(classes))
        self.register_buffer("mean", torch.zeros(classes, size))
        self.register_buffer("covariance", torch.zeros(classes, size, size))

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Merge a batch (B, A) into the running means and covariances of its classes."""
        for y in labels.unique().tolist():
            rows = features[labels == y]
            before, new = self.count[y], len(rows)
            share = new / (before + new)
            mean = rows.mean(0)
            centred, shift = rows - mean, self.mean[y] - mean
            own = centred.T @ centred / new
            between = share * (1 - share) * torch.outer(shift, shift)
            self.covariance[y] = (1 - share) * self.covariance[y] + share * own + between
            self.mean[y] += share * (mean - self.mean[y])
            self.count[y] = before + new

    def forward(self, features: Tensor, labels: Tensor, done: float) -> Tensor:
        """The mean loss of a batch (B, A) after a share `done` of the steps."""
        features = features.float()
        self.update(features, labels)
        weight = self.head.weight.float()
        difference = weight[None] - weight[labels][:, None]  # (B, K, A)
        spread = torch.einsum("bka,bac,bkc->bk", difference, self.covariance[labels], difference)
        logits = F.linear(features, weight, self.head.bias.float())
        return F.cross_entropy(logits + 0.5 * self.strength * done * spread, labels)
