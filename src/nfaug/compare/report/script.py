"""The script to paste: it trains as a row of a comparison did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..config import CompareConfig
from ..frozen import CHOICES, input_size
from ..rows import POLICIES, Row
from ..work import FROZEN_VARIANTS, Strength

__all__ = ["Source", "script_of", "timm_lines"]

_SLEEP = """import os

# Let waiting threads sleep: if they spin, any other job slows them. torch reads this at its start.
os.environ.setdefault("GOMP_SPINCOUNT", "0")"""


class Source(NamedTuple):
    """The images of a comparison.

    Attributes:
        shape: (C, H, W) of the images that networks are trained on.
        classes: The number of classes.
        data: A folder of class folders, or what `nfaug.open_dataset` takes.
        test: The same of the images to judge by; None if a part is held out.
        folders: Whether both are folders of class folders.
        mean: The mean of the network's images in [0, 1], a number for each channel.
        std: Their standard deviation.
    """

    shape: tuple[int, int, int]
    classes: int
    data: str = "my-images"
    test: str | None = None
    folders: bool = True
    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.5,)


def script_of(
    row: Row, title: str, strength: Strength, config: CompareConfig, source: Source
) -> str:
    """A Python script that trains on all labelled images as a row did, and prints its accuracy."""
    if row.frozen:
        return _frozen_script(row, title, strength, config, source)
    return _training_script(row, title, strength, config, source)


def timm_lines(row: Row, strength: Strength, config: CompareConfig, source: Source) -> list[str]:
    """The commands that train with timm's train.py as a row did; none if it cannot.

    timm's RandAugment comes before NFA, which then meets images unlike those of its fit.
    """
    both = bool(row.flow) and bool(row.policy)
    option = POLICIES[row.policy].timm if row.policy else ""
    if row.frozen or both or (row.policy and not option) or not source.folders:
        return []
    network = "resnet18" if config.network == "small-cnn" else config.network
    side = min(source.shape[1:])
    words = [f"--data-dir {_word(source.data)} --model {network} --num-classes {source.classes}"]
    words.append(f"--img-size {side}")
    if config.weights is not None:
        words.append(f"--pretrained --pretrained-path {_word(config.weights)}")
    if row.flow:
        size = f"{source.shape[1]},{source.shape[2]}"
        fit = f"nfaug fit --checkpoint {_word(row.flow)} --data {_word(source.data)}"
        run = f"nfaug timm train.py --checkpoint my-nfa --p {strength.p:g} -- {' '.join(words)}"
        return [f"{fit} --image-size {size} --out my-nfa", run]
    if option:
        words.append(option.format(magnitude=strength.magnitude))
    return [f"python train.py {' '.join(words)}"]


def _word(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _policy(row: Row, strength: Strength) -> list[str]:
    """The transform of a row's policy, as code."""
    if not row.policy:
        return []
    return [POLICIES[row.policy].code.format(magnitude=strength.magnitude)]


