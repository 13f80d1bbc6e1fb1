from __future__ import annotations

import io
import math
import sys
from typing import Any
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from nfaug.classes.fixed_point.solver import FixedPointConfig, FixedPointStep, solve
from nfaug.classes.gaussians import ClassGaussians
from nfaug.training.report.plots import (
    convergence_curves,
    embedding_panels,
    inline_svg,
    kl_heatmaps,
    log_curves,
    loss_curve,
    save,
)


def drawn(figure: Any) -> Any:
    """The figure, after it was rendered without a warning."""
    target = io.BytesIO()
    figure.savefig(target, format="png")
    assert target.getvalue().startswith(b"\x89PNG")
    assert not plt.get_fignums(), "nothing stays open"
    return figure


def gaussians_of(classes: int, dim: int = 8) -> ClassGaussians:
    generator = torch.Generator().manual_seed(0)
    return ClassGaussians(
        3 * torch.randn(classes, dim, generator=generator), torch.ones(classes, dim)
    )


@pytest.mark.parametrize("dim", [8, 64])
def test_figure_1(dim: int) -> None:
    gaussians = gaussians_of(3, dim)
    labels = torch.arange(60) % 3
    latents = gaussians.sample(labels, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    figure = drawn(
        embedding_panels(
            latents,
            labels,
            {"data": gaussians, "far": gaussians_of(3, dim)},
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
    # The classes lie apart, as they do in the latents.
    spots = figure.axes[0].collections[0].get_offsets()
    assert abs(spots - spots.mean(0)).max() < 2 * abs(spots.mean(0) - _centre(figure)).max()


def test_long_and_foreign_class_names() -> None:
    """Cut names end in an ellipsis; characters without a font raise no warning."""
    names = ["n" * 60, "chat é 猫 🐱", "$" * 45]
    labels = torch.arange(30) % 3
    figure = embedding_panels(torch.randn(30, 8), labels, {}, class_names=names, per_class=10)
    target = io.BytesIO()
    save(figure, target, format="png")
    assert target.getvalue().startswith(b"\x89PNG")
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["n" * 39 + "…", names[1], r"\$" * 39 + "…"]


def _centre(figure: Any) -> Any:
    centres = [spots.get_offsets().mean(0) for spots in figure.axes[0].collections]
    return sum(centres) / len(centres)


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


# Curves of the report.


def test_log_curves() -> None:
    nan, inf = math.nan, math.inf
    figure = drawn(log_curves([100, 200, 300], {"a": [4.0, 2.0, 1.0], "b": [nan, 3.0, inf]}))
    one, other = figure.axes[0].lines
    assert list(one.get_xdata()) == [100, 200, 300]
    assert list(one.get_ydata()) == [4, 2, 1]
    assert np.isfinite(other.get_ydata()).tolist() == [False, True, False]
    low, high = figure.axes[0].get_ylim()
    assert low < 1
    assert high > 4


@pytest.mark.parametrize("values", [[7.0, 7.0], [0.0], [-3.0, 3.0]])
def test_log_curves_of_few_values(values: list[float]) -> None:
    low, high = drawn(log_curves(range(len(values)), {"a": values})).axes[0].get_ylim()
    assert low <= min(values)
    assert high > max(values)


def test_inline_svg() -> None:
    """A well-formed element in the page's colours, that fetches nothing and names nothing twice."""
    figures = [log_curves([1, 2], {"a": [1.0, 2.0]}, x_label="$a&<b>") for _ in range(2)]
    page = "".join(inline_svg(figure, f"<{n}>\x1b") for n, figure in enumerate(figures))
    assert "http" not in page.replace('xmlns="http', "").replace('xmlns:xlink="http', "")
    assert "var(--s0)" in page
    assert "#1f5f9e" not in page
    nodes = [*ElementTree.fromstring(f"<page>{page}</page>").iter()]
    names = [name for node in nodes if (name := node.get("id"))]
    assert len(names) == len(set(names))
    tags = {node.tag.rpartition("}")[2] for node in nodes}
    assert "text" in tags
    assert not {"style", "metadata", "script", "image"} & tags
    labels = [node.get("aria-label") for node in nodes if node.tag.endswith("}svg")]
    assert labels == ["<0>\N{REPLACEMENT CHARACTER}", "<1>\N{REPLACEMENT CHARACTER}"]
    assert "$a&<b>" in {node.text for node in nodes}


def test_no_window_system_is_needed() -> None:
    assert "tkinter" not in sys.modules
