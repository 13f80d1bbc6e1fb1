"""ClasswisePCA: principal axes of every class in latent space, and a memory of coefficients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ClasswisePCA"]

# The CPU multiplies the images of one class at a time with its axes. An accelerator would have to
# synchronize to learn their number. It multiplies every image with the axes of all classes, or, for
# many classes, with gathered axes of its own class.
_GEMM_CLASSES = 64
_GATHER_VALUES = 2**26  # values of axes gathered at a time: 256 MiB in float32


class ClasswisePCA(nn.Module):
    """Principal axes of every class in latent space, and a memory of partners.

        a = U_y^T (z - m_y),    z + U_y delta

    with mean m_y and orthonormal axes U_y of class y. Methods take latents of shape (B, d) or
    (B, C, H, W) with C*H*W = d, and int64 labels of shape (B,). They do not synchronize an
    accelerator. Fit one with `nfaug.fit` or `nfaug.classes.pca_fit.fit_pca`.

    Example:
        >>> import torch
        >>> from nfaug.classes.pca_fit import fit_pca
        >>> pca = fit_pca([torch.randn(50, 12), torch.randn(40, 12)], rank=3)
        >>> z, labels = torch.randn(4, 12), torch.tensor([0, 1, 1, 0])
        >>> a = pca.project(z, labels)
        >>> a.shape, pca.add(z, labels, -a).shape
        (torch.Size([4, 3]), torch.Size([4, 12]))

    Attributes:
        mean: (K, d) means.
        axes: (K, r, d) orthonormal rows; rows from `ranks[y]` on are zero. Their values are exact
            in float16. They are held in float32 for up to 64 classes, else in float16.
        eigenvalues: (K, r) variances along the axes, zero for unused rows.
        ranks: (K,) numbers of axes.
        counts: (K,) numbers of images that the classes were fitted on.
        gate_distance: (K,) largest distance of `scores` in the class's range.
        gate_energy: (K,) largest energy of `scores` in the class's range.
        memory: (N, r) float16 coefficients of the fitted images, sorted by class, or None.
        memory_labels: (N,) classes of the memory's rows, or None.
        offsets: (K + 1,) first row of each class in the memory.
    """

    mean: Tensor
    axes: Tensor
    eigenvalues: Tensor
    ranks: Tensor
    counts: Tensor
    gate_distance: Tensor
    gate_energy: Tensor
    memory: Tensor | None
    memory_labels: Tensor | None
    precisions: Tensor
    offsets: Tensor

    def __init__(
        self,
        mean: Tensor,
        axes: Tensor,
        eigenvalues: Tensor,
        ranks: Tensor,
        counts: Tensor,
        gate_distance: Tensor,
        gate_energy: Tensor,
        memory: Tensor | None = None,
        memory_labels: Tensor | None = None,
    ) -> None:
        super().__init__()
        classes = mean.shape[0]
        self._at_once = classes <= _GEMM_CLASSES
        held = torch.float32 if self._at_once else torch.float16
        self.register_buffer("mean", mean.float())
        self.register_buffer("axes", axes.half().to(held))
        self.register_buffer("eigenvalues", eigenvalues.float())
        self.register_buffer("ranks", ranks)
        self.register_buffer("counts", counts)
        self.register_buffer("gate_distance", gate_distance.float())
        self.register_buffer("gate_energy", gate_energy.float())
        self.register_buffer("memory", memory)
        self.register_buffer("memory_labels", memory_labels)
        precisions = self.eigenvalues.reciprocal().masked_fill(self.eigenvalues <= 0, 0.0)
        self.register_buffer("precisions", precisions, persistent=False)
        sizes = ranks.new_zeros(classes + 1)
        if memory_labels is not None:
            sizes[1:] = torch.bincount(memory_labels, minlength=classes)
        self.register_buffer("offsets", sizes.cumsum(0), persistent=False)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.mean.shape[0]

    @property
    def dim(self) -> int:
        """Dimension d of the latents."""
        return self.mean.shape[1]

    @property
    def rank(self) -> int:
        """Largest number r of axes of a class."""
        return self.axes.shape[1]

    @property
    def has_memory(self) -> bool:
        """Whether there is a memory of partners."""
        return self.memory is not None

    def project(self, z: Tensor, labels: Tensor) -> Tensor:
        """Coefficients a = U_y^T (z - m_y), shape (B, r)."""
        z = z.flatten(1).float()
        centred = z - self.mean[labels]
        if _one_class_at_a_time(z.device):
            return _class_by_class(centred, labels, self.axes.mT)
        if self._at_once:
            every = (centred @ self.axes.flatten(0, 1).T).unflatten(1, (-1, self.rank))
            return every.gather(1, self._index(labels)).squeeze(1)
        return self._gathered(centred, labels, self.axes.mT)

    def add(self, z: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
        """Latents moved inside the span of the class: z + U_y delta with delta of shape (B, r)."""
        if _one_class_at_a_time(z.device):
            moved = _class_by_class(delta, labels, self.axes)
        elif self._at_once:
            every = delta.new_zeros(len(delta), self.num_classes, self.rank)
            every.scatter_(1, self._index(labels), delta.unsqueeze(1))
            moved = every.flatten(1) @ self.axes.flatten(0, 1)
        else:
            moved = self._gathered(delta, labels, self.axes)
        return z + moved.view_as(z)

    def reconstruct(self, coefficients: Tensor, labels: Tensor) -> Tensor:
        """Latents m_y + U_y a of shape (B, d)."""
        return self.add(self.mean[labels], labels, coefficients)

    def scores(
        self, z: Tensor, labels: Tensor, coefficients: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Distance of latents from their class, inside and outside its span.

        Args:
            z: Latents.
            labels: Classes.
            coefficients: (B, r) result of `project`, if already computed.

        Returns:
            The squared Mahalanobis distance sum_i a_i^2 / eigenvalue_i and the energy
            |z - m_y|^2 - |a|^2, (B,) each.
        """
        a = self.project(z, labels) if coefficients is None else coefficients
        energy = (z.flatten(1).float() - self.mean[labels]).square().sum(1) - a.square().sum(1)
        return self.distance(a, labels), energy.clamp(min=0)

    def distance(self, coefficients: Tensor, labels: Tensor) -> Tensor:
        """Squared Mahalanobis distance sum_i a_i^2 / eigenvalue_i inside the span, (B,)."""
        return (coefficients.square() * self.precisions[labels]).sum(1)

    def gate(
        self, z: Tensor, labels: Tensor, coefficients: Tensor | None = None, *, radius: float = 1.0
    ) -> Tensor:
        """Whether the `scores` of latents lie in the class's range, (B,) bool.

        The range holds a quantile of held-out images of the class (see `fit_class`). `radius`
        scales it as a length: the scores are squares.
        """
        distance, energy = self.scores(z, labels, coefficients)
        scale = radius * radius
        inside = distance <= scale * self.gate_distance[labels]
        return inside & (energy <= scale * self.gate_energy[labels])

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name, for `from_tensors`; axes in float16."""
        tensors = {name: value for name, value in self.named_buffers() if name in _SHAPES}
        return tensors | {"axes": self.axes.half()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ClasswisePCA:
        """The PCA of the tensors that `tensors` returns.

        Raises:
            ValueError: Lists all keys that are missing or unexpected, and all wrong shapes and
                types; or names a tensor with wrong values.
        """
        _check_keys(tensors)
        _check_values(tensors)
        return cls(**tensors)

    def without_memory(self, max_axes_fraction: float | None = None) -> ClasswisePCA:
        """A copy without the partner memory, for sharing.

        With as many axes as images, the axes of a class nearly reproduce its images. The gate is
        widened by the largest energy along the removed axes, so that what was in range still is.

        Args:
            max_axes_fraction: Keep at most this number of leading axes per image of a class, in
                (0, 1]; None for all axes.

        Raises:
            ValueError: The fraction is out of range.
        """
        tensors = {k: v for k, v in self.tensors().items() if not k.startswith("memory")}
        if max_axes_fraction is None:
            return ClasswisePCA(**{name: value.clone() for name, value in tensors.items()})
        if not 0 < max_axes_fraction <= 1:
            raise ValueError(f"max_axes_fraction must be in (0, 1]; got {max_axes_fraction}")
        kept = torch.minimum(self.ranks, (self.counts * max_axes_fraction).long())
        rank = max(1, int(kept.max()))
        dropped = torch.arange(self.rank, device=kept.device) >= kept[:, None]
        largest = self.eigenvalues.masked_fill(~dropped, 0.0).amax(1)
        tensors["gate_energy"] = self.gate_energy + largest * self.gate_distance
        tensors["axes"] = tensors["axes"][:, :rank].masked_fill(dropped[:, :rank, None], 0.0)
        tensors["eigenvalues"] = self.eigenvalues.masked_fill(dropped, 0.0)[:, :rank]
        tensors["ranks"] = kept
        return ClasswisePCA(**{name: value.clone() for name, value in tensors.items()})

    def extra_repr(self) -> str:
        partners = 0 if self.memory is None else len(self.memory)
        return (
            f"num_classes={self.num_classes}, dim={self.dim}, rank={self.rank}, memory={partners}"
        )

    def _index(self, labels: Tensor) -> Tensor:
        return labels.view(-1, 1, 1).expand(-1, 1, self.rank)

    def _gathered(self, rows: Tensor, labels: Tensor, matrices: Tensor) -> Tensor:
        step = max(1, _GATHER_VALUES // (self.rank * self.dim))
        parts = [
            torch.bmm(rows[part].unsqueeze(1), matrices[labels[part]].float()).squeeze(1)
            for part in (slice(start, start + step) for start in range(0, len(rows), step))
        ]
        return torch.cat(parts) if parts else rows.new_zeros(0, matrices.shape[2])


def _one_class_at_a_time(device: torch.device) -> bool:
    return device.type == "cpu"


def _class_by_class(rows: Tensor, labels: Tensor, matrices: Tensor) -> Tensor:
    """rows[i] @ matrices[labels[i]], (B, n), for rows (B, m) and matrices (K, m, n)."""
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels, minlength=len(matrices)).tolist()
    products = [
        part @ matrices[label].float()
        for label, part in enumerate(rows[order].split(sizes))
        if len(part)
    ]
    if not products:
        return rows.new_zeros(0, matrices.shape[2])
    return torch.cat(products)[order.argsort()]


# Shapes by letter (K classes, dimension d, rank r, N rows of memory), and types.
_SHAPES = {
    "mean": ("Kd", torch.float32),
    "axes": ("Krd", torch.float16),
    "eigenvalues": ("Kr", torch.float32),
    "ranks": ("K", torch.int64),
    "counts": ("K", torch.int64),
    "gate_distance": ("K", torch.float32),
    "gate_energy": ("K", torch.float32),
    "memory": ("Nr", torch.float16),
    "memory_labels": ("N", torch.int64),
}
_OPTIONAL = {"memory", "memory_labels"}


def _check_keys(tensors: dict[str, Tensor]) -> None:
    found = set(tensors)
    optional = _OPTIONAL if found & _OPTIONAL else set()
    missing = sorted(((set(_SHAPES) - _OPTIONAL) | optional) - found)
    unexpected = sorted(found - set(_SHAPES))
    sizes: dict[str, int] = {}
    wrong = []
    for name in [name for name in _SHAPES if name in found]:
        tensor, (letters, dtype) = tensors[name], _SHAPES[name]
        shape = tuple(tensor.shape)
        fits = len(shape) == len(letters) and all(
            sizes.setdefault(letter, size) == size
            for letter, size in zip(letters, shape, strict=True)
        )
        if not fits or tensor.dtype != dtype:
            expected = ", ".join(f"{letter}={sizes.get(letter, 'any')}" for letter in letters)
            wrong.append(f"{name} is {tensor.dtype} {shape}, expected {dtype} ({expected})")
    if missing or unexpected or wrong:
        raise ValueError(
            f"invalid tensors of a classwise PCA: missing {missing}, unexpected {unexpected}, "
            f"misshapen {wrong}"
        )
    if 0 in sizes.values():
        raise ValueError(f"sizes of a classwise PCA must be >= 1; got {sizes}")


def _check_values(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} must be finite")
    classes, rank = tensors["eigenvalues"].shape
    for name, low, high in (
        ("eigenvalues", 0, None),
        ("gate_distance", 0, None),
        ("gate_energy", 0, None),
        ("ranks", 0, rank),
        ("counts", 1, None),
        ("memory_labels", 0, classes - 1),
    ):
        if name not in tensors:
            continue
        least, most = tensors[name].min().item(), tensors[name].max().item()
        if least < low or (high is not None and most > high):
            bounds = f">= {low}" if high is None else f"in [{low}, {high}]"
            raise ValueError(f"{name} must be {bounds}; got values from {least} to {most}")
    if "memory_labels" in tensors and bool((tensors["memory_labels"].diff() < 0).any()):
        raise ValueError("memory_labels must be sorted by class")
    for label, axes in enumerate(tensors["axes"]):  # one class at a time: all classes may take 3 GB
        used = int(tensors["ranks"][label])
        norms = torch.linalg.vector_norm(axes.float(), dim=1)
        if bool((norms[:used] - 1).abs().gt(0.02).any()) or bool(norms[used:].any()):
            raise ValueError(
                f"axes of class {label} must be {used} rows of length 1 followed by zeros; got "
                f"lengths from {float(norms.min()):g} to {float(norms.max()):g}"
            )
