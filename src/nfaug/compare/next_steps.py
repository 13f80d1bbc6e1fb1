"""What to do after a comparison: lines to paste, and commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .config import CompareConfig
from .frozen import CHOICES, folds_of
from .images import CompareImages
from .methods import METHODS, POLICIES, Method


def paste(method: Method, config: CompareConfig, images: CompareImages) -> list[str]:
    """The settings of a method as lines of Python.

    `dataset` stands for labelled images, and `batch` and `labels` for a batch of them.
    """
    if method.frozen:
        return _frozen_lines(config, images)
    imports = []
    lines = []
    if method.flow:
        imports.append("import nfaug")
        lines.append(f"nfa = nfaug.NFAugment(nfaug.fit({method.flow!r}, dataset), p={config.p:g})")
        lines.append("batch, labels = nfa(batch, labels)  # before RandAugment and MixUp")
    if method.policy:
        if method.policy == "specaugment":
            imports = ["import nfaug.compare"]
        imports.append("from torchvision.transforms import v2")
        code = POLICIES[method.policy].code.format(classes=len(images.classes))
        lines.append(f"{method.policy} = {code}")
        if method.policy == "mixup":
            lines.append("batch, labels = mixup(batch.float(), labels)  # after all others")
        else:
            lines.append(f"batch = torch.stack([{method.policy}(image) for image in batch])")
            imports.insert(0, "import torch")
    if not lines:
        return []
    return [*imports, "", *lines]


def _frozen_lines(config: CompareConfig, images: CompareImages) -> list[str]:
    folds = folds_of(images.labelled(config.per_class, 0).labels.numpy())
    model = [
        f"choices = {{'C': {list(CHOICES)}}}",
        f"model = GridSearchCV(LogisticRegression(max_iter=300), choices, cv={folds})",
    ]
    if folds == 1:
        model = [f"model = LogisticRegression(C={CHOICES[len(CHOICES) // 2]}, max_iter=300)"]
    gray = []
    if images.shape[0] == 1:  # timm adds up the first layer, and keeps these
        gray.append("settings |= {name: (sum(settings[name]) / 3,) for name in ('mean', 'std')}")
    overlay = f'pretrained_cfg_overlay={{"file": {str(config.weights)!r}}}'
    return [
        "import timm",
        "from sklearn.linear_model import LogisticRegression",
        "from sklearn.model_selection import GridSearchCV",
        "",
        f'network = timm.create_model("{config.network}", pretrained=True, num_classes=0,',
        f"                            in_chans={images.shape[0]}, {overlay})",
        "settings = timm.data.resolve_model_data_config(network)",
        *gray,
        "transform = timm.data.create_transform(**settings)  # of a PIL image"
        + (" of mode L" if images.shape[0] == 1 else ""),
        "# features: network.eval()(batch) of your labelled images, as a NumPy array",
        *model,
        "scale = features.std()",
        "model.fit(features / scale, labels)",
        "# model.predict(new_features / scale) classifies others",
    ]


def example_command(
    method: Method,
    config: CompareConfig,
    data: str,
    read: Mapping[str, Any],
    image_size: tuple[int, int],
) -> str:
    """The command that trains without and with a method on the same images; empty for frozen ones.

    `read` are other options of `nfaug compare` about images, such as `test_data`.
    """
    if method.frozen:
        return ""
    words = ["--data", data, "--method", _name(method), "--image-size", *map(str, image_size)]
    words += _options(read)
    if method.flow:
        words += ["--checkpoint", method.flow, "--p", str(config.p)]
    names = ("test_images", "per_class", "augment", "network", "weights", "steps", "lr")
    words += _options(_changed(config, names))
    return f"python examples/train_classifier.py {shlex.join(words)}"


def command_at(side: int, config: CompareConfig, data: str, read: Mapping[str, Any]) -> str:
    """The command that compares the same at another size of images, in another folder."""
    words = ["--data", data, "--image-size", str(side), "--out", f"nfaug-compare-{side}"]
    words += _options(read)
    if config.checkpoint:
        words += ["--checkpoint", *config.checkpoint]
    names = [field.name for field in fields(config) if field.name != "checkpoint"]
    words += _options(_changed(config, names))
    return f"nfaug compare {shlex.join(words)}"


def _changed(config: CompareConfig, names: Any) -> dict[str, Any]:
    """Those of some settings that do not have their default."""
    values = {name: getattr(config, name) for name in names}
    return {name: value for name, value in values.items() if value != getattr(CompareConfig, name)}


def _options(values: Mapping[str, Any]) -> list[str]:
    """Options of a command, but those that have their defaults."""
    words = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value not in (None, False, "raise"):
            words += [option, str(value)]
    return words


def _name(method: Method) -> str:
    """The name in `METHODS`, whatever the flow."""
    return next(
        name
        for name, known in METHODS.items()
        if (bool(known.flow), known.policy, known.frozen)
        == (bool(method.flow), method.policy, False)
    )
