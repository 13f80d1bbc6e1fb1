"""ClasswisePCA: principal axes of every class in latent space, and a memory of coefficients."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..run.blocks import blocks
from ..run.device import is_read_at_once

# Up to this many classes, an accelerator multiplies every image with the axes of all classes at
# once; above, with copies of the axes of the image's class.
GEMM_CLASSES = 64
_COPIED = 2**28  # bytes of axes that are copied at a time
_COLUMNS = 2**14  # the fewest that the CPU projects at a time: below, a matrix product is slow

# Type and shape of each tensor, for K classes, dimension d, rank r and N rows of memory: "Krd" is
# (K, r, d).
_TENSORS: dict[str, tuple[torch.dtype, str]] = {
    "mean": (torch.float32, "Kd"),
    "axes": (torch.float16, "Krd"),
    "eigenvalues": (torch.float32, "Kr"),
    "ranks": (torch.int64, "K"),
    "counts": (torch.int64, "K"),
    "gate_distance": (torch.float32, "K"),
    "gate_energy": (torch.float32, "K"),
    "memory": (torch.float16, "Nr"),
    "memory_labels": (torch.int64, "N"),
}
_MEMORY = {"memory", "memory_labels"}


class ClasswisePCA(nn.Module):
    """The axes of every class in latent space, and the memory from which partners are drawn.

        a = U_y^T (z - m_y) / s,    z + s U_y delta

    with mean m_y and orthonormal axes U_y of class y, and s = 1 unless `rescaled`. Methods take
    latents of shape (B, d) or (B, C, H, W) with C*H*W = d, and int64 labels of shape (B,). They do
    not synchronize an accelerator. Fit one with `nfaug.fit`.

    Args:
        tensors: The first nine attributes by name, or the first seven if there is no memory.

    Example:
        >>> import torch
        >>> import nfaug
        >>> pca = nfaug.load("builtin:rgb32").pca
        >>> z, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
        >>> a, energy = pca.locate(z, labels)
        >>> a.shape == (4, pca.rank), pca.add(z, labels, -a).shape
        (True, torch.Size([4, 3, 32, 32]))

    Attributes:
        mean: (K, d) means.
        axes: (K, r, d) orthonormal rows; rows from `ranks[y]` on are zero. Their values are exact
            in float16. They are held in float32 for up to 64 classes, else in float16.
        eigenvalues: (K, r) variances along the axes, zero for unused rows.
        ranks: (K,) numbers of axes.
        counts: (K,) numbers of images that the classes were fitted on.
        gate_distance: (K,) largest `distance` that the gate lets through at 1.0.
        gate_energy: (K,) largest energy of `locate` that the gate lets through at 1.0.
        memory: (N, r) float16 coefficients of the fitted images, sorted by class, or None.
        memory_labels: (N,) classes of the memory's rows, or None.
        offsets: (K + 1,) first row of each class in the memory.
        num_classes, rank, dim: K, r and d.
        scale: s, the length of a latent in which coefficients and energies are 1.
        has_memory: Whether there is a memory.
        all_stored: Whether it has rows of every class.
        all_spanned: Whether the axes can span the images of every class: at most `rank` + 1.
    """

    num_classes: int
    rank: int
    dim: int
    has_memory: bool
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

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in _TENSORS:
            self.register_buffer(name, tensors.get(name))
        self.num_classes, self.rank, self.dim = self.axes.shape
        self.has_memory = self.memory is not None
        self.scale = 1.0
        self._at_once = self.num_classes <= GEMM_CLASSES
        if self._at_once:
            self.axes = self.axes.float()
        precisions = self.eigenvalues.reciprocal().masked_fill(self.eigenvalues <= 0, 0.0)
        self.register_buffer("precisions", precisions)
        sizes = self.ranks.new_zeros(self.num_classes + 1)
        if self.memory_labels is not None:
            sizes[1:] = torch.bincount(self.memory_labels, minlength=self.num_classes)
        self.register_buffer("offsets", sizes.cumsum(0))
        self.all_stored = bool((sizes[1:] > 0).all())
        self.all_spanned = bool((self.counts <= self.rank + 1).all())

    def extra_repr(self) -> str:
        sizes = f"num_classes={self.num_classes}, dim={self.dim}, rank={self.rank}"
        return f"{sizes}, memory={int(self.offsets[-1])}"

    def rescaled(self, scale: float, shift: float) -> ClasswisePCA:
        """The same classes for latents z' = scale * z + shift, with the same coefficients.

        Args:
            scale: s.
            shift: What is added.

        Returns:
            A PCA that shares all tensors but the mean.
        """
        other = copy.copy(self)
        other._buffers = {**self._buffers, "mean": self.mean * scale + shift}
        other.scale = self.scale * scale
        return other

    def locate(
        self, z: Tensor, labels: Tensor, place: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The coefficients of latents in their class, and what the axes leave out.

        Args:
            z: Latents, (B, d) or (B, C, H, W); with `place` (N, d) or (N, C, H, W).
            labels: Their classes, (B,), int64.
            place: (B,) positions of the latents in `z`, or None for all in order. On a CPU they are
                not copied.

        Returns:
            The coefficients a = U_y^T (z - m_y) / s, (B, r), float32, which are 0 from the class's
            number of axes on; and the energy |z - m_y|^2 / s^2 - |a|^2, (B,).

        Example:
            >>> coefficients, energy = pca.locate(z, labels)
            >>> energy.shape
            torch.Size([4])
        """
        z = z.flatten(1)
        if is_read_at_once(z.device):
            coefficients = z.new_zeros(len(labels), self.rank, dtype=torch.float32)
            squares = z.new_zeros(len(labels), dtype=torch.float32)
            for label, rows in _rows_by_class(labels):
                taken = rows if place is None else place.index_select(0, rows)
                coefficients[rows], squares[rows] = self._locate(z, taken, label)
        else:
            if place is not None:
                z = z.index_select(0, place)
            centred = z.float() - self.mean[labels]
            coefficients = self._along_axes(centred, labels)
            squares = centred.square_().sum(1)
        if self.scale != 1:
            coefficients = coefficients / self.scale
            squares = squares / self.scale**2
        energy = squares - coefficients.square().sum(1)
        return coefficients, energy.clamp(min=0)

    def _locate(self, z: Tensor, rows: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """U^T (z - m), (n, r), and |z - m|^2, (n,), of these rows of z, which are of one class."""
        mean = self.mean[label]
        axes = self.axes[label]
        coefficients = []
        squares = []
        for columns in blocks(self.dim, 8 * len(rows), least=_COLUMNS):  # latents and their copies
            centred = z[:, columns].index_select(0, rows).float().sub_(mean[columns])
            coefficients.append((centred @ axes[:, columns].float().T).float())
            squares.append(torch.linalg.vector_norm(centred, dim=1).square_())
        if len(squares) == 1:
            return coefficients[0], squares[0]
        return torch.stack(coefficients).sum(0), torch.stack(squares).sum(0)

    def add(self, z: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
        """Move latents along the axes of their class: z + s U_y delta.

        Args:
            z: Latents, (B, d) or (B, C, H, W).
            labels: Their classes, (B,), int64.
            delta: Changes of the coefficients, (B, r).

        Returns:
            The latents, in the shape of `z` and in floating point.
        """
        if self.scale != 1:
            delta = delta * self.scale
        if not is_read_at_once(z.device):
            return z + self._in_span(delta, labels).view_as(z)
        groups = _rows_by_class(labels)
        if len(groups) == 1:
            return self._add(z, groups[0][0], delta)
        moved = z.new_empty(z.shape, dtype=torch.promote_types(z.dtype, torch.float32))
        for label, rows in groups:
            moved[rows] = self._add(z.index_select(0, rows), label, delta.index_select(0, rows))
        return moved

    def _add(self, z: Tensor, label: int, delta: Tensor) -> Tensor:
        """z + U delta of latents of one class."""
        axes = self.axes[label].float()
        if z.is_floating_point():
            moved = (delta @ axes).to(torch.promote_types(z.dtype, torch.float32))
            return moved.view_as(z).add_(z)
        moved = z.flatten(1).float()  # a copy, to which the product is added in one pass
        return moved.addmm_(delta, axes).view(z.shape)

    def rebuild(self, coefficients: Tensor, labels: Tensor) -> Tensor:
        """The latents of coefficients, m_y + s U_y a.

        Args:
            coefficients: (B, r).
            labels: (B,), int64.

        Returns:
            Shape (B, d).
        """
        return self.add(self.mean.index_select(0, labels), labels, coefficients)

    def _along_axes(self, centred: Tensor, labels: Tensor) -> Tensor:
        """U_y^T of centred latents (B, d), shape (B, r), without reading the labels."""
        if not self._at_once:
            return _products(centred, labels, self.axes.mT)
        coefficients = centred @ self.axes.flatten(0, 1).T  # for the axes of all classes
        coefficients = coefficients.unflatten(1, (-1, self.rank))
        return coefficients[torch.arange(len(centred), device=centred.device), labels]

    def _in_span(self, delta: Tensor, labels: Tensor) -> Tensor:
        """U_y delta, shape (B, d), without reading the labels."""
        if not self._at_once:
            return _products(delta, labels, self.axes)
        deltas = delta.new_zeros(len(delta), self.num_classes, self.rank)  # 0 for other classes
        deltas[torch.arange(len(delta), device=delta.device), labels] = delta
        return deltas.flatten(1) @ self.axes.flatten(0, 1)

    def distance(self, coefficients: Tensor, labels: Tensor) -> Tensor:
        """The squared Mahalanobis distance along the axes, sum_i a_i^2 / eigenvalue_i.

        Args:
            coefficients: (B, r).
            labels: (B,), int64.

        Returns:
            Shape (B,); its mean over the fitted images of a class is about its number of axes.
        """
        return (coefficients.square() * self.precisions[labels]).sum(1)

    def is_near(self, coefficients: Tensor, labels: Tensor, radius: float) -> Tensor:
        """Whether coefficients lie near their class along its axes.

        Args:
            coefficients: (B, r).
            labels: (B,), int64.
            radius: The gate; 1.0 is the limit found at fitting.

        Returns:
            Shape (B,), bool.
        """
        limit = radius * radius * self.gate_distance[labels]
        return self.distance(coefficients, labels) <= limit

    def gate(self, z: Tensor, labels: Tensor, *, radius: float = 1.0) -> Tensor:
        """Whether latents lie near their class, along its axes and beside them.

        The limits are quantiles of distances and energies of held-out images (see `fit_class`).

        Args:
            z: Latents, (B, d) or (B, C, H, W).
            labels: Their classes, (B,), int64.
            radius: The setting `gate`: a factor of the limits as lengths; both limits are squares.

        Returns:
            Shape (B,), bool; False where the gate leaves an image unchanged.

        Example:
            >>> pca.gate(1000 * z, labels, radius=1.25)
            tensor([False, False, False, False])
        """
        coefficients, energy = self.locate(z, labels)
        return self.is_inside(coefficients, energy, labels, radius)

    def is_inside(
        self, coefficients: Tensor, energy: Tensor, labels: Tensor, radius: float
    ) -> Tensor:
        """The result of `gate` from that of `locate`.

        Args:
            coefficients: (B, r).
            energy: (B,).
            labels: (B,), int64.
            radius: The gate.

        Returns:
            Shape (B,), bool.
        """
        near = self.is_near(coefficients, labels, radius)
        return near & (energy <= radius * radius * self.gate_energy[labels])

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the axes and the memory, for `from_tensors`.

        Returns:
            Tensors by name; axes in float16.
        """
        tensors = {name: value for name, value in self.named_buffers() if name in _TENSORS}
        tensors["axes"] = self.axes.half()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ClasswisePCA:
        """The axes and the memory of tensors that `tensors` returned, from a source that is not
        trusted.

        Args:
            tensors: Tensors by name.

        Returns:
            The axes and the memory.

        Raises:
            ValueError: Lists all names that are missing or unexpected, and all wrong shapes and
                types; or names a tensor with wrong values.
        """
        _check(tensors)
        return cls(tensors)


def rows_by_class(labels: Tensor, rows: Tensor) -> list[Tensor]:
    """These positions of labels in parts, one for each class. Reads the labels."""
    return [rows.index_select(0, part) for _, part in _rows_by_class(labels.index_select(0, rows))]


def _rows_by_class(labels: Tensor) -> list[tuple[int, Tensor]]:
    """Each class among the labels (B,), with the positions of its latents. Reads the labels."""
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels).tolist()
    groups = enumerate(order.split(sizes))
    return [(label, rows) for label, rows in groups if len(rows) > 0]


def _products(rows: Tensor, labels: Tensor, matrices: Tensor) -> Tensor:
    """rows[i] @ matrices[labels[i]], (B, n), for rows (B, m) and matrices (K, m, n)."""
    products = [rows.new_zeros(0, matrices.shape[2])]
    for part in blocks(len(rows), 4 * matrices[0].numel(), at_once=_COPIED):
        products.append(torch.bmm(rows[part, None], matrices[labels[part]].float())[:, 0])
    return torch.cat(products)


def _check(tensors: Mapping[str, Tensor]) -> None:
    """Check names, types, shapes and values; see `ClasswisePCA.from_tensors`."""
    sizes = _check_shapes(tensors)
    _check_values(tensors, num_classes=sizes["K"], rank=sizes["r"])
    if "memory_labels" in tensors and bool((tensors["memory_labels"].diff() < 0).any()):
        raise ValueError("memory_labels must be sorted by class")
    _check_axes(tensors["axes"], tensors["ranks"])


def _check_shapes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Check names, types and shapes, and return the sizes K, d, r and N."""
    names = set(_TENSORS)
    if not tensors.keys() & _MEMORY:
        names -= _MEMORY
    problems = [f"{name} is missing" for name in sorted(names - tensors.keys())]
    problems.extend(f"{name} is unexpected" for name in sorted(tensors.keys() - names))
    sizes: dict[str, int] = {}
    for name, (dtype, letters) in _TENSORS.items():
        if name not in tensors:
            continue
        tensor = tensors[name]
        shape = tuple(tensor.shape)
        # The first tensor with a letter sets its size.
        for letter, size in zip(letters, shape, strict=False):
            sizes.setdefault(letter, size)
        expected = tuple(sizes.get(letter) for letter in letters)
        if tensor.dtype != dtype or shape != expected or 0 in shape:
            problems.append(f"{name} has {tensor.dtype} {shape}, not {dtype} {letters} {sizes}")
    if problems:
        raise ValueError(f"invalid tensors of a classwise PCA: {'; '.join(problems)}")
    return sizes


def _check_values(tensors: Mapping[str, Tensor], *, num_classes: int, rank: int) -> None:
    """Check that the values of all tensors but the axes are finite and in range."""
    limits = {
        "ranks": (0, rank),
        "counts": (1, math.inf),
        "eigenvalues": (0, math.inf),
        "gate_distance": (0, math.inf),
        "gate_energy": (0, math.inf),
        "memory_labels": (0, num_classes - 1),
    }
    for name, tensor in tensors.items():
        if name == "axes":
            continue
        low, high = limits.get(name, (-math.inf, math.inf))
        least = tensor.min().item()  # NaN if a value is NaN
        most = tensor.max().item()
        if not (low <= least and most <= high and math.isfinite(most - least)):
            raise ValueError(
                f"{name} must be finite, in [{low}, {high}]; got values from {least} to {most}"
            )


def _check_axes(axes: Tensor, ranks: Tensor) -> None:
    """Check that each class has as many axes of length 1 as its rank, and zeros after them."""
    for label, class_axes in enumerate(axes):  # in float32, all classes together may take 3 GB
        rank = int(ranks[label])
        lengths = torch.linalg.vector_norm(class_axes.float(), dim=1)
        is_one = (lengths[:rank] - 1).abs() <= 0.02  # false for NaN
        if not bool(is_one.all()) or bool(lengths[rank:].any()):
            raise ValueError(
                f"axes of class {label} must be {rank} rows of length 1 followed by zeros; got "
                f"lengths {lengths.tolist()[:9]}"
            )
