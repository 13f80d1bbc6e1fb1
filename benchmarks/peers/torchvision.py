"""Calls of v2.MixUp and v2.CutMix beside the same calls of `NFAugment`.

The protocol of torchvision's own tests of the two, written anew: those assert mixed labels and the
texts of torchvision's errors. A case passes if `NFAugment` accepts what one of the two accepts, and
returns the same structure, types, shapes and dtypes with the labels that came; or if it refuses
by a message what both refuse.
"""

from __future__ import annotations

import copy
import itertools
import operator
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from tools.nfa import CLASSES, batch_of
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from nfaug import NFAugment

from .outcomes import SIDE, Outcomes, fitted, is_refusal, message

BATCH = 6
# Why cases disagree, and the words that begin their names.
BY_DESIGN = {
    "an image has one label, a video would need more": ["a video"],
    "views are separate batches": ["two batches of images"],
    "nfaug does not choose between keys": ["two keys with label"],
    "NFA mixes images of one class, so it goes before what softens labels": ["soft labels"],
    "there is nothing to augment": ["labels without images"],
    "nfaug takes lists, names and other integers, too": [
        "a list of labels",
        "names of classes",
        "labels as int32",
    ],
    "MixUp replaces the labels, and must find them; nfaug reads them": [
        "a getter that makes labels"
    ],
    "nfaug knows more keys": ["a key named target"],
}


class Pair(NamedTuple):
    """A batch with names."""

    image: Tensor
    label: Tensor


class Case(NamedTuple):
    """A call with a transform; `labels` came, or are None where MixUp or CutMix follows."""

    name: str
    call: Callable[[Any], Any]
    labels: Tensor | None
    getter: Any = None


class Collate:
    """A `collate_fn` that transforms the batch, packed or unpacked, and can be pickled."""

    def __init__(self, transform: Any, unpacked: bool) -> None:
        self.transform = transform
        self.unpacked = unpacked

    def __call__(self, samples: list[Any]) -> Any:
        batch = default_collate(samples)
        return self.transform(*batch) if self.unpacked else self.transform(batch)


