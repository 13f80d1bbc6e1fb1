from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from nfaug.classes.fixed_point.solver import FixedPointConfig, FixedPointStep, solve
from nfaug.classes.gaussians import ClassGaussians
from nfaug.data.images import TensorImages
from nfaug.training import TrainResult
from nfaug.training.report.pictures import run_figures
from nfaug.training.report.plots import (
    convergence_curves,
    embedding_panels,
    figure_image,
    kl_heatmaps,
    loss_curve,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*distutils Version:DeprecationWarning")


def drawn(figure: Any) -> Any:
    """The figure, after it was rendered without a warning."""
    picture = figure_image(figure)
    low, high = picture.convert("L").getextrema()
    assert picture.width > 200
    assert low < high, "something is drawn"
    assert not plt.get_fignums(), "nothing stays open"
    return figure


def gaussians_of(classes: int, dim: int = 8) -> ClassGaussians:
    generator = torch.Generator().manual_seed(0)
    return ClassGaussians(
        3 * torch.randn(classes, dim, generator=generator), torch.ones(classes, dim)
    )


def test_figure_1() -> None:
    gaussians = gaussians_of(3, dim=64)
    labels = torch.arange(60) % 3
    latents = gaussians.sample(labels, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    figure = drawn(
        embedding_panels(
            latents,
            labels,
            {"data": gaussians, "far": gaussians_of(3, dim=64)},
            class_names=["$a$", "b_1", "<c>"],
            per_class=12,
        )
    )
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator was used"
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["latents of the data", "data", "far"]
    for axis in figure.axes:
        assert [len(spots.get_offsets()) for spots in axis.collections] == [12, 12, 12]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r"\$a\$", "b_1", "<c>"]


def test_long_and_foreign_class_names() -> None:
    """Cut names end in an ellipsis; characters without a font raise no warning."""
    names = ["n" * 60, "chat é 猫 🐱", "$" * 45]
    labels = torch.arange(30) % 3
    figure = embedding_panels(torch.randn(30, 8), labels, {}, class_names=names, per_class=10)
    drawn(figure)
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["n" * 39 + "…", names[1], r"\$" * 39 + "…"]


def test_many_classes_have_no_legend() -> None:
    gaussians = gaussians_of(14)
    labels = torch.arange(28) % 14
    latents = gaussians.sample(labels, generator=torch.Generator().manual_seed(1))
    figure = drawn(embedding_panels(latents, labels, {}, per_class=2))
    assert not figure.legends


def test_heatmaps() -> None:
    gaussians = gaussians_of(4)
    figure = drawn(kl_heatmaps({"one": gaussians, "two": gaussians_of(3)}))
    shown = figure.axes[0].images[0].get_array()
    assert np.asarray(shown) == pytest.approx(gaussians.pairwise_kl().numpy())


def test_convergence() -> None:
    gaussians = gaussians_of(3)
    result = solve(
        gaussians.means.double(), gaussians.variances.double(), FixedPointConfig(kld_weight=20.0)
    )
    still = [FixedPointStep(1, 1.0, 0.0, 1.0, 2.0), FixedPointStep(2, 0.0, 0.0, 1.0, 2.0)]
    figure = drawn(convergence_curves({"c = 20": result.history, "still": still}))
    lines = figure.axes[0].lines
    assert len(lines[0].get_xdata()) == len(result.history)


def test_loss() -> None:
    loss = [30.0, *(8.0 - 0.01 * i for i in range(99))]
    history = [{"step": 50, "bits_per_dim": 7.8}, {"step": 100, "bits_per_dim": 7.1}, {"step": 7}]
    axis = drawn(loss_curve(loss, history)).axes[0]
    assert len(axis.lines) == 2
    low, high = axis.get_ylim()
    assert low < 7.02
    assert high < 9, "the first steps do not flatten the rest"


@pytest.mark.parametrize("loss", [[], [3.0], [3.0, math.nan]])
def test_hardly_any_loss(loss: list[float]) -> None:
    drawn(loss_curve(loss))


def test_the_pictures_of_a_run(tiny_result: TrainResult, tiny_images: TensorImages) -> None:
    figures = run_figures(tiny_result, tiny_images, weights=(1.0, 20.0))
    assert list(figures) == ["loss", "latents", "kl", "convergence"]
    titles = [axis.get_title() for axis in figures["latents"].axes]
    assert titles == [
        "latents of the data",
        "gaussians of the data",
        "fixed point, c = 1",
        "fixed point, c = 20",
    ]
    for figure in figures.values():
        drawn(figure)
    one = TensorImages(tiny_images.images, tiny_images.targets * 0, ["all"])
    assert list(run_figures(tiny_result, one)) == ["loss"], "a flow without classes"
