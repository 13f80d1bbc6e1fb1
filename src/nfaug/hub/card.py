"""The model card: what a flow is, how to use it, and what it reveals about its training images.

Class names and all other text of a checkpoint are escaped, so that none of it acts as Markdown,
HTML or a link. The text of the card is in `card.md`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from nfaug.checkpoint.checkpoint import CheckpointConfig
from nfaug.classes.pca import ClasswisePCA
from nfaug.io.numbers import share_interval
from nfaug.io.text import printable

_TEMPLATE = Path(__file__).with_name("card.md")
_PRIVACY = re.compile(r"<!-- nfaug:privacy -->.*?<!-- /nfaug:privacy -->", re.DOTALL)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SHOWN_CLASSES = 200
_LONGEST_TEXT = 120  # characters of any one text of a checkpoint
# These act as markup or links even after a backslash.
_ENTITIES = {char: f"&#{ord(char)};" for char in "&<>\"'`|:@/\\"}
_BACKSLASHED = {char: "\\" + char for char in "!#$%()*+.;=?[]^_{}~"}
_ESCAPED = _BACKSLASHED | _ENTITIES
_FIGURES = {  # title of each figure of a checkpoint
    "bits_per_dim": "bits per dimension",
    "latent_bits_per_dim": "bits per dimension of latents, not comparable with pixels",
    "nf_acc": "NF-Acc, top 1",
    "nf_acc_top5": "NF-Acc, top 5",
    "exact": "share of images that the round trip reproduces exactly",
    "wrong_levels": "values off by one level or more in the other images",
    "on": "measured on",
}


class _Result(NamedTuple):
    """A figure of a checkpoint that the Hub lists beside a model."""

    task: str
    metric: str
    title: str
    figure: str


_RESULTS = (
    _Result("image-classification", "accuracy", "NF-Acc", "nf_acc"),
    _Result("unconditional-image-generation", "bits_per_dim", "bits/dim", "bits_per_dim"),
)


def escape(text: object, *, longest: int | None = _LONGEST_TEXT) -> str:
    """Return text as plain words on one line of Markdown, also for table cells.

    Longer text is cut and ends in "..."; None for no limit.
    """
    plain = printable(printable(text).strip() or "(empty)", longest=longest)
    return "".join(_ESCAPED.get(char, char) for char in plain)


def make_card(
    config: CheckpointConfig,
    pca: ClasswisePCA | None,
    repo_id: str,
    *,
    picture: Literal["images", "samples"] | None = None,
    license: str | None = None,
    about_data: str | None = None,
) -> str:
    """Return the text of a README.md for the Hub.

    Args:
        config: The configuration of the checkpoint.
        pca: Its axes and memory.
        repo_id: "owner/name", for the lines of code.
        picture: What `samples.png` shows: images and variants of them, or samples of the flow.
        license: The Hub's identifier of the license of the flow, such as "mit".
        about_data: What the training images are, and their terms of use.
    """
    links = _project_links()
    images = config.autoencoder or config.flow
    height, width = images.image_size
    size = f"{images.channels} x {height} x {width}"
    name = repo_id.rpartition("/")[2]

    parameters = f"{config.flow.parameter_count:,}"
    if config.flow.parameter_count >= 10**6:
        parameters = f"{config.flow.parameter_count / 1e6:.1f} million"

    trained_on = None
    if config.training.get("data"):
        trained_on = escape(config.training["data"])
    fitted = None
    if config.gaussians.get("fitted"):
        fitted = {key: _cell(value) for key, value in config.gaussians.items() if value}
    autoencoder = None
    if config.autoencoder is not None:
        autoencoder = asdict(config.autoencoder)
        autoencoder["name"] = escape(config.autoencoder.name)

    settings: dict[str, Any] = {"images": size, "backbone": config.flow.backbone.name}
    settings |= asdict(config.flow.backbone)
    for stage in ("training", "gaussians", "preprocessing"):
        for key, value in getattr(config, stage).items():
            settings[f"{stage}: {key.replace('_', ' ')}"] = value

    # Terms come from the person who pushes; cut short, they would be other terms.
    terms = None
    if license:
        terms = f"{escape(license, longest=None)}."
    data_terms = None
    if about_data:
        data_terms = escape(about_data, longest=None)
    card = ModelCard.from_template(
        _metadata(config, name, license),
        template_path=str(_TEMPLATE),
        name=name,
        repo_id=repo_id,
        size=size,
        parameters=parameters,
        trained_on=trained_on,
        fitted=fitted,
        gaussians="kind" in config.gaussians,
        autoencoder=autoencoder,
        picture=picture,
        source=links.get("Source"),
        paper=links["Paper"],
        **_axes(pca),
        training=_rows(settings),
        figures=_rows(_figures(config.metrics)),
        bits="bits_per_dim" in config.metrics,
        classes=[escape(name) for name in config.classes[:_SHOWN_CLASSES]],
        number=len(config.classes),
        terms=terms,
        data=data_terms,
    )
    return f"{card}\n"


def set_privacy(card: str, generated: str) -> str:
    """Return the card with its privacy statement, if it has one, replaced by the generated card's.

    Args:
        card: The card.
        generated: A card of the same checkpoint by `make_card`.
    """
    (statement,) = _PRIVACY.findall(generated)
    return _PRIVACY.sub(lambda _: statement, card, count=1)


def _project_links() -> dict[str, str]:
    """The addresses under [project.urls] by their names."""
    links = {}
    for entry in metadata("nfaug").get_all("Project-URL") or ():
        name, address = entry.split(", ", 1)
        links[name] = address
    return links


def _metadata(config: CheckpointConfig, name: str, license: str | None) -> ModelCardData:
    base = str(config.gaussians.get("flow")).partition("@")[0]  # without its revision
    return ModelCardData(
        library_name="nfaug",
        license=license,
        base_model=base if _REPOSITORY.fullmatch(base) else None,
        pipeline_tag="unconditional-image-generation",
        tags=["nfaug", "normalizing-flow", "data-augmentation"],
        model_name=name,
        eval_results=_results(config) or None,
    )


def _results(config: CheckpointConfig) -> list[EvalResult]:
    """The figures that the Hub lists."""
    # The Hub shows this outside of the Markdown text, so escaping does not help.
    dataset = printable(config.training.get("data", ""), longest=120)
    if "on" in config.metrics:
        dataset += f", measured on {printable(config.metrics['on'], longest=120)}"
    dataset = re.sub(r"[^\w .,+-]+", " ", dataset).strip(" ,")
    results = []
    for task, metric, title, figure in _RESULTS:
        value = config.metrics.get(figure)
        if not _is_number(value):
            continue
        result = EvalResult(
            task_type=task,
            dataset_type="image-folder",
            dataset_name=dataset or "unknown",
            metric_type=metric,
            metric_name=title,
            metric_value=round(float(value), 4),
        )
        results.append(result)
    return results


def _figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of the figures; shares that were counted have their interval."""
    rows = {}
    images = metrics.get("images")
    for key, value in metrics.items():
        if key in ("nf_acc", "nf_acc_top5") and _is_number(value) and _is_number(images):
            value = _share(value, int(images))
        rows[_FIGURES.get(key, key)] = value
    return rows


def _share(share: float, count: int) -> str:
    """A share of `count` images in per cent, with Wilson's 95% interval."""
    if not 0 <= share <= 1 or count < 1:
        return f"{share:.4g}"
    low, high = share_interval(share, count)
    return f"{share:.1%} (95% interval {low:.1%} to {high:.1%})"


def _axes(pca: ClasswisePCA | None) -> dict[str, Any]:
    """The figures of the privacy statement: axes, partners, and images of the smallest class."""
    if pca is None:
        return {"axes": 0, "partners": 0, "fewest": 0}
    return {
        "axes": int(pca.ranks.max()),
        "partners": 0 if pca.memory is None else len(pca.memory),
        "fewest": int(pca.counts.min()),
    }


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and value of each row of a table, escaped; None is left out."""
    return [(escape(title), _cell(value)) for title, value in values.items() if value is not None]


def _cell(value: object) -> str:
    if not _is_number(value):
        return escape(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}"


def _is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max
