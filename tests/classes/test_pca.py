from __future__ import annotations

import copy
import warnings

import pytest
import torch
from tools.device import pretended_gpu
from tools.nfa import fit_pca
from torch import Tensor

from nfaug.classes.pca import ClasswisePCA
from nfaug.classes.pca_fit import fit_class

CLASSES, DIM, RANK = 4, 40, 6


def draws(seed: int = 0, count: int = 60) -> list[Tensor]:
    """Latents of every class: a few strong directions, and noise."""
    generator = torch.Generator().manual_seed(seed)
    latents = []
    for label in range(CLASSES):
        basis = torch.randn(8, DIM, generator=generator)
        scale = torch.arange(8, 0, -1.0)
        latents.append(
            torch.randn(count + label, 8, generator=generator) * scale @ basis
            + 0.1 * torch.randn(count + label, DIM, generator=generator)
            + 3 * label
        )
    return latents


@pytest.fixture(scope="module")
def pca() -> ClasswisePCA:
    return fit_pca(draws(), rank=RANK)


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (13,), generator=generator)
    return torch.randn(13, DIM, generator=generator) + 3.0 * labels[:, None], labels


def test_axes_agree_with_the_svd(pca: ClasswisePCA) -> None:
    for label, latents in enumerate(draws()):
        centred = (latents - latents.mean(0)).double()
        _, values, axes = torch.linalg.svd(centred, full_matrices=False)
        ours = pca.axes[label].double()
        assert torch.allclose(ours @ ours.T, torch.eye(RANK).double(), atol=2e-3)
        assert torch.allclose(
            (ours * axes[:RANK]).sum(1).abs(), torch.ones(RANK).double(), atol=1e-3
        )
        assert torch.allclose(
            pca.eigenvalues[label].double(), values[:RANK].square() / (len(latents) - 1), rtol=1e-4
        )
        assert (ours.gather(1, ours.abs().argmax(1, keepdim=True)) > 0).all(), "sign convention"
    assert pca.ranks.tolist() == [RANK] * CLASSES
    assert pca.counts.tolist() == [60, 61, 62, 63]


@pytest.mark.parametrize("shape", [(700, 600), (900, 30)], ids=["wide", "tall"])
def test_large_classes_agree_with_the_exact_axes(shape: tuple[int, int]) -> None:
    """The axes of more than 512 images are those of a randomized method."""
    count, dim = shape
    generator = torch.Generator().manual_seed(0)
    scale = 0.8 ** torch.arange(dim)
    latents = torch.randn(count, dim, generator=generator) * scale
    ours = fit_class(latents, 5, generator=torch.Generator().manual_seed(1))
    again = fit_class(latents, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours.axes, again.axes)
    centred = (latents - latents.mean(0)).double()
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:5]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    assert torch.allclose(ours.axes.double(), axes, atol=2e-3)
    variances = values[:5].square() / (count - 1)
    assert torch.allclose(ours.eigenvalues.double(), variances, rtol=1e-4)
    energy = (centred - centred @ axes.T @ axes).square().sum(1).quantile(0.99)
    assert float(ours.gate_energy) == pytest.approx(float(energy), rel=0.1)


def test_locate_and_add_against_the_definition(pca: ClasswisePCA) -> None:
    z, labels = batch()
    a = pca.locate(z, labels)[0]
    delta = torch.randn(13, RANK, generator=torch.Generator().manual_seed(2))
    moved = pca.add(z, labels, delta)
    for i, label in enumerate(labels.tolist()):
        axes = pca.axes[label]
        assert torch.allclose(a[i], axes @ (z[i] - pca.mean[label]), atol=1e-4)
        assert torch.allclose(moved[i], z[i] + delta[i] @ axes, atol=1e-5)
    inside = pca.add(pca.mean[labels], labels, a)
    assert torch.allclose(pca.locate(inside, labels)[0], a, rtol=5e-3, atol=2e-2)


