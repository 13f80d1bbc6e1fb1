from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from nfaug.classes.gaussians import ClassGaussians
from nfaug.data.images import TensorImages
from nfaug.training import TrainResult
from nfaug.training.pictures import embedding_panels, figure_image, kl_heatmaps, run_figures

pytestmark = pytest.mark.filterwarnings("ignore:.*distutils Version:DeprecationWarning")


def drawn(figure: Any) -> Any:
    """The figure, after it was rendered without a warning."""
    picture = figure_image(figure)
    low, high = picture.convert("L").getextrema()
    assert picture.width > 200
    assert low < high, "something is drawn"
    assert not plt.get_fignums(), "nothing stays open"
    return figure


def gaussians_of(classes: int, dim: int = 64) -> ClassGaussians:
    generator = torch.Generator().manual_seed(0)
    return ClassGaussians(
        3 * torch.randn(classes, dim, generator=generator), torch.ones(classes, dim)
    )


def test_panels_of_latents() -> None:
    """Long names are cut, characters without a font raise no warning, $ is no mathematics."""
    gaussians, names = gaussians_of(3), ["$a$", "n" * 60, "chat é 猫 🐱"]
    labels = torch.arange(60) % 3
    latents = gaussians.sample(labels, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    figure = drawn(
        embedding_panels(latents, labels, {"data": gaussians}, class_names=names, per_class=12)
    )
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator was used"
    assert [axis.get_title() for axis in figure.axes] == ["latents of the data", "data"]
    for axis in figure.axes:
        assert [len(spots.get_offsets()) for spots in axis.collections] == [12, 12, 12]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == [r"\$a\$", "n" * 39 + "…", names[2]]


def test_heatmaps() -> None:
    gaussians = gaussians_of(4)
    figure = drawn(kl_heatmaps({"one": gaussians, "two": gaussians_of(3)}))
    shown = figure.axes[0].images[0].get_array()
    assert np.asarray(shown) == pytest.approx(gaussians.pairwise_kl().numpy())


def test_the_figures_of_a_run(tiny_result: TrainResult, tiny_images: TensorImages) -> None:
    figures = run_figures(tiny_result, tiny_images)
    assert list(figures) == ["latents", "kl"]
    titles = [axis.get_title() for axis in figures["latents"].axes]
    assert titles == [
        "latents of the data",
        "gaussians of the data",
        "fixed point, c = 0.4",
        "fixed point, c = 20",
    ]
    one = TensorImages(tiny_images.images, tiny_images.targets * 0, ["all"])
    assert run_figures(tiny_result, one) == {}, "a flow without classes"
