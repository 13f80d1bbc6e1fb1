"""The model card: what a flow is, how to use it, and what it reveals about its training images.

Class names and all other text of a checkpoint are escaped, so that they can neither format the
page nor link from it. The text of the card is in `card.md`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import metadata
from pathlib import Path
from typing import Any, Literal, TypeGuard

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from nfaug.checkpoint.checkpoint import CheckpointConfig
from nfaug.classes.pca_fit import ClasswisePCA
from nfaug.io.text import printable

__all__ = ["escape", "make_card", "set_privacy"]

_TEMPLATE = Path(__file__).with_name("card.md")
_PRIVACY = re.compile(r"<!-- nfaug:privacy -->.*?<!-- /nfaug:privacy -->", re.DOTALL)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SHOWN_CLASSES = 200
_LONGEST_TEXT = 120  # characters of any one text of a checkpoint
# These act as markup or links even after a backslash.
_ENTITIES = {char: f"&#{ord(char)};" for char in "&<>\"'`|:@/\\"}
_ESCAPED = {char: "\\" + char for char in "!#$%()*+.;=?[]^_{}~"} | _ENTITIES
_FIGURES = {  # title of each figure of a checkpoint
    "bits_per_dim": "bits per dimension",
    "latent_bits_per_dim": "bits per dimension of latents, not comparable with pixels",
    "nf_acc": "NF-Acc, top 1",
    "nf_acc_top5": "NF-Acc, top 5",
    "exact": "share of images that the round trip reproduces exactly",
    "wrong_levels": "values off by one level or more in the other images",
    "on": "measured on",
}
_RESULTS = (  # what the Hub lists: task, metric, title, figure
    ("image-classification", "accuracy", "NF-Acc", "nf_acc"),
    ("unconditional-image-generation", "bits_per_dim", "bits/dim", "bits_per_dim"),
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
    data: str | None = None,
) -> str:
    """Return the text of a README.md for the Hub.

    Args:
        config: The configuration of the checkpoint.
        pca: Its axes and memory.
        repo_id: "owner/name", for the lines of code.
        picture: What `samples.png` shows: images and variants of them, or samples of the flow.
        license: The Hub's identifier of the license of the flow, such as "mit".
        data: What the training images are, and their terms of use.
    """
    addresses = metadata("nfaug").get_all("Project-URL") or ()  # [project.urls]
    links = dict(address.split(", ", 1) for address in addresses)
    images = config.autoencoder or config.flow
    parameters = config.flow.parameter_count
    name = repo_id.rpartition("/")[2]
    size = " x ".join(map(str, (images.channels, *images.image_size)))
    autoencoder = config.autoencoder and {
        **asdict(config.autoencoder),
        "name": escape(config.autoencoder.name),
    }
    architecture = {"backbone": config.flow.backbone.name, **asdict(config.flow.backbone)}
    settings = {
        f"{stage}: {key.replace('_', ' ')}": value
        for stage in ("training", "gaussians", "preprocessing")
        for key, value in getattr(config, stage).items()
    }
    fitted = {key: escape(value) for key, value in config.gaussians.items() if value}
    card = ModelCard.from_template(
        _metadata(config, name, license),
        template_path=str(_TEMPLATE),
        name=name,
        repo_id=repo_id,
        size=size,
        parameters=f"{parameters / 1e6:.1f} million" if parameters >= 10**6 else f"{parameters:,}",
        trained_on=escape(config.training["data"]) if config.training.get("data") else None,
        fitted=fitted if config.gaussians.get("fitted") else None,
        autoencoder=autoencoder,
        picture=picture,
        source=links.get("Source"),
        paper=links["Paper"],
        **_axes(pca),
        training=_rows({"images": size, **architecture, **settings}),
        figures=_rows({_FIGURES.get(key, key): value for key, value in config.metrics.items()}),
        classes=[escape(name) for name in config.class_names[:_SHOWN_CLASSES]],
        number=len(config.class_names),
        # Terms come from the person who pushes; cut short, they would be other terms.
        terms=license and f"{escape(license, longest=None)}.",
        data=data and escape(data, longest=None),
    )
    return f"{card}\n"


def set_privacy(card: str, made: str) -> str:
    """Return the card with its privacy statement, if it has one, replaced by that of `made`."""
    (statement,) = _PRIVACY.findall(made)
    return _PRIVACY.sub(lambda _: statement, card, count=1)


def _metadata(config: CheckpointConfig, name: str, license: str | None) -> ModelCardData:
    base = config.gaussians.get("flow")
    sources = (str(record.get("data")) for record in (config.training, config.gaussians))
    datasets = [name[5:] for name in dict.fromkeys(sources) if name.startswith("hfds/")]
    # The Hub shows this outside of the Markdown text, so escaping does not help.
    shown = re.sub(r"[^\w .,+-]+", " ", printable(config.training.get("data", ""), longest=120))
    results = [
        EvalResult(
            task_type=task,
            dataset_type="image-folder",
            dataset_name=shown.strip() or "unknown",
            metric_type=metric,
            metric_name=title,
            metric_value=round(float(value), 4),
        )
        for task, metric, title, key in _RESULTS
        if _is_number(value := config.metrics.get(key))
    ]
    return ModelCardData(
        library_name="nfaug",
        license=license,
        base_model=base if _REPOSITORY.fullmatch(str(base)) else None,
        datasets=[name for name in datasets if _REPOSITORY.fullmatch(name)] or None,
        pipeline_tag="unconditional-image-generation",
        tags=["nfaug", "normalizing-flow", "data-augmentation"],
        model_name=name,
        eval_results=results or None,
    )


def _axes(pca: ClasswisePCA | None) -> dict[str, Any]:
    """What the privacy statement needs to know."""
    if pca is None:
        return {"axes": 0, "partners": 0, "share": 0.0, "fewest": 0}
    return {
        "axes": int(pca.ranks.max()),
        "partners": 0 if pca.memory is None else len(pca.memory),
        "share": float((pca.ranks / pca.counts.clamp(min=1)).max()),
        "fewest": int(pca.counts.min()),
    }


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and value of each row of a table, escaped; None is left out."""
    return [(escape(title), _shown(x)) for title, x in values.items() if x is not None]


def _shown(value: object) -> str:
    if not _is_number(value):
        return escape(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= sys.float_info.max