def _safe(config: CompareConfig, shape: Sequence[int]) -> list[str]:
    """The safe augmentations, as code."""
    words = config.safe
    lines = []
    if "colour" in words:
        lines.append("v2.ColorJitter(0.3, 0.3, 0.3)")
    if "flip" in words or "rotate" in words:
        lines.append("v2.RandomHorizontalFlip()")
    if "crop" in words or "spectrogram" in words:
        shift = max(1, min(shape[1:]) // 8)
        lines.append(f'v2.RandomCrop(SIZE, padding={shift}, padding_mode="reflect")')
    if "rotate" in words:
        turns = "[v2.RandomRotation((turn, turn)) for turn in (0, 90, 180, 270)]"
        lines.append(f"v2.RandomChoice({turns})")
    return lines


def _imports(row: Row, source: Source, lines: Sequence[str]) -> str:
    """The import statements, in order, after what must come before torch."""
    found = {"import torch", "import torch.utils.data", "from torchvision.transforms import v2"}
    if source.folders:
        found.add("from torchvision.datasets import ImageFolder")
    if row.flow or not source.folders:
        found.add("import nfaug")
    if row.policy == "specaugment":
        found.add("from nfaug.compare import spec_augment")
    found.update(lines)
    imports = "\n".join(sorted(found, key=lambda line: (line.startswith("from"), line)))
    return f"{_SLEEP}\n\n{imports}"


def _reading(source: Source, size: str, resize: str) -> str:
    """Statements that open the images as uint8 tensors: `images` and `test_images`."""
    if not source.folders:
        both = [f'images = nfaug.open_dataset("{source.data}", image_size={size})']
        if source.test is not None:
            both.append(f'test_images = nfaug.open_dataset("{source.test}", image_size={size})')
    else:
        grey = "v2.Grayscale(), " if source.shape[0] == 1 else ""
        steps = f"{grey}v2.Resize({resize}), v2.CenterCrop({size}), v2.PILToTensor()"
        both = [f"read = v2.Compose([{steps}])", f"images = ImageFolder({source.data!r}, read)"]
        if source.test is not None:
            both.append(f"test_images = ImageFolder({source.test!r}, read)")
    both.append("classes = len(images.classes)")
    if source.test is None:
        both.append("shares = [0.75, 0.25]  # one to train on, one to judge by")
        both.append("seeded = torch.Generator().manual_seed(0)")
        split = "torch.utils.data.random_split(images, shares, seeded)"
        both.append(f"images, test_images = {split}")
    return "\n".join(both)


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _network(config: CompareConfig, source: Source, classes: str) -> str:
    """An expression that makes the network."""
    channels = source.shape[0]
    if config.network == "small-cnn":
        return f"small_cnn(({channels}, *SIZE), {classes})"
    options = f"num_classes={classes}, in_chans={channels}"
    if config.weights is not None:
        overlay = f'pretrained_cfg_overlay={{"file": {str(config.weights)!r}}}'
        options += f",\n    pretrained=True, {overlay},\n"
        return f'timm.create_model(\n    "{config.network}", {options})'
    return f'timm.create_model("{config.network}", {options})'


def _training_script(
    row: Row, title: str, strength: Strength, config: CompareConfig, source: Source
) -> str:
    pretrained = config.weights is not None
    height, width = source.shape[1:]
    needed = ["from nfaug.compare import small_cnn"]
    if config.network != "small-cnn":
        needed = ["import timm"]
    augment = [*_policy(row, strength), *_safe(config, source.shape)]
    steps = "".join(f"    {line},\n" for line in [*augment, "*to_network"])
    fit = ""
    use = ""
    if row.flow:
        fit = f"""
# {title}: with probability p an image is replaced by a variant of it.
nfa = nfaug.NFAugment(nfaug.fit({row.flow!r}, images), p={strength.p:g}, mix="axis")
"""
        use = "    batch, labels = nfa(batch, labels)  # before all other augmentations\n"
    if config.network == "small-cnn":
        optimizer = "SGD(model.parameters(), PEAK, momentum=0.9, nesterov=True, weight_decay=5e-4)"
    else:
        optimizer = "AdamW(model.parameters(), PEAK, weight_decay=0.05)"
    head = ""
    mode = "model.train()"
    if pretrained:
        head = """for parameter in model.get_classifier().parameters():
    torch.nn.init.zeros_(parameter)  # a random head would distort the pretrained features
"""
        mode = "model.eval()  # BatchNorm keeps the statistics of the pretraining"
    mean = _numbers(source.mean)
    std = _numbers(source.std)
    batch = 16 if pretrained else 50
    return f'''"""Train on {source.data} as the row "{title}" of nfaug compare did."""

{_imports(row, source, needed)}

SIZE = ({height}, {width})  # pixels, height and width
STEPS = {config.steps}
BATCH = {batch}
PEAK = {config.learning_rate:g}  # learning rate
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

{_reading(source, "SIZE", "min(SIZE)")}
{fit}
to_network = [v2.ToDtype(torch.float32, scale=True), v2.Normalize({mean}, {std})]
augment = v2.Compose([
{steps}])
prepare = v2.Compose(to_network)

model = {_network(config, source, "classes")}
{head}model = model.to(device)
optimizer = torch.optim.{optimizer}
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=STEPS)
sampler = torch.utils.data.RandomSampler(images, num_samples=STEPS * BATCH)
{mode}
for batch, labels in torch.utils.data.DataLoader(images, BATCH, sampler=sampler):
{use}    batch = torch.stack([augment(image) for image in batch])
    loss = torch.nn.functional.cross_entropy(model(batch.to(device)), labels.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

model.eval()
right = 0
with torch.no_grad():
    for batch, labels in torch.utils.data.DataLoader(test_images, 256):
        right += int((model(prepare(batch).to(device)).argmax(1).cpu() == labels).sum())
print(f"accuracy {{100 * right / len(test_images):.1f}}% on {{len(test_images)}} images")
torch.save(model.state_dict(), "classifier.pt")
'''


def _frozen_script(
    row: Row, title: str, strength: Strength, config: CompareConfig, source: Source
) -> str:
    side, read = input_size(config)
    policy = _policy(row, strength)
    more = ""
    if row.flow or policy:
        lines = []
        if row.flow:
            lines.append(f'nfa = nfaug.NFAugment(nfaug.fit({row.flow!r}, images), p=1, mix="axis")')
        lines.append(f"VARIANTS = {FROZEN_VARIANTS}  # of each image")
        lines.append(f"P = {strength.p:g}  # their share of the weight of an image")
        if policy:
            lines.append(f"policy = {policy[0]}")
        lines.append("everything, weights = [found], [np.full(len(found), 1 - P)]")
        lines.append("for _ in range(VARIANTS):")
        lines.append("    for batch, batch_labels in torch.utils.data.DataLoader(images, 32):")
        if row.flow:
            lines.append("        batch, batch_labels = nfa(batch, batch_labels)")
        if policy:
            lines.append("        batch = torch.stack([policy(image) for image in batch])")
        lines.append("        everything.append(features(batch))")
        lines.append("        weights.append(np.full(len(batch), P / VARIANTS))")
        lines.append("everything = (np.concatenate(everything) - mean) / scale")
        lines.append("all_labels = np.concatenate([labels] * (VARIANTS + 1))")
        lines.append("model = LogisticRegression(C=model.C, max_iter=300)")
        lines.append("model.fit(everything, all_labels, np.concatenate(weights))")
        more = "\n".join(["", f"# {title}", *lines, ""])
    needed = [
        "import numpy as np",
        "import timm",
        "from sklearn.linear_model import LogisticRegression",
        "from sklearn.model_selection import GridSearchCV",
    ]
    powers = f"{round(_log(CHOICES[0]))}, {round(_log(CHOICES[-1]))}, {len(CHOICES)}"
    return f'''"""Classify {source.data} as the row "{title}" of nfaug compare did."""

{_imports(row, source, needed)}

SIDE = {side}  # pixels that the network takes
READ = {read}  # pixels of a side that are read; the centre of them is taken
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

{_reading(source, "(READ, READ)", "READ")}

network = {_network(config, source, "0")}
network = network.to(device).eval()
prepare = v2.Compose([
    v2.CenterCrop(SIDE),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize({_numbers(source.mean)}, {_numbers(source.std)}),
])


@torch.no_grad()
def features(batch):
    return network(prepare(batch).to(device)).cpu().numpy().astype(np.float64)


def features_and_labels(dataset):
    loader = torch.utils.data.DataLoader(dataset, 32)
    pairs = [(features(batch), labels) for batch, labels in loader]
    return np.concatenate([found for found, _ in pairs]), np.concatenate([y for _, y in pairs])


found, labels = features_and_labels(images)
mean, scale = found.mean(0), found.std()
folds = 2 if len(labels) > 1000 else max(2, min(5, np.bincount(labels).min()))
powers = {{"C": np.logspace({powers})}}
choice = GridSearchCV(LogisticRegression(max_iter=300), powers, cv=folds)
model = choice.fit((found - mean) / scale, labels).best_estimator_
{more}
tested, right = features_and_labels(test_images)
accuracy = 100 * model.score((tested - mean) / scale, right)
print(f"accuracy {{accuracy:.1f}}% on {{len(right)}} images")
'''


def _log(value: float) -> float:
    import math

    return math.log10(value)
