"""Streaming counts, means and variances of each class's latents."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor

from ..run.blocks import blocks
from .gaussians import check_labels, check_latents

_LEAST_VARIANCE = 1e-6


class ClassStatistics:
    r"""Streaming first and second moments per class, in float64, from batches in any order.

    A batch with count n_b, mean m_b and sum of squared deviations M_b updates those of a class by

    .. math:: \delta = m_b - m, \quad m \leftarrow m + \frac{n_b}{n + n_b} \delta, \quad
              M \leftarrow M + M_b + \frac{n\, n_b}{n + n_b} \delta^2

    (Chan, Golub and LeVeque 1983), which does not subtract large squares.

    Use latents of images with dequantisation noise: without it, constant pixels (black borders)
    have no variance.

    Args:
        num_classes: The number of classes, K.
        dim: The number of latent coordinates, d.
        device: The device of the sums. It must support float64, which Apple GPUs do not.

    Example:
        >>> statistics = ClassStatistics(num_classes=2, dim=3)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> for _ in range(5):
        ...     statistics.update(torch.randn(4, 3), labels)
        >>> counts, means, variances = statistics.finalize()
        >>> counts
        tensor([10, 10])
        >>> means.shape
        torch.Size([2, 3])
    """

    num_classes: int
    dim: int
    counts: Tensor
    means: Tensor
    m2: Tensor

    def __init__(
        self, num_classes: int, dim: int, device: torch.device | str | None = None
    ) -> None:
        self.num_classes = num_classes
        self.dim = dim
        self.counts = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.means = torch.zeros(num_classes, dim, dtype=torch.float64, device=device)
        self.m2 = torch.zeros_like(self.means)

    @torch.no_grad()
    def update(self, z: Tensor, labels: Tensor) -> None:
        """Add a batch of latents, (B, d) or (B, C, H, W), with their labels (B,).

        Raises:
            ValueError: If a shape or label is wrong or a latent is not finite. Nothing is added.
        """
        check_latents(z, self.dim)
        check_labels(labels, len(z), self.num_classes)
        z = z.flatten(1).to(self.means.device)
        labels = labels.to(self.means.device, torch.int64)
        extremes = torch.stack([z.amin(dim=1), z.amax(dim=1)])  # both are NaN if a value is
        is_bad = ~extremes.isfinite().all(dim=0)
        if bool(is_bad.any()):
            raise ValueError(
                f"{int(is_bad.sum())} of {len(z)} latents are not finite, the first in class "
                f"{int(labels[is_bad][0])}; check the images and the flow's weights"
            )
        # Only the classes of this batch are updated: O(B d) for any number of classes.
        classes, rows = labels.unique(return_inverse=True)  # labels = classes[rows]
        counts = torch.bincount(rows, minlength=len(classes)).double()
        old_counts = self.counts[classes]
        new_counts = old_counts + counts
        for columns in blocks(self.dim, 8 * len(z)):  # of float64
            part = z[:, columns].double()
            means = part.new_zeros(len(classes), part.shape[1]).index_add_(0, rows, part)
            means /= counts[:, None]
            squares = (part - means[rows]).square_()
            m2 = torch.zeros_like(means).index_add_(0, rows, squares)
            delta = means - self.means[classes, columns]
            self.means[classes, columns] += delta * (counts / new_counts)[:, None]
            m2 += delta.square() * (old_counts * counts / new_counts)[:, None]
            self.m2[classes, columns] += m2
        self.counts[classes] = new_counts

    @torch.no_grad()
    def all_reduce(self) -> None:
        """Combine the statistics of all processes: first the means, then the squares around them.

        Every process must call it once, after its last update.
        """
        counts = self.counts[:, None]
        packed = torch.cat([counts, counts * self.means], dim=1)
        torch.distributed.all_reduce(packed)
        self.counts = packed[:, 0].clone()
        means = packed[:, 1:] / self.counts.clamp(min=1)[:, None]
        self.m2 += counts * (self.means - means).square()
        self.means = means
        torch.distributed.all_reduce(self.m2)

    def finalize(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute counts, means and variances.

        Variances are the maximum-likelihood estimates M/n, with a floor of 1e-6 because a constant
        coordinate would have infinite density. The floor is below 1/(12 * 128^2) = 5.1e-6, the
        variance of dequantisation noise in flow space. A class of one sample gets the mean variance
        of the other classes.

        Returns:
            The counts (K,) in int64, and the means (K, d) and variances (K, d) in float64.

        Raises:
            ValueError: If a class has no samples.
        """
        counts = self.counts.round().to(torch.int64)
        empty = (counts == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"every class needs a sample; those of index {empty[:9]} have none")
        variances = self.m2 / self.counts[:, None]
        single = counts == 1
        other_variances = variances[~single]
        if len(other_variances) > 0:
            variances[single] = other_variances.mean(dim=0)
        else:
            variances[single] = 1.0
        return counts, self.means.clone(), variances.clamp_(min=_LEAST_VARIANCE)
