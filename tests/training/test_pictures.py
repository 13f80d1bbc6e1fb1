from __future__ import annotations

import pytest

from nfaug.data.images import TensorImages
from nfaug.training.run.context import TrainResult
from nfaug.training.run.pictures import figure_image, run_figures

pytestmark = pytest.mark.filterwarnings("ignore:.*distutils Version:DeprecationWarning")


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
        picture = figure_image(figure)
        low, high = picture.convert("L").getextrema()
        assert picture.width > 200
        assert low < high  # something is drawn


def test_a_flow_without_classes_has_its_loss(
    tiny_result: TrainResult, tiny_images: TensorImages
) -> None:
    one = TensorImages(tiny_images.images, tiny_images.targets * 0, ["all"])
    assert list(run_figures(tiny_result, one)) == ["loss"]
