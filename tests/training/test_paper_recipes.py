"""The recipes of the paper, side by side with the tables of released settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nfaug.flows.config import FlowConfig
from nfaug.io.numbers import as_size
from nfaug.training.config import flat, recipe_config, recipe_path

DOCS = Path(__file__).resolve().parents[2] / "docs"
CLASSES = {"cifar10": 10, "cifar100": 100}
#: Options of nfaug train that make the recipe one of means and variances.
BOTH = {
    "cifar10": "--prior.fixed-point.fit both --prior.fixed-point.kld-weight 3333",
    "cifar100": "--prior.fixed-point.fit both --prior.fixed-point.kld-weight 303 and "
    "--prior.fixed-point.isotropic-mean-step true",
}


def table(page: str, after: str) -> list[list[str]]:
    """The rows of the first table behind a text of a page, without their head."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(after)[2]
    lines = re.findall(r"^\|(.*)\|$", text.partition("\n\n|")[2].partition("\n\n")[0], re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines[1:]]


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_the_table_of_released_settings_is_that_of_the_recipes() -> None:
    rows = table("reference/flows-and-recipes.md", "<!-- released settings -->")
    assert len(rows) == 19
    for column, name in enumerate(CLASSES, start=1):
        settings = flat(recipe_config(name).to_dict())
        stated = {row[0].strip("`"): yaml.safe_load(row[column]) for row in rows}
        assert {key: settings[key] for key in stated} == stated
        # What a recipe sets of these groups is in the table, so that no line of it is unexplained.
        own = flat(yaml.safe_load(recipe_path(name).read_text()))
        groups = {key for key in own if key.startswith(("prior.", "augmentation."))}
        assert groups <= set(stated)


def test_weights_are_lambda_over_the_number_of_pairs() -> None:
    """The table of weights in the page on class Gaussians, and the recipes' own."""
    rows = table("explanation/class-gaussians.md", "Their weights for the means alone")
    assert [row[0] for row in rows[:2]] == ["means", "means and variances"]
    for row in rows:
        for classes, (strength, weight) in zip((10, 100), (row[1:3], row[3:5]), strict=True):
            expected = number(strength) / (classes * (classes - 1))
            assert number(weight) == pytest.approx(expected, abs=0.6)
    weights = [recipe_config(name).prior.fixed_point.kld_weight for name in CLASSES]
    assert weights == [number(rows[0][2]), number(rows[0][4])]
    # The rule of the default comes from the second row. Of the first, it would have two values.
    dims = [classes - 1 for classes in (10, 100)]
    assert [number(rows[1][2]) * dims[0], number(rows[1][4]) * dims[1]] == pytest.approx(
        [3e4, 3e4], rel=1e-3
    )
    assert [number(rows[0][2]) * dims[0], number(rows[0][4]) * dims[1]] == pytest.approx(
        [5.0e4, 7.5e4], rel=1e-3
    )


@pytest.mark.parametrize("name", CLASSES)
def test_the_papers_flow(name: str) -> None:
    """Section 5.2 of the paper, and the options for Table 3's #4 in the comment."""
    config = recipe_config(name)
    assert config.optim.decay == "constant"
    assert config.flow == FlowConfig().backbone
    assert (config.dataset.channels, as_size(config.dataset.image_size or 0)) == (3, (32, 32))
    head = recipe_path(name).read_text().partition("epochs:")[0]
    assert BOTH[name] in re.sub(r"\n# ", " ", head)
    other = recipe_config({"cifar10": "cifar100", "cifar100": "cifar10"}[name])
    assert config.augmentation == other.augmentation


def test_photographs_are_flipped_alone() -> None:
    """On an autoencoder's latents nothing else can be."""
    photos = flat(recipe_config("photos").to_dict()["augmentation"])
    assert {key for key, value in photos.items() if value} == {"hflip"}
