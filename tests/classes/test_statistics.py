from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from torch import Tensor

from nfaug.classes.statistics import ClassStatistics

CLASSES, DIM = 4, 6


def make_data(samples: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, DIM, generator=generator, dtype=torch.float64) * 0.1 + 30
    labels = torch.arange(samples) % CLASSES
    return z + labels[:, None], labels


def collect(z: Tensor, labels: Tensor, sizes: tuple[int, ...] = (200,)) -> ClassStatistics:
    statistics = ClassStatistics(CLASSES, DIM)
    for part, y in zip(z.split(list(sizes)), labels.split(list(sizes)), strict=True):
        statistics.update(part, y)
    return statistics


def assert_same(
    statistics: ClassStatistics, other: ClassStatistics, tolerance: float = 1e-12
) -> None:
    for mine, theirs in zip(statistics.finalize(), other.finalize(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=0)


def test_moments() -> None:
    z, labels = make_data()
    counts, means, variances = collect(z, labels, (64, 64, 64, 8)).finalize()
    assert counts.tolist() == [50] * CLASSES
    assert counts.dtype == torch.int64
    assert means.dtype == variances.dtype == torch.float64
    for y in range(CLASSES):
        torch.testing.assert_close(means[y], z[labels == y].mean(dim=0), rtol=1e-14, atol=0)
        expected = z[labels == y].var(dim=0, correction=0)
        torch.testing.assert_close(variances[y], expected, rtol=1e-11, atol=0)


def test_latents_in_image_shape_and_float32() -> None:
    z, labels = make_data()
    flat, shaped = ClassStatistics(CLASSES, DIM), ClassStatistics(CLASSES, DIM)
    flat.update(z.float(), labels)
    shaped.update(z.float().view(-1, 1, 2, 3), labels.int())
    assert_same(flat, shaped, 0)


@pytest.mark.parametrize("sizes", [(1,) * 200, (3, 197), (150, 0, 50)])
def test_batches_do_not_matter(sizes: tuple[int, ...]) -> None:
    z, labels = make_data()
    assert_same(collect(z, labels, sizes), collect(z, labels))


def hard_data() -> tuple[Tensor, Tensor]:
    """Means of 30 and deviations of 1e-4: raw sums of squares would lose eleven digits."""
    z, labels = make_data()
    return 30 + (z - 30) * 1e-3, labels


def reduce_in_process(rank: int, path: Path, results: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2
    )
    for name, (z, labels) in (("plain", make_data()), ("hard", hard_data())):
        # Unequal shares, one class in the first process alone and one in the second alone.
        mine = ((torch.arange(len(z)) < 150) | (labels == 0)) & (labels != 1)
        if rank == 1:
            mine = ~mine
        statistics = ClassStatistics(CLASSES, DIM)
        statistics.update(z[mine], labels[mine])
        statistics.all_reduce()
        found = dict(zip(FOUND, statistics.finalize(), strict=True))
        save_file(found, results / f"{name}{rank}.safetensors")
    # No process has samples of the last class, and the first process has no samples.
    empty = ClassStatistics(CLASSES, DIM)
    if rank == 1:
        empty.update(torch.full((2, DIM), 5.0), torch.tensor([0, 1]))
    empty.all_reduce()
    assert empty.counts.tolist() == [1, 1, 0, 0]
    assert empty.means[:, 0].tolist() == [5, 5, 0, 0]
    assert not empty.m2.any()
    torch.distributed.destroy_process_group()


FOUND = ("counts", "means", "variances")


def test_all_reduce_of_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        reduce_in_process, (tmp_path / "store", tmp_path), 2, start_method="forkserver"
    )
    for name, data in (("plain", make_data()), ("hard", hard_data())):
        expected = collect(*data).finalize()
        for rank in range(2):
            found = load_file(tmp_path / f"{name}{rank}.safetensors")
            for key, value in zip(FOUND, expected, strict=True):
                torch.testing.assert_close(found[key], value, rtol=1e-10, atol=0)


def test_constant_coordinates_get_the_floor() -> None:
    z, labels = make_data()
    z[:, 2] = 0.3
    statistics = collect(z, labels)
    found = statistics.finalize()
    assert (found[2][:, 2] == 1e-6).all()
    for tensor in found:
        tensor.zero_()
    assert_same(statistics, collect(z, labels), 0)


def test_classes_with_few_samples() -> None:
    z, labels = make_data()
    statistics = ClassStatistics(CLASSES, DIM)
    statistics.update(z[:6], labels[:6])  # two of the first two classes, one of the others
    counts, means, variances = statistics.finalize()
    assert counts.tolist() == [2, 2, 1, 1]
    assert torch.equal(means[2:], z[2:4])
    for variance in variances[2:]:
        torch.testing.assert_close(variance, variances[:2].mean(dim=0))
    lone = ClassStatistics(1, DIM)
    lone.update(z[:1], labels[:1])
    assert torch.equal(lone.finalize()[2], torch.ones(1, DIM, dtype=torch.float64))
    empty = ClassStatistics(3, DIM)
    empty.update(z[:1], labels[:1])
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        empty.finalize()


@pytest.mark.parametrize(
    ("z", "labels", "token"),
    [
        (torch.zeros(2, 5), torch.zeros(2).long(), r"\(2, 5\)"),
        (torch.zeros(2, 6).long(), torch.zeros(2).long(), "int64"),
        (torch.zeros(2, 6), torch.zeros(3).long(), r"\(3,\)"),
        (torch.zeros(2, 6), torch.zeros(2), "float32"),
        (torch.zeros(2, 6), torch.tensor([0, 4]), r"\[0, 4\)"),
        (
            torch.tensor([[0.0] * 6, [math.nan] * 6]),
            torch.tensor([0, 3]),
            "class 3",
        ),
    ],
)
def test_bad_batches_change_nothing(z: Tensor, labels: Tensor, token: str) -> None:
    statistics = collect(*make_data())
    with pytest.raises(ValueError, match=token):
        statistics.update(z, labels)
    assert_same(statistics, collect(*make_data()), 0)