def batch(
    labels_as: str = "index", channels: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    images, _ = batch_of(BATCH, channels=channels, size=(SIDE, SIDE))
    labels = torch.arange(BATCH) % CLASSES
    if dtype != torch.uint8:
        images = (images / 255).to(dtype)
    if labels_as == "one-hot":
        labels = one_hot(labels, CLASSES)
    return images, labels


def called(*inputs: Any) -> Callable[[Any], Any]:
    """A call with these inputs."""
    return lambda transform: transform(*inputs)


def forms(x: Tensor, y: Tensor) -> dict[str, tuple[Any, ...]]:
    """The inputs of a call in each form that MixUp takes, or might."""
    found: dict[str, tuple[Any, ...]] = {
        "unpacked": (x, y),
        "a list": ([x, y],),
        "a tuple": ((x, y),),
        "a named tuple": (Pair(x, y),),
        "a dict": ({"image": x, "label": y},),
        "an ordered dict": (OrderedDict(image=x, labels=y),),
        "a nested dict": ({"inputs": {"image": x}, "labels": y},),
        "a nested list": ([[x], y],),
        "a key named target": ({"image": x, "target": y},),
        "two keys with label": ({"image": x, "label_a": y, "label_b": y.clone()},),
        "strings beside": (x, y, ["a.png"] * BATCH),
        "numbers and None beside": ([x, y, 3, 0.5, None],),
        "a tensor beside": (x, y, torch.arange(BATCH) + 100),
        "tv_tensors.Image": (tv_tensors.Image(x), y),
        "tv_tensors.Image in a dict": ({"image": tv_tensors.Image(x), "labels": y},),
        "a video": (tv_tensors.Video(x[:, None]), y),
        "two batches of images": (tv_tensors.Image(x), y, tv_tensors.Image(x)),
        "one image in the batch": (x[:1], y[:1]),
        "an empty batch": (x[:0], y[:0]),
        "labels without images": ({"labels": y},),
    }
    for key in ("labels", "LABELS", "LaBeL", "some_LABeL_of_it"):
        sample = {key: y, "another": "text"}
        found[f"{key} in a dict"] = ({"image": x, **sample},)
        found[f"{key} in a tuple"] = ((x, sample, "more"),)
        found[f"{key} in a list"] = ([x, sample, "more"],)
        if key.lower() != "labels":
            found[f"labels before {key}"] = ({"image": x, key: "text", "labels": y},)
    return found


def refusals(x: Tensor, y: Tensor) -> dict[str, tuple[Any, ...]]:
    """Inputs that MixUp refuses, or that fail in it."""
    picture = F.to_pil_image(x[0])
    mask = tv_tensors.Mask(torch.rand(SIDE, SIDE))
    boxes = tv_tensors.BoundingBoxes(torch.rand(2, 4), format="XYXY", canvas_size=(SIDE, SIDE))
    return {
        "a PIL image alone": (picture,),
        "a mask alone": (mask,),
        "boxes alone": (boxes,),
        "a PIL image beside": (x, y, picture),
        "a list of PIL images beside": (x, y, [picture] * BATCH),
        "a mask beside": (x, y, mask),
        "boxes beside": (x, y, boxes),
        "no labels in a dict": ({"image": x, "another": 3},),
        "images alone": (x,),
        "images alone in a list": ([x],),
        "a string of labels": (x, "not a tensor"),
        "no labels": (x, None),
        "images of 3 dimensions": (x[0], y),
        "images of 5 dimensions": (x[None], y),
        "images of 6 dimensions": (x[None, None], y),
        "more labels than images": (x, torch.cat([y, y])),
        "fewer labels than images": (x, y[1:]),
        "rows of other classes": (x, torch.randint(2, (BATCH, CLASSES + 1))),
        "labels of 3 dimensions": (x, torch.randint(2, (2, 3, 4))),
        "a label that is too large": (x, y + 1),
        "a negative label": (x, y - 1),
        "floating point labels": (x, y.float()),
        "a list of labels": (x, y.tolist()),
        "names of classes": (x, [str(label) for label in y.tolist()]),
        "soft labels": (x, (one_hot(y, CLASSES) + 0.1).softmax(1)),
    }


def ways(x: Tensor, y: Tensor) -> dict[str, Callable[[Any], Any]]:
    """Other ways to the transform than a call: copies, v2.Compose, loaders."""
    samples = list(zip(x, y, strict=True))
    flip = v2.RandomHorizontalFlip()
    mixup = v2.MixUp(num_classes=CLASSES)
    cutmix = v2.CutMix(num_classes=CLASSES)

    def loaded(transform: Any, unpacked: bool, workers: int = 0) -> Any:
        collate = Collate(transform, unpacked)
        return next(iter(DataLoader(samples, BATCH, collate_fn=collate, num_workers=workers)))

    return {
        "pickled": lambda t: pickle.loads(pickle.dumps(t))(x, y),
        "deepcopied": lambda t: copy.deepcopy(t)(x, y),
        "in v2.Compose after a flip": lambda t: v2.Compose([flip, t])(x, y),
        "in v2.Compose before v2.MixUp": lambda t: v2.Compose([t, mixup])([x, y]),
        "in v2.Compose before v2.CutMix": lambda t: v2.Compose([t, cutmix])(x, y),
        "in v2.RandomApply": lambda t: v2.RandomApply([t], p=1.0)(x, y),
        "in v2.RandomChoice": lambda t: v2.RandomChoice([t])([x, y]),
        "after a loader": lambda t: t(next(iter(DataLoader(samples, BATCH)))),
        "as collate_fn": lambda t: loaded(t, unpacked=False),
        "as collate_fn, unpacked": lambda t: loaded(t, unpacked=True),
        "in a worker": lambda t: loaded(t, unpacked=False, workers=1),
    }


def cases() -> Iterator[Case]:
    """All cases."""
    kinds = ("index", "one-hot")
    dtypes = (torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16)
    for kind, channels, dtype in itertools.product(kinds, (1, 3), dtypes):
        x, y = batch(kind, channels, dtype)
        yield Case(f"{channels} channels, {dtype}, {kind}", called(x, y), y)
    for kind in kinds:
        x, y = batch(kind)
        for name, inputs in forms(x, y).items():
            yield Case(f"{name}, {kind}", called(*inputs), y)
        for name, call in ways(x, y).items():
            yield Case(f"{name}, {kind}", call, None if "before" in name else y)
    x, y = batch()
    rows = one_hot(y, CLASSES).float()
    yield Case("labels as int32", called(x, y.int()), y.int())
    yield Case("rows in floating point", called(x, rows), rows)
    sample = called({"image": x, "classes": y})
    beside = called(x, ["a.png"] * BATCH, y)
    yield Case("a getter by key", sample, y, operator.itemgetter("classes"))
    yield Case("a getter by position", beside, y, operator.itemgetter(2))
    yield Case("a getter that makes labels", sample, y, lambda given: given["classes"].clone())
    yield Case("a getter that finds nothing", sample, y, lambda given: None)
    for name, inputs in refusals(x, y).items():
        yield Case(name, called(*inputs), y)


def run() -> Outcomes:
    """The outcomes of all cases."""
    outcomes = Outcomes()
    engines = {channels: NFAugment(fitted(channels)).engine for channels in (1, 3)}
    for case in cases():
        engine = engines[1 if case.name.startswith("1 ") else 3]
        getter = case.getter or "default"
        nfa = NFAugment(engine, p=1.0, gate=None, labels_getter=case.getter)
        others = [
            attempt(case, v2.MixUp(num_classes=CLASSES, labels_getter=getter)),
            attempt(case, v2.CutMix(num_classes=CLASSES, labels_getter=getter)),
        ]
        judge(outcomes, case, attempt(case, nfa), others)
    for reason, beginnings in BY_DESIGN.items():
        outcomes.notes.append(f"{', '.join(beginnings)}: {reason}.")
    outcomes.notes.append("MixUp's error without `num_classes` has no case: a checkpoint has them.")
    return outcomes


def attempt(case: Case, transform: Any) -> Any:
    """What the call returns, or its error."""
    try:
        return case.call(transform)
    except Exception as error:
        return error


def judge(outcomes: Outcomes, case: Case, ours: Any, others: list[Any]) -> None:
    """Note how our result compares to those of MixUp and CutMix."""
    accepted = [other for other in others if not isinstance(other, Exception)]
    if isinstance(ours, Exception):
        agree = is_refusal(ours) and not accepted
        outcomes.add(case.name, None if agree else ours)
    elif not accepted:
        first = others[0]
        text = f"nfaug accepts it; v2.MixUp: {type(first).__name__}: {message(first)}"
        outcomes.other[case.name] = text
    else:
        got = list(described(ours, case.labels))
        wanted = list(described(accepted[0], None))
        if got == wanted:
            outcomes.passed.append(case.name)
        else:
            outcomes.other[case.name] = f"nfaug returns {got}; torchvision {wanted}"


def described(sample: Any, labels: Tensor | None) -> Iterator[str]:
    """The containers of a sample and what is in them, with "labels" in the place of labels.

    These are the given ones, or rows with an entry for each class if there are none.
    """
    kind = type(sample).__name__
    if isinstance(sample, Tensor):
        if labels is None:
            is_labels = sample.dtype == torch.float32 and sample.shape[1:] == (CLASSES,)
        else:
            is_labels = sample is labels or (
                sample.dtype == labels.dtype and torch.equal(sample, labels[: len(sample)])
            )
        yield "labels" if is_labels else f"{kind} {tuple(sample.shape)} {sample.dtype}"
    elif isinstance(sample, Mapping):
        yield f"{kind} of {list(sample)}"
        for value in sample.values():
            yield from described(value, labels)
    elif isinstance(sample, (list, tuple)):
        yield f"{kind} of {len(sample)}"
        for value in sample:
            yield from described(value, labels)
    else:
        yield f"{kind} {sample!r:.40}"
