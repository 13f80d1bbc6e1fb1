"""One Gaussian per class: the prior under which the flow is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ClassGaussians(nn.Module):
    r"""One Gaussian with diagonal covariance per class.

    .. math:: \log p(z \mid y) = -\frac12 \sum_i \left[
              \frac{(z_i - \mu_{yi})^2}{v_{yi}} + \log v_{yi} + \log 2\pi \right]

    Means and variances are buffers in float32, so ``state_dict`` and ``to`` include them and
    optimizers do not. Densities are computed in float64 (in float32 on devices without float64) and
    returned in the dtype of the latents, at least float32.

    Args:
        means: The class means, shape (K, d).
        variances: The class variances, shape (K, d), all positive.
        counts: The number of training samples of each class, shape (K,); 0 means unknown.

    Raises:
        ValueError: If shapes disagree, a value is not finite, a variance is not positive or a count
            is negative.

    Example:
        >>> gaussians = ClassGaussians(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.ones(2, 2))
        >>> z = torch.tensor([[1.5, 0.3], [-2.5, 0.1]])
        >>> gaussians.log_prob(z).argmax(1)  # the most likely class of each
        tensor([1, 0])
        >>> gaussians.log_prob(z, torch.tensor([1, 0]))
        tensor([-2.0079, -1.9679])
    """

    num_classes: int
    dim: int
    means: Tensor
    variances: Tensor
    counts: Tensor

    def __init__(self, means: Tensor, variances: Tensor, counts: Tensor | None = None) -> None:
        super().__init__()
        means = means.detach().to(torch.float32, copy=True)
        variances = variances.detach().to(torch.float32, copy=True)
        # After rounding, which turns very small variances into zero.
        check_gaussians(means, variances)
        self.num_classes, self.dim = means.shape
        if counts is None:
            counts = means.new_zeros(self.num_classes, dtype=torch.int64)
        shape = (self.num_classes,)
        if counts.shape != shape or counts.is_floating_point() or bool((counts < 0).any()):
            raise ValueError(
                f"counts must be {self.num_classes} integers of at least 0, got {counts.dtype} "
                f"{counts.tolist()[:9]}"
            )
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)
        self.register_buffer("counts", counts.detach().to(torch.int64, copy=True))

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, dim={self.dim}"

    def log_prob(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log-density of latents, in nats, under one class each or under all classes.

        Args:
            z: Latents of shape (B, d) or (B, C, H, W) with C*H*W = d.
            labels: The class of each latent, shape (B,), integers in [0, K).

        Returns:
            Shape (B,) with labels, otherwise (B, K); differentiable with respect to ``z``.
        """
        return self._log_prob(z, labels).to(torch.promote_types(z.dtype, torch.float32))

    def sample(
        self,
        labels: Tensor,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Draw one latent per label: :math:`\mu_y + T \sqrt{v_y}\,\epsilon`.

        Args:
            labels: The class of each sample, shape (B,), integers in [0, K).
            temperature: T, the factor of the standard deviation; 0 returns the class means.
            generator: Source of randomness. Numbers are drawn on its device.

        Returns:
            Shape (B, d), float32.

        Raises:
            ValueError: If the labels or the temperature are out of range.

        Example:
            >>> gaussians.sample(torch.tensor([1, 1]), temperature=0.0)
            tensor([[2., 0.],
                    [2., 0.]])
        """
        if not (temperature >= 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be finite and at least 0, got {temperature}")
        check_labels(labels, len(labels), self.num_classes)
        labels = labels.to(self.means.device, torch.int64)  # uint8 would index as a mask
        means = self.means[labels]
        device = means.device if generator is None else generator.device
        normal = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=device)
        return means + temperature * self.variances[labels].sqrt() * normal.to(means.device)

    def _log_prob(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """`log_prob` in float64, or in float32 on Apple's GPUs, which have no float64."""
        check_latents(z, self.dim)
        dtype = torch.float32 if z.device.type == "mps" else torch.float64
        z = z.flatten(1).to(dtype)
        if labels is not None:
            check_labels(labels, len(z), self.num_classes)
            labels = labels.long()  # uint8 would index as a mask
            # Index before the cast, which then converts B rows instead of K.
            means = self.means[labels].to(dtype)
            variances = self.variances[labels].to(dtype)
            distance = ((z - means).square() / variances).sum(dim=1)
        else:
            means = self.means.to(dtype)
            variances = self.variances.to(dtype)
            distance = _distances_to_all(z, means, variances)
        return -0.5 * (distance + (2 * math.pi * variances).log().sum(dim=1))


def _distances_to_all(z: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """sum_i (z_i - mu_yi)^2 / v_yi for every class y, shape (B, K)."""
    # Centred, because the expanded squares cancel if all means are far from 0.
    centre = means.mean(dim=0)
    z = z - centre
    means = means - centre
    scaled = means / variances
    distances = z.square() @ variances.reciprocal().T - 2 * (z @ scaled.T)
    return distances + (means * scaled).sum(dim=1)


def check_gaussians(means: Tensor, variances: Tensor) -> None:
    """Check that means are finite and variances positive, both floating point of shape (K, d)."""
    is_floating = means.is_floating_point() and variances.is_floating_point()
    if means.ndim != 2 or means.shape != variances.shape or 0 in means.shape or not is_floating:
        raise ValueError(
            "means and variances must be floating point, both (K, d), got "
            f"{means.dtype} {tuple(means.shape)} and {variances.dtype} {tuple(variances.shape)}"
        )
    is_valid = means.isfinite() & variances.isfinite() & (variances > 0)
    if not bool(is_valid.all()):
        first_class = int((~is_valid).any(dim=1).nonzero()[0])
        raise ValueError(
            f"means must be finite and variances positive and finite in {means.dtype}; those of "
            f"class {first_class} are not: check its latents"
        )


def check_latents(z: Tensor, dim: int) -> None:
    """Check that latents are floating point, of shape (B, dim) or (B, C, H, W)."""
    if z.ndim < 2 or math.prod(z.shape[1:]) != dim or not z.is_floating_point():
        raise ValueError(
            f"latents must be batches of {dim} floating-point values, got {z.dtype} of shape "
            f"{tuple(z.shape)}"
        )


def check_labels(labels: Tensor, batch: int, num_classes: int) -> None:
    """Check that labels are integers of shape (batch,) and, on the CPU, lie in [0, num_classes)."""
    if labels.shape != (batch,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be integers of shape ({batch},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    # Reading values from an accelerator would synchronize it in every training step.
    if batch and labels.device.type == "cpu":
        extremes = labels.long().aminmax()  # unsigned integers of 16 or more bits have no `aminmax`
        lowest = int(extremes.min)
        highest = int(extremes.max)
        if lowest < 0 or highest >= num_classes:
            raise ValueError(f"labels must lie in [0, {num_classes}), got {lowest} to {highest}")


def as_double(x: Tensor) -> Tensor:
    """The tensor in float64, on the CPU if its device (an Apple GPU) has no float64."""
    if x.device.type == "mps":
        x = x.cpu()
    return x.double()


def pairwise_kl(means: Tensor, variances: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence, in nats, between every pair of diagonal Gaussians.

    .. math:: KL(y \| y') = \frac12 \sum_i \left[ \frac{v_{yi} + (\mu_{yi} - \mu_{y'i})^2}{v_{y'i}}
              - 1 + \log v_{y'i} - \log v_{yi} \right]

    The means are centred over classes and the squares expanded into matrix products, which take
    O(K^2 d) time and O(Kd + K^2) memory. The absolute rounding error is about 1e-16 times the
    largest term. Results are clamped at 0, and the diagonal is exactly 0.

    Args:
        means: Shape (K, d).
        variances: Shape (K, d), or (K, 1) for one variance per class.

    Returns:
        KL(y || y') at [y, y'], shape (K, K), float64, differentiable; on the CPU if the device of
        the means has no float64.
    """
    mu = as_double(means)
    mu = mu - mu.mean(dim=0)
    v = as_double(variances).expand(means.shape)
    precisions = v.reciprocal()
    logdet = v.log().sum(dim=1)
    total = (v + mu.square()) @ precisions.T - 2 * mu @ (precisions * mu).T
    # The diagonal is d - sum mu^2/v; subtracting it adds the missing square and -d.
    kl = 0.5 * (total - total.diagonal() + logdet - logdet[:, None])
    kl = kl.clamp(min=0)
    kl.diagonal().zero_()
    return kl
