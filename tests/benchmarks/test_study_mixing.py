"""Other ways to mix latents, which the study tried."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nfa_tools import CLASSES, NAMES, images_of

from benchmarks.study import ascent, banks, candidates, data, flows, semi_supervised
from nfaug import Checkpoint
from nfaug.data.images import TensorImages


def test_levels_of_latents(tiny_checkpoint: Checkpoint) -> None:
    flow = tiny_checkpoint.flow
    levels = candidates.latent_levels(flow)
    last = flow.config.levels - 1
    assert levels.unique().tolist() == list(range(last + 1))
    coarse = flow.config.dim >> last  # each level but the last sets half of its latents aside
    assert int((levels == last).sum()) == coarse


@pytest.mark.parametrize(
    "more",
    [
        *("", "variance=1", "mix=pair", "levels=coarse", "axes=image", "near=2"),
        *("global=8 shrink=0.5", "ascent=0.5"),
    ],
)
def test_mixing_latents(
    more: str,
    source: data.DataSet,
    tiny_checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ascent, "_STEPS", 3)
    few = data.labelled(source, 6, seed=0)
    settings = dict(word.split("=") for word in f"variants=2 {more}".split())
    bank = candidates.latent_bank(tiny_checkpoint, few, settings, 0, source)
    assert bank.shape == (len(few), 2, 1, 8, 8)
    assert (bank != few.images[:, None]).flatten(2).any(2).float().mean() > 0.9
    assert torch.equal(bank, candidates.latent_bank(tiny_checkpoint, few, settings, 0, source))


def test_without_change_latents_decode_to_their_image(
    source: data.DataSet, tiny_checkpoint: Checkpoint
) -> None:
    few = data.labelled(source, 6, seed=0)
    for more in ({}, {"axes": "image"}, {"global": "8"}):
        settings = {"variants": "1", "strength": "0", **more}
        bank = candidates.latent_bank(tiny_checkpoint, few, settings, 0, source)
        assert torch.equal(bank[:, 0], few.images)


def test_axes_of_the_image_are_its_principal_components_in_pixel_space() -> None:
    images = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    plain, rotated = (
        candidates._class_axes(images, images, settings, None)
        for settings in ({}, {"axes": "image"})
    )
    assert torch.allclose(plain.coefficients.abs(), rotated.coefficients.abs(), atol=1e-4)
    coefficients = torch.randn(4000, 5, generator=torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(0)
    weights, difference = candidates._mixing(coefficients, {"variance": "1"}, draws)
    step = weights * difference
    assert (coefficients + step).var() == pytest.approx(1.0, abs=0.05), "the variance is kept"
    nearest = candidates._partners(torch.arange(6.0)[:, None], 1, torch.Generator())
    assert nearest[[0, 5]].tolist() == [1, 4]


def test_a_step_up_the_loss(source: data.DataSet, tiny_checkpoint: Checkpoint) -> None:
    few = data.labelled(source, 6, seed=0)
    flow, labels = tiny_checkpoint.flow.freeze(), few.targets
    z = flow.encode(few.images)[0].flatten(1)
    axes = torch.linalg.qr(torch.randn(64, 3, generator=torch.Generator().manual_seed(0)))[0].T
    difference = (z.roll(1, 0) - z) @ axes.T
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, CLASSES))
    weights = torch.full_like(difference, 0.5)
    signs = ascent.weight_signs(flow, model, z, weights, difference, axes, labels)

    def loss(w: torch.Tensor) -> float:
        images = flow.decode((z + (w * difference) @ axes).view(-1, 1, 8, 8), quantize=False)
        return float(torch.nn.functional.cross_entropy(model(2 * images - 1), labels).detach())

    assert loss(weights + 0.01 * signs) > loss(weights) > loss(weights - 0.01 * signs)


def test_borrowed_axes_hold_the_other_classes_deviations(tiny_checkpoint: Checkpoint) -> None:
    labels = torch.arange(12) % 3
    few = TensorImages(images_of(labels, channels=1), labels, NAMES)
    settings = {"shrink": "0.5", "rank": "9", "partners": "all", "gate": "off"}
    nfa = banks.fitted_augmentation(tiny_checkpoint, few, settings, 0)
    assert nfa.rank == 9, "as many as twelve images in three classes span; a class alone, three"
    assert nfa.memory_range(1) == (12, 24), "everybody's deviation"
    pca = nfa.engine.on(torch.device("cpu"))[1]
    z = nfa.engine.on(torch.device("cpu"))[0].encode(few.images)[0].flatten(1)
    for label in range(3):
        own = z[labels == label]
        kept = pca.memory[12 * label : 12 * label + 12][labels == label].float()
        back = pca.reconstruct(kept, torch.full((4,), label))
        assert torch.allclose(back, own, atol=0.02 * float(own.abs().max()))
    images, _ = nfa(few.images, labels)
    assert nfa.stats()["applied"] == 12
    assert not torch.equal(images, few.images)


def test_semi_supervised_fine_tuning_pulls_labelled_latents_to_their_class(
    source: data.DataSet, small_flows: None, tmp_path: Path
) -> None:
    few = data.labelled(source, 6, seed=3)
    start = flows.flow_for("u", source, few, 0, tmp_path).flow
    with torch.no_grad():
        gaussians = semi_supervised.class_gaussians(start, few)
        before = start.encode(few.images)[0]
        tuned = semi_supervised.fine_tuned(start, few, few.images, steps=30, seed=0)
        after = tuned.encode(few.images)[0]
        assert torch.equal(before, start.encode(few.images)[0]), "the flow itself stays"
    likely = gaussians.log_prob(after, few.targets) - gaussians.log_prob(before, few.targets)
    assert likely.mean() > 0
