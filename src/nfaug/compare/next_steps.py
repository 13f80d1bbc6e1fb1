"""What to do after a comparison: lines to paste, and commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from .classifier import is_of_one_size
from .config import CompareConfig
from .frozen import CHOICES, folds_of
from .images import Images
from .rows import POLICIES, ROWS, Row

#: The endings of files that timm's reader of folders takes.
TIMM_READS = frozenset({".png", ".jpg", ".jpeg"})


def paste(row: Row, config: CompareConfig, images: Images) -> list[str]:
    """The settings of a row as lines of Python.

    `dataset` stands for labelled images, and `batch` and `labels` for a batch of them.
    """
    if row.frozen:
        return _frozen_lines(row, config, images)
    imports = []
    lines = []
    if row.flow:
        imports.append("import nfaug")
        lines.append(f"nfa = nfaug.NFAugment(nfaug.fit({row.flow!r}, dataset), p={config.p:g})")
        lines.append("batch, labels = nfa(batch, labels)  # before RandAugment and MixUp")
    if row.policy:
        if row.policy == "specaugment":
            imports = ["import nfaug.compare"]
        imports.append("from torchvision.transforms import v2")
        code = POLICIES[row.policy].code.format(classes=len(images.classes))
        lines.append(f"{row.policy} = {code}")
        if row.policy == "mixup":
            lines.append("batch, labels = mixup(batch.float(), labels)  # after all others")
        else:
            lines.append(f"batch = torch.stack([{row.policy}(image) for image in batch])")
            imports.insert(0, "import torch")
    if not lines:
        return []
    return [*imports, "", *lines]


def _frozen_lines(row: Row, config: CompareConfig, images: Images) -> list[str]:
    folds = folds_of(images.labelled(config.per_class, 0).labels.numpy())
    model = [
        f"choices = {{'C': {list(CHOICES)}}}",
        f"model = GridSearchCV(LogisticRegression(max_iter=300), choices, cv={folds})",
    ]
    if folds == 1:
        model = [f"model = LogisticRegression(C={CHOICES[len(CHOICES) // 2]}, max_iter=300)"]
    size = []
    channels = f"in_chans={images.shape[0]}"
    if images.shape[0] == 1:  # timm adds up the first layer, and keeps these
        size.append("settings |= {name: (sum(settings[name]) / 3,) for name in ('mean', 'std')}")
    if row.frozen == "small":
        size.append(f"settings |= {{'input_size': {images.shape}, 'crop_pct': 1.0}}")
        if is_of_one_size(config.network):
            channels += f", img_size={images.shape[1:]}"
    overlay = f'pretrained_cfg_overlay={{"file": {str(config.weights)!r}}}'
    return [
        "import timm",
        "from sklearn.linear_model import LogisticRegression",
        "from sklearn.model_selection import GridSearchCV",
        "",
        f'network = timm.create_model("{config.network}", pretrained=True, num_classes=0,',
        f"                            {channels}, {overlay})",
        "settings = timm.data.resolve_model_data_config(network)",
        *size,
        "transform = timm.data.create_transform(**settings)  # of a PIL image"
        + (" of mode L" if images.shape[0] == 1 else ""),
        "# features: network.eval()(batch) of your labelled images, as a NumPy array",
        *model,
        "scale = features.std()",
        "model.fit(features / scale, labels)",
        "# model.predict(new_features / scale) classifies others",
    ]


def example_command(
    row: Row,
    config: CompareConfig,
    data: str,
    read: Mapping[str, Any],
    image_size: tuple[int, int],
) -> str:
    """The command that trains without and with a row, on the same images; empty for frozen ones.

    `read` are other options of `nfaug compare` about images, such as `test_data`.
    """
    if row.frozen:
        return ""
    words = ["--data", data, "--row", _name(row), "--image-size", *map(str, image_size)]
    words += _options(read)
    if row.flow:
        words += ["--checkpoint", row.flow, "--p", str(config.p)]
    for name in ("test_images", "per_class", "augment", "network", "weights", "steps", "lr"):
        value = getattr(config, name)
        if value != getattr(CompareConfig, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return f"python examples/train_classifier.py {shlex.join(words)}"


def _options(read: Mapping[str, Any]) -> list[str]:
    """Options of a command about images, but those that have their defaults."""
    words = []
    for name, value in read.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif value and value != "raise":
            words += [option, str(value)]
    return words


def _name(row: Row) -> str:
    """The name in `ROWS`, whatever the flow."""
    return next(
        name
        for name, known in ROWS.items()
        if (bool(known.flow), known.policy, known.frozen) == (bool(row.flow), row.policy, "")
    )


def timm_commands(
    row: Row,
    config: CompareConfig,
    data: str,
    read: Mapping[str, Any],
    splits: Sequence[str],
    shape: Sequence[int],
    classes: int,
) -> list[str]:
    """The commands that train with a row in timm's train.py, which has its own schedule.

    None if it cannot: timm's RandAugment comes before NFA, which then meets images unlike those of
    its fit, and in place of changes of colour. What keeps the class is much as it was compared, in
    place of timm's flips and crops of down to 8% of an image; shifts are crops of 77% or more.

    Args:
        row: The row.
        config: What was compared.
        data: The folder, as `nfaug.open_dataset` takes it.
        read: Other options of `nfaug compare` about images, which `nfaug fit` has, too.
        splits: The folder that holds those of training and of validation, and their names.
        shape: (C, H, W) of the images that networks are trained on.
        classes: The number of classes.
    """
    option = POLICIES[row.policy].timm if row.policy else ""
    if row.frozen or (row.flow and row.policy) or (row.policy and not option):
        return []
    if "colour" in config.safe and "--aa" in option:
        return []
    network = "resnet18" if config.network == CompareConfig.network else config.network
    folder, train, validation = splits
    words = ["--data-dir", folder, "--train-split", train, "--val-split", validation]
    words += ["--model", network, "--num-classes", str(classes)]
    words += ["--input-size", *map(str, shape)]
    if network == config.network and is_of_one_size(network):
        words += ["--model-kwargs", f"img_size=({shape[1]},{shape[2]})"]
    words += _label_preserving(config.safe)
    if config.weights is not None:
        words += ["--pretrained", "--pretrained-path", config.weights]
    if not row.flow:
        return [f"python train.py {shlex.join([*words, *option.split()])}"]
    fit = ["--checkpoint", row.flow, "--data", data, "--split", train]
    fit += [*_options(read), "--image-size", f"{shape[1]},{shape[2]}", "--out", "my-nfa"]
    return [
        f"nfaug fit {shlex.join(fit)}",
        f"nfaug timm train.py --checkpoint my-nfa --p {config.p:g} -- {shlex.join(words)}",
    ]


def _label_preserving(safe: Sequence[str]) -> list[str]:
    """timm's options for words of `CompareConfig.augment`; it has no rotations by 90 degrees."""
    flips = "0.5" if "flip" in safe or "rotate" in safe else "0"
    words = ["--hflip", flips, "--vflip", "0.5" if "rotate" in safe else "0"]
    words += ["--color-jitter", "0.3" if "colour" in safe else "0"]
    shifts = "crop" in safe or "spectrogram" in safe
    return [*words, "--scale", "0.77" if shifts else "1", "1", "--ratio", "1", "1"]