def test_rescaled_latents_have_the_same_coefficients(
    pca: ClasswisePCA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in parts of a few columns, and as 8 bits, whose sum with the change is a float."""
    z, labels = batch()
    levels = (z * 20 + 100).round().clamp(0, 255)
    z = (levels - 100) / 20
    delta = torch.randn(13, RANK, generator=torch.Generator().manual_seed(2))
    rescaled = pca.rescaled(20.0, 100.0)
    assert rescaled.axes is pca.axes
    assert (pca.scale, rescaled.scale) == (1, 20)
    moved = pca.add(z, labels, delta) * 20 + 100
    for given in (levels, levels.to(torch.uint8)):
        for found, expected in zip(
            rescaled.locate(given, labels), pca.locate(z, labels), strict=True
        ):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)
        assert torch.allclose(rescaled.add(given, labels, delta), moved, atol=1e-3)
    whole = pca.locate(z, labels)
    monkeypatch.setattr("nfaug.classes.pca._COLUMNS", 5)
    monkeypatch.setattr("nfaug.run.blocks.IN_CACHE", 1)
    for found, expected in zip(pca.locate(z, labels), whole, strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-4)


def scores_of(pca: ClasswisePCA, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What the gate compares: the distance along the axes, and the energy beside them."""
    coefficients, energy = pca.locate(z, labels)
    return pca.distance(coefficients, labels), energy


def sizes(classes: int, dim: int, rank: int) -> ClasswisePCA:
    """A PCA of random latents: few of many classes, or more dimensions."""
    generator = torch.Generator().manual_seed(0)
    return fit_pca(torch.randn(classes, rank + 2, dim, generator=generator), rank=rank)


@pytest.mark.parametrize(
    ("classes", "dim", "rank", "count"),
    [(4, 40, 6, 13), (65, 40, 6, 13), (65, 2048, 32, 1100)],
    ids=["all classes", "copies", "copies in parts"],
)
def test_a_gpu_computes_the_same(classes: int, dim: int, rank: int, count: int) -> None:
    """It multiplies with all axes up to 64 classes, then with copies, 2^26 values at a time."""
    pca = sizes(classes, dim, rank)
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(classes, (count,), generator=generator)
    image = torch.randn(count, dim // 4, 2, 2, generator=generator)
    delta = torch.randn(count, rank, generator=generator)
    expected = pca.locate(image, labels)[0], pca.add(image, labels, delta)
    with pretended_gpu() as gpu:
        other = copy.deepcopy(pca).to(gpu)
        assert other.axes.dtype == (torch.float32 if classes <= 64 else torch.float16)
        z, there, change = (x.to(gpu) for x in (image, labels, delta))
        found = other.locate(z, there)[0].cpu()
        moved = other.add(z, there, change).cpu()
        assert other.locate(z[:0], there[:0])[0].shape == (0, rank)
        assert other.add(z[:0], there[:0], change[:0]).shape == (0, dim // 4, 2, 2)
    assert torch.allclose(found, expected[0], atol=1e-3)
    assert moved.shape == image.shape
    assert torch.allclose(moved, expected[1], atol=1e-4)


def test_autocast_changes_nothing_but_precision(pca: ClasswisePCA) -> None:
    z, labels = batch()
    delta = torch.ones(13, RANK)
    with torch.autocast("cpu", torch.bfloat16):
        a, moved = pca.locate(z, labels)[0], pca.add(z, labels, delta)
    assert torch.allclose(a.float(), pca.locate(z, labels)[0], rtol=0.05, atol=0.2)
    assert torch.allclose(moved.float(), pca.add(z, labels, delta), rtol=0.05, atol=0.2)


def test_permuting_the_batch_permutes_the_result(pca: ClasswisePCA) -> None:
    z, labels = batch()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(
        pca.locate(z[order], labels[order])[0], pca.locate(z, labels)[0][order], atol=1e-5
    )
    assert pca.locate(z[:0], labels[:0])[0].shape == (0, RANK)
    assert pca.add(z[:0], labels[:0], torch.zeros(0, RANK)).shape == (0, DIM)


def test_memory_is_sorted_and_holds_the_coefficients(pca: ClasswisePCA) -> None:
    assert pca.has_memory
    assert pca.memory is not None
    assert pca.memory_labels is not None
    assert pca.offsets.tolist() == [0, 60, 121, 183, 246]
    latents = draws()
    part = pca.memory[60:121]
    expected = pca.locate(latents[1], torch.ones(61, dtype=torch.int64))[0]
    assert torch.allclose(part.float(), expected, rtol=2e-3, atol=2e-2)
    assert not fit_pca(draws(), rank=RANK, memory=False).has_memory


def test_gate_separates_the_class_from_other_latents(pca: ClasswisePCA) -> None:
    fresh = [row[-20:] for row in draws(count=80)]  # seed 0: the same directions, new images
    fitted = fit_pca([row[:-20] for row in draws(count=80)], rank=RANK)
    for label, latents in enumerate(fresh):
        labels = torch.full((20,), label)
        assert fitted.gate(latents, labels).float().mean() >= 0.85
        assert not fitted.gate(latents + 20 * torch.randn(DIM), labels).any(), "outside the span"
        far = fitted.add(latents, labels, 20 * fitted.eigenvalues[label].sqrt().expand(20, -1))
        assert not fitted.gate(far, labels).any(), "far inside the span"
        assert fitted.gate(far, labels, radius=100.0).all()
    distance, energy = scores_of(pca, *batch())
    assert (distance >= 0).all()
    assert (energy >= 0).all()


def test_gate_of_a_small_class_is_cross_fitted() -> None:
    latents = [row[:12] for row in draws()]
    fresh = [row[12:50] for row in draws()]
    fitted = fit_pca(latents, rank=64)
    share = torch.stack(
        [fitted.gate(z, torch.full((38,), y)).float().mean() for y, z in enumerate(fresh)]
    )
    assert fitted.ranks.tolist() == [11] * CLASSES
    assert share.mean() > 0.5, "with in-sample thresholds none would pass"


def test_range_is_that_of_fits_to_the_other_folds() -> None:
    latents = draws()[0]
    fold = torch.arange(len(latents)) % 5
    scores = []
    for number in range(5):
        held_out = latents[fold == number]
        fitted = fit_pca([latents[fold != number]], rank=RANK)
        labels = torch.zeros(len(held_out), dtype=torch.int64)
        scores.append(torch.stack(scores_of(fitted, held_out, labels)))
    distance, energy = torch.cat(scores, 1).quantile(0.99, dim=1).tolist()
    fit = fit_class(latents, RANK)
    assert float(fit.gate_distance) == pytest.approx(distance, rel=1e-3)
    # The axes of these fits are rounded to float16, and those that the range is from are not.
    assert float(fit.gate_energy) == pytest.approx(energy, rel=1e-2)


def test_few_images_cap_the_axes_and_unused_rows_are_zero() -> None:
    latents = draws()
    latents[2] = latents[2][:3]
    fitted = fit_pca(latents, rank=RANK)
    assert fitted.ranks.tolist() == [6, 6, 2, 6]
    assert not fitted.axes[2, 2:].any()
    z, labels = batch()
    assert torch.isfinite(fitted.locate(z, labels)[0]).all()
    assert torch.isfinite(torch.cat(scores_of(fitted, z, labels))).all()
    assert not fitted.locate(z, torch.full_like(labels, 2))[0][:, 2:].any()


def test_identical_images_and_a_single_image_have_no_axes() -> None:
    latents = draws()
    latents[1] = torch.full((20, DIM), 0.3)
    latents[2] = latents[2][:1]
    fitted = fit_pca(latents, rank=RANK)
    assert fitted.ranks.tolist() == [6, 0, 0, 6]
    assert fitted.offsets.diff().tolist() == [60, 20, 0, 63], "a single image is no partner"
    assert torch.equal(fitted.mean[2], latents[2][0])
    assert fitted.gate(latents[2] + 1, torch.tensor([2])).all(), "noise may change it"
    assert torch.isfinite(torch.cat(scores_of(fitted, *batch()))).all()


def test_tensors_round_trip_bit_for_bit(pca: ClasswisePCA) -> None:
    tensors = pca.tensors()
    assert tensors["axes"].dtype == torch.float16
    again = ClasswisePCA.from_tensors({name: value.clone() for name, value in tensors.items()})
    for name, value in again.tensors().items():
        assert torch.equal(value, tensors[name]), name
    assert torch.equal(again.locate(*batch())[0], pca.locate(*batch())[0])
    assert torch.equal(copy.deepcopy(pca).locate(*batch())[0], pca.locate(*batch())[0])
    blank = copy.deepcopy(pca)
    blank.precisions.zero_()
    blank.load_state_dict(pca.state_dict())
    assert torch.equal(blank.precisions, pca.precisions)
    assert repr(pca) == "ClasswisePCA(num_classes=4, dim=40, rank=6, memory=246)"


def broken(pca: ClasswisePCA, **changes: Tensor | None) -> dict[str, Tensor]:
    tensors = {name: value.clone() for name, value in pca.tensors().items()}
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    return tensors


def test_from_tensors_lists_all_errors(pca: ClasswisePCA) -> None:
    bad = broken(pca, mean=None, extra=torch.zeros(1), eigenvalues=torch.zeros(CLASSES, RANK + 1))
    with pytest.raises(
        ValueError,
        match=r"mean.*extra.*\(4, 7\).*'r': 6",
    ):
        ClasswisePCA.from_tensors(bad)
    good = pca.tensors()
    labels = good["memory_labels"]
    cases: list[tuple[dict[str, Tensor | None], str]] = [
        ({"memory": None}, "memory is missing"),
        ({"mean": good["mean"].double()}, r"^.*mean .*float64"),
        ({"axes": good["axes"].float()}, r"axes .*\(4, 6, 40\)"),
        ({"mean": good["mean"] / 0}, r"^mean "),
        ({"memory_labels": labels + 1}, "1 to 4"),
        ({"memory_labels": labels.flip(0)}, "sorted"),
        ({"ranks": good["ranks"] + 1}, r"^ranks .*7"),
        ({"axes": good["axes"] / 0}, r"^axes "),
        ({"eigenvalues": -good["eigenvalues"]}, r"^eigenvalues "),
        ({"memory": good["memory"][:0], "memory_labels": labels[:0]}, r"\(0, 6\)"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            ClasswisePCA.from_tensors(broken(pca, **changes))


def test_invalid_latents_name_the_class() -> None:
    latents = draws()
    cases = [
        ([latents[0], latents[1][:0]], "class 1"),
        ([latents[0], latents[1] / 0], "61 of 61"),
    ]
    for bad, message in cases:
        with pytest.raises(ValueError, match=message):
            fit_pca(bad, rank=2)


def test_coefficients_that_overflow_float16_are_left_out() -> None:
    latents = draws()
    latents[0][0] = 2e4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit_pca(latents, rank=RANK)
    assert fitted.offsets[1] == 59
    assert fitted.memory is not None
    assert torch.isfinite(fitted.memory).all()
