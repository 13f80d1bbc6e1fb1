"""The model card: what a flow is, how to use it, and what it reveals about its training images.

Class names and all other text of a checkpoint are escaped, so that they can neither format the
page nor link from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import metadata
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from nfaug.checkpoint.config import CheckpointConfig
from nfaug.classes.pca_fit import ClasswisePCA
from nfaug.io.text import printable

__all__ = [
    "TAGS",
    "Facts",
    "escape",
    "facts_of",
    "make_card",
    "privacy_block",
    "set_privacy",
    "stated",
]

TAGS = ("nfaug", "normalizing-flow", "data-augmentation")
_PRIVACY = re.compile(r"<!-- nfaug:privacy -->.*?<!-- /nfaug:privacy -->", re.DOTALL)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SHOWN_CLASSES = 200
_LONGEST_TEXT = 120  # characters of any one text of a checkpoint
# These act as markup or links even after a backslash.
_ENTITIES = {char: f"&#{ord(char)};" for char in "&<>\"'`|:@/\\"}
_ESCAPED = {char: "\\" + char for char in "!#$%()*+.;=?[]^_{}~"} | _ENTITIES


@dataclass(frozen=True)
class Facts:
    """What a card says about a checkpoint.

    Attributes:
        config: The configuration of the checkpoint.
        axes: Largest number of PCA axes of a class; 0 without PCA.
        share: Largest ratio of axes to images over the classes; 0 without PCA.
        partners: Images in the partner memory.
        fewest: Images of the smallest class; 0 if no class was fitted.
        picture: Whether there is a `samples.png`.
    """

    config: CheckpointConfig
    axes: int = 0
    share: float = 0.0
    partners: int = 0
    fewest: int = 0
    picture: bool = False


def facts_of(config: CheckpointConfig, pca: ClasswisePCA | None, *, picture: bool) -> Facts:
    """Collect the facts for a card; `picture` says whether there is a `samples.png`."""
    facts = Facts(config, picture=picture)
    if pca is None:
        return facts
    return replace(
        facts,
        axes=int(pca.ranks.max()),
        share=float((pca.ranks / pca.counts.clamp(min=1)).max()),
        partners=0 if pca.memory is None else len(pca.memory),
        fewest=int(pca.counts.min()),
    )


def escape(text: object, *, longest: int | None = _LONGEST_TEXT) -> str:
    """Return text as plain words on one line of Markdown, also for table cells.

    Longer text is cut and ends in "..."; None for no limit.
    """
    return "".join(_ESCAPED.get(char, char) for char in _plain(text, longest))


def _plain(text: object, longest: int | None = _LONGEST_TEXT) -> str:
    return printable(printable(text).strip() or "(empty)", longest=longest)


def make_card(
    facts: Facts, repo_id: str, *, license: str | None = None, data: str | None = None
) -> str:
    """Return the text of a README.md for the Hub.

    Args:
        facts: The facts about the checkpoint.
        repo_id: "owner/name", for the lines of code.
        license: The Hub's identifier of the license of the flow, such as "mit".
        data: What the training images are, and their terms of use.
    """
    name = repo_id.rpartition("/")[2]
    parts = [
        f"# {name}",
        _summary(facts),
        "![Originals, reconstructions and variants](samples.png)" if facts.picture else "",
        "## Use",
        _install(facts.config),
        _usage(facts, repo_id),
        "## Training",
        _table(_training(facts)),
        "## Figures",
        _figures(facts.config.metrics),
        *(["## Classes", _classes(facts.config.class_names)] if facts.config.class_names else []),
        "## Privacy",
        privacy_block(facts),
        "## License and data",
        _terms(license, data),
        "## Limits",
        _limits(facts),
    ]
    body = "\n\n".join(part for part in parts if part)
    return f"---\n{_metadata(facts, name, license).to_yaml()}\n---\n\n{body}\n"


def privacy_block(facts: Facts) -> str:
    """Return the statement, between two marks, about what the checkpoint reveals of its images."""
    lines = []
    if facts.partners:
        lines.append(
            f"This repository **holds a partner memory**: the PCA coefficients of "
            f"{facts.partners:,} training images. Together with the axes they **nearly reproduce "
            "those images**. Treat it like the images themselves."
        )
    elif facts.axes:
        lines.append("The partner memory was left out.")
    if facts.axes:
        shown = f"up to {facts.axes} axes a class, at most {facts.share:.0%} of its images"
        if facts.share > 0.25:
            lines.append(
                f"It holds {shown}. With as many axes as images of a class, the axes span those "
                "images and nearly reproduce them."
            )
        else:
            lines.append(f"It holds {shown}: too few to span them.")
    if facts.fewest and facts.fewest < 8:
        lines.append(
            f"A class mean is the average of as few as {facts.fewest} images and looks like them."
        )
    lines.append(
        "The flow is a generative model; like any such model, it may have memorized single images."
    )
    if facts.picture:
        lines.append("`samples.png` shows some of the original images.")
    return "<!-- nfaug:privacy -->\n" + "\n".join(lines) + "\n<!-- /nfaug:privacy -->"


def stated(card: str) -> str | None:
    """Return the privacy statement of a card; None if the card has none."""
    found = _PRIVACY.search(card)
    return found[0] if found else None


def set_privacy(card: str, block: str) -> str:
    """Return the card with its privacy statement, if it has one, replaced by `block`."""
    return _PRIVACY.sub(lambda _: block, card, count=1)


def _metadata(facts: Facts, name: str, license: str | None) -> ModelCardData:
    return ModelCardData(
        library_name="nfaug",
        license=license,
        base_model=_hub_name(facts.config.gaussians.get("flow")),
        datasets=_datasets(facts.config) or None,
        pipeline_tag="unconditional-image-generation",
        tags=list(TAGS),
        model_name=name,
        eval_results=_results(facts.config) or None,
    )


def _results(config: CheckpointConfig) -> list[EvalResult]:
    named = (
        ("image-classification", "accuracy", "NF-Acc", "nf_acc"),
        ("image-classification", "accuracy_top5", "NF-Acc (top 5)", "nf_acc_top5"),
        ("unconditional-image-generation", "bits_per_dim", "bits/dim", "bits_per_dim"),
    )
    # The Hub shows this outside of the Markdown text, so escaping does not help.
    data = re.sub(r"[^\w .,+-]+", " ", _plain(config.training.get("data", "unknown"))).strip()
    return [
        EvalResult(
            task_type=task,
            dataset_type="image-folder",
            dataset_name=data or "unknown",
            metric_type=metric,
            metric_name=title,
            metric_value=round(value, 4),
        )
        for task, metric, title, key in named
        if (value := _number(config.metrics.get(key))) is not None
    ]


def _number(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _amount(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 10**6 else f"{count:,}"


def _size(facts: Facts) -> str:
    images = facts.config.autoencoder or facts.config.flow
    height, width = images.image_size
    return f"{images.channels} x {height} x {width}"


def _summary(facts: Facts) -> str:
    classes = len(facts.config.class_names)
    parameters = _amount(facts.config.flow.parameter_count)
    of = f", fitted to {classes} classes" if classes else ", not fitted to classes"
    return (
        f"A normalizing flow for images of {_size(facts)} (channels, height, width), with "
        f"{parameters} parameters{of}. {_origin(facts.config)}{_latents(facts)}It augments the "
        "training of image classifiers: an image is mixed with another of its class in the flow's "
        "latent space and decoded again."
    )


def _origin(config: CheckpointConfig) -> str:
    """What the flow was trained on and, if its classes are others, what it was fitted to."""
    said = []
    if trained := config.training.get("data"):
        said.append(f"The flow was trained on {escape(trained)}.")
    if config.gaussians.get("fitted"):
        images, data = config.gaussians.get("images"), config.gaussians.get("data")
        of = f" of {escape(data)}" if data else ""
        base = config.gaussians.get("flow")
        flow = f" under the flow {escape(base)}" if base else ""
        said.append(
            f"Its class gaussians and axes were fitted to {escape(images)} images{of}{flow}, "
            "without training."
        )
    return "".join(f"{sentence} " for sentence in said)


def _hub_name(name: object) -> str | None:
    """Return the name if it can be a repository "owner/name" of the Hub."""
    return name if isinstance(name, str) and _REPOSITORY.fullmatch(name) else None


def _datasets(config: CheckpointConfig) -> list[str]:
    """Return the data sets of the Hub that the flow was trained on and fitted to."""
    names = (record.get("data") for record in (config.training, config.gaussians))
    found = [str(name).removeprefix("hfds/") for name in names if str(name).startswith("hfds/")]
    return [name for name in dict.fromkeys(found) if _hub_name(name)]


def _install(config: CheckpointConfig) -> str:
    extra = "[vae]" if config.autoencoder is not None else ""
    links = dict(link.split(", ", 1) for link in metadata("nfaug").get_all("Project-URL") or ())
    source = links.get("Source")
    place = f" @ git+{source}" if source else ""
    code = f"\n\nThe code is at <{source}>." if source else ""
    return f'```sh\npip install "nfaug{extra}{place}"\n```{code}'


def _latents(facts: Facts) -> str:
    if (autoencoder := facts.config.autoencoder) is None:
        return ""
    place = "on the Hub" if autoencoder.kind == "hub" else "which must be in a local directory"
    return (
        f"It works on the latents of the autoencoder {escape(autoencoder.name)}, {place} (SHA-256 "
        f"of its weights: {autoencoder.sha256}), and needs `nfaug[vae]`. "
    )


def _usage(facts: Facts, repo_id: str) -> str:
    fit = f"```sh\nnfaug fit --flow {repo_id} --data YOUR_IMAGES --out DIR\n```"
    if not facts.axes:
        return f"Fit it to your own classes first, in one pass over the images:\n\n{fit}"
    return (
        "```python\n"
        "import nfaug\n\n"
        f'nfa = nfaug.NFAugment.from_pretrained("{repo_id}", p=0.5)\n'
        "images, labels = nfa(images, labels)  # in the training loop, before mixup and cutmix\n"
        "```\n\n"
        "Labels are the indices of the classes below. For other classes, fit the flow to your "
        f"images in one pass, without training:\n\n{fit}"
    )


def _training(facts: Facts) -> Iterable[tuple[str, Any]]:
    config = facts.config
    flow = config.flow
    yield "images", _size(facts)
    yield from flow.summary().items()
    for title, values in (
        ("training", config.training),
        ("gaussians", config.gaussians),
        ("preprocessing", config.preprocessing),
    ):
        for key, value in values.items():
            if value is not None:
                yield f"{title}: {str(key).replace('_', ' ')}", value


def _figures(metrics: dict[str, Any]) -> str:
    titles = {
        "bits_per_dim": "bits per dimension",
        "latent_bits_per_dim": "bits per dimension of latents, not comparable with pixels",
        "nf_acc": "NF-Acc, top 1",
        "nf_acc_top5": "NF-Acc, top 5",
        "exact": "share of images that the round trip reproduces exactly",
        "wrong_levels": "values off by one level or more in the other images",
        "images": "images",
        "on": "measured on",
    }
    rows = [(titles.get(key, key), value) for key, value in metrics.items() if value is not None]
    if not rows:
        return "No figures were measured on these classes; `nfaug eval` measures them."
    note = "" if "exact" in metrics else "\n\n`nfaug eval` counts exact round trips."
    return _table(rows) + note


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = ["| | |", "|---|---|"]
    for title, value in rows:
        number = _number(value)
        if number is None:
            shown = escape(value)
        else:
            shown = f"{value:,}" if isinstance(value, int) else f"{number:.4g}"
        lines.append(f"| {escape(title)} | {shown} |")
    return "\n".join(lines)


def _classes(names: tuple[str, ...]) -> str:
    lines = ["| label | class |", "|---|---|"]
    lines += [f"| {label} | {escape(name)} |" for label, name in enumerate(names[:_SHOWN_CLASSES])]
    if len(names) > _SHOWN_CLASSES:
        lines.append(f"| ... | {len(names)} in all; `config.json` lists them |")
    return "\n".join(lines)


def _terms(license: str | None, data: str | None) -> str:
    # Terms come from the person who pushes; cut short, they would be other terms.
    flow = (
        f"The flow: {escape(license, longest=None)}."
        if license
        else "The flow: **no license is stated.**"
    )
    images = escape(data, longest=None) if data else "their source and terms are **not stated**."
    return f"{flow}\n\nThe images it was trained on: {images}"


def _limits(facts: Facts) -> str:
    return (
        "- The flow models the images it was trained on, with their preprocessing. Fit it to "
        "yours with `nfaug fit`: images unlike those it was fitted to are left unchanged. "
        "Variants of other kinds of images may be poorer.\n"
        "- A variant keeps the label of its image, but may no longer show that class. "
        "Look at the picture, or at `nfaug preview` with your own images.\n"
        "- The benefit depends on the number of labels and on the other augmentation. Compare "
        "with training without it.\n"
        f"- Images of a size other than {_size(facts)} are mixed at this size; finer detail is "
        "kept unchanged."
    )
