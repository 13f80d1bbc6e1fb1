"""The model card: what a stranger should know of a flow before using it, and may be told.

Class names and everything else that a checkpoint says are somebody's text: on a card they are
escaped, so that they can neither format the page nor link from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..checkpoint.checkpoint import CheckpointConfig
from .facts import Facts

__all__ = ["TAGS", "escape", "make_card", "privacy_block", "set_privacy", "stated"]

TAGS = ("nfaug", "normalizing-flow", "data-augmentation")
_PRIVACY = re.compile(r"<!-- nfaug:privacy -->.*?<!-- /nfaug:privacy -->", re.DOTALL)
_SHOWN_CLASSES = 200
_LONGEST_TEXT = 120  # characters of any one text of a checkpoint
# These would be markup, or a link, even after a backslash.
_ENTITIES = {char: f"&#{ord(char)};" for char in "&<>\"'`|:@/\\"}
_ESCAPED = {char: "\\" + char for char in "!#$%()*+.;=?[]^_{}~"} | _ENTITIES


def escape(text: object, *, longest: int | None = _LONGEST_TEXT) -> str:
    """Somebody's text as plain words on one line of Markdown, in a table cell too.

    What is longer than `longest` characters is cut, visibly; None for no limit.
    """
    return "".join(_ESCAPED.get(char, char) for char in _plain(text, longest))


def _plain(text: object, longest: int | None = _LONGEST_TEXT) -> str:
    shown = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text)
    )
    shown = shown.strip() or "(empty)"
    if longest is None or len(shown) <= longest:
        return shown
    return shown[: longest - 3] + "..."


def make_card(
    facts: Facts, repo_id: str, *, licence: str | None = None, data: str | None = None
) -> str:
    """The text of a README.md for the Hub.

    Args:
        facts: what the checkpoint is.
        repo_id: "owner/name", for the lines that use it.
        licence: the Hub's identifier of the flow's licence, such as "mit".
        data: what the data are and under which terms they are used.
    """
    name = repo_id.rpartition("/")[2]
    parts = [
        f"# {name}",
        _summary(facts),
        "![Originals, reconstructions and variants](samples.png)" if facts.picture else "",
        "## Use",
        _usage(facts, repo_id),
        "## Training",
        _table(_training(facts)),
        "## Figures",
        _figures(facts.config.metrics),
        *(["## Classes", _classes(facts.config.class_names)] if facts.config.class_names else []),
        "## Privacy",
        privacy_block(facts),
        "## Licence and data",
        _terms(licence, data),
        "## Limits",
        _limits(facts),
    ]
    body = "\n\n".join(part for part in parts if part)
    return f"---\n{_metadata(facts, name, licence).to_yaml()}\n---\n\n{body}\n"


def privacy_block(facts: Facts) -> str:
    """What this checkpoint gives away of the images it was made from, between two marks."""
    lines = []
    if facts.partners:
        lines.append(
            f"This repository **holds a partner memory**: the PCA coefficients of "
            f"{facts.partners:,} training images. With the axes beside it, it **reproduces those "
            "images nearly**. Treat it as you would treat the images."
        )
    elif facts.axes:
        lines.append("The partner memory was left out.")
    if facts.axes:
        shown = f"up to {facts.axes} axes a class, at most {facts.share:.0%} of its images"
        if facts.share > 0.25:
            lines.append(
                f"It holds {shown}. Axes as many as a class has images span those images: they "
                "reproduce them nearly."
            )
        else:
            lines.append(f"It holds {shown}: too few to span them.")
    if facts.fewest and facts.fewest < 8:
        lines.append(
            f"A class mean is an average of as few as {facts.fewest} images, and looks like them."
        )
    lines.append(
        "The weights of the flow are those of a generative model, and may remember single images, "
        "as any such model's may."
    )
    if facts.picture:
        lines.append("`samples.png` shows some of the original images.")
    return "<!-- nfaug:privacy -->\n" + "\n".join(lines) + "\n<!-- /nfaug:privacy -->"


def stated(card: str) -> str | None:
    """The privacy statement that a card makes; None where its owner took it out."""
    found = _PRIVACY.search(card)
    return found[0] if found else None


def set_privacy(card: str, block: str) -> str:
    """The card with its privacy statement, if it has one, made true."""
    return _PRIVACY.sub(lambda _: block, card, count=1)


def _metadata(facts: Facts, name: str, licence: str | None) -> ModelCardData:
    return ModelCardData(
        library_name="nfaug",
        license=licence,
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
    # Data for the Hub's own pages, which no Markdown escape protects.
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
    """A finite number, or None: a stranger's figures need not be figures."""
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
    of = f", fitted to {classes} classes" if classes else ", not fitted to classes"
    return (
        f"A normalizing flow for images of {_size(facts)} (channels, height, width), with "
        f"{_amount(facts.parameters)} parameters{of}. {_latents(facts)}It augments the training of "
        "image classifiers: an image is mixed with another of its class in the flow's latent space "
        "and decoded again."
    )


def _latents(facts: Facts) -> str:
    if (autoencoder := facts.config.autoencoder) is None:
        return ""
    place = "on the Hub" if autoencoder.kind == "hub" else "which you must have, in a directory"
    return (
        f"It works on the latents of the autoencoder {escape(autoencoder.name)}, {place} (SHA-256 "
        f"of its weights: {autoencoder.sha256}), and needs `nfaug[vae]`. "
    )


def _usage(facts: Facts, repo_id: str) -> str:
    fit = f"```sh\nnfaug fit --flow {repo_id} --data YOUR_IMAGES --out DIR\n```"
    if not facts.axes:
        return f"It needs the axes of your own classes first, in one pass:\n\n{fit}"
    return (
        "```python\n"
        "import nfaug\n\n"
        f'nfa = nfaug.NFAugment.from_pretrained("{repo_id}", p=0.5)\n'
        "images, labels = nfa(images, labels)  # in the training loop, before mixup and cutmix\n"
        "```\n\n"
        "Labels are the indices of the classes below. For other classes, fit it to your images in "
        f"one pass, without training:\n\n{fit}"
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
        "exact": "share of images that the round trip gives back bit for bit",
        "wrong_levels": "values off by a level or more in the rest",
        "images": "images",
        "on": "measured on",
    }
    rows = [(titles.get(key, key), value) for key, value in metrics.items() if value is not None]
    if not rows:
        return "None were measured on these classes; `nfaug eval` measures them."
    note = "" if "exact" in metrics else "\n\nThe round trip: `nfaug eval` counts what is exact."
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


def _terms(licence: str | None, data: str | None) -> str:
    # Terms are the words of who pushes, not of a checkpoint, and cut short they are other terms.
    flow = (
        f"The flow: {escape(licence, longest=None)}."
        if licence
        else "The flow: **no licence was stated yet.**"
    )
    images = (
        escape(data, longest=None)
        if data
        else "**nothing was stated yet** of their source and terms."
    )
    return f"{flow}\n\nThe images it was trained on: {images}"


def _limits(facts: Facts) -> str:
    return (
        "- It knows the kind of images it was trained on, with their preprocessing. Fit it to "
        "yours with `nfaug fit`: images unlike those it was fitted to are left as they are. "
        "Variants of other kinds of images may be poorer.\n"
        "- A variant keeps the label of its image; nothing proves that it still shows that class. "
        "Look at the picture, or at `nfaug preview` with your own images.\n"
        "- Whether it helps depends on how few labels there are and on what other augmentation is "
        "used. Measure it against training without.\n"
        f"- Images of another size than {_size(facts)} are handled at this size; finer detail is "
        "carried over unchanged."
    )
