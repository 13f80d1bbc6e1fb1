"""Class names and class labels of datasets. Every `check_*` raises ValueError."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any
from unicodedata import normalize

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

_MOST_LABELS = 65_536  # as many as a checkpoint can name


def composed(name: str) -> str:
    """A name in which an accent is one character with its letter: Unicode's form NFC.

    A Mac may store it as a character of its own in the name of a folder.
    """
    return normalize("NFC", name)


def unique_names(classes: Iterable[Any]) -> list[str]:
    """One unique name per class.

    A tuple of synonyms becomes "a, b". Classes that share a name get their label as a suffix, such
    as "crane (134)"; all classes get it if that would be the name of another one. torchvision's
    ImageNet needs both. Accents are `composed`.
    """
    names = []
    for synonyms in classes:
        if not isinstance(synonyms, tuple):
            synonyms = (synonyms,)
        names.append(composed(", ".join(map(str, synonyms))))
    counts = Counter(names)
    unique_names = []
    for label, name in enumerate(names):
        unique_names.append(f"{name} ({label})" if counts[name] > 1 else name)
    if len(set(unique_names)) < len(names):  # "crane", "crane" and "crane (0)"
        return [f"{name} ({label})" for label, name in enumerate(names)]
    return unique_names


def numbered(labels: Any) -> list[str]:
    """Class names "0", "1", ... up to the largest label of a tensor or array.

    Raises:
        ValueError: If a label is 65,536 or more.
    """
    count = int(labels.max()) + 1 if len(labels) else 0
    if count > _MOST_LABELS:
        raise ValueError(f"labels must be below {_MOST_LABELS}; got {count - 1}")
    return [str(label) for label in range(count)]


def dataset_classes(source: Any, *, required: bool = False) -> list[str] | None:
    """Class names in label order of a `class_to_idx`, a sequence of names, or a dataset.

    Names are unique, as `unique_names` makes them. Those of a dataset come from its `class_to_idx`,
    or else from its `classes`. If a label is missing from `class_to_idx`, which cannot hold two
    classes of one name, `classes` are used. A Hugging Face `Dataset` names the classes of its
    column `label`. A list of (image, label) is a dataset without names.

    Names belong to the labels of the dataset that has them. So those behind a `target_transform` or
    inside a wrapper, which may change labels, are not used. torch's `Subset` and `ConcatDataset`
    do not change them; the parts of a `ConcatDataset` must have the same names.

    Args:
        source: The mapping, the names or the dataset.
        required: Whether missing names are an error; otherwise None is returned.

    Raises:
        ValueError: If `class_to_idx` lacks a label, the parts of a `ConcatDataset` have different
            names, or names are `required` and there are none.
    """
    if isinstance(source, Mapping):
        return _in_label_order(source)
    if isinstance(source, (list, tuple)) and all(map(_is_name, source)):
        return unique_names(source)
    names, *others = map(_own_classes, item_sources(source))
    for other in others:
        if names is None or other is None:
            names = None
        elif names != other:
            pairs = itertools.zip_longest(names, other)
            label, (one, another) = next(each for each in enumerate(pairs) if len({*each[1]}) > 1)
            raise ValueError(
                f"the parts of the dataset have different classes: label {label} is {one!r} in one "
                f"part and {another!r} in another. Give all parts the same classes in the same "
                "order; or name the labels as they are, nfaug.open_dataset(dataset, classes=names)"
            )
    if names is None and required:
        raise ValueError(
            f"no class names found in a {type(source).__name__}; pass class_to_idx, or the names "
            "in label order. Names inside a wrapper or behind target_transform are not used, since "
            "both may change labels"
        )
    return names


def item_sources(dataset: Any) -> list[Any]:
    """The datasets that a dataset takes its items from, as they are.

    They are those in torch's `Subset` and `ConcatDataset`. Other wrappers, and subclasses of these
    two, may change items: they are their own source, as a dataset that wraps nothing is.
    """
    if type(dataset) is Subset:
        return item_sources(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return [source for part in dataset.datasets for source in item_sources(part)]
    return [dataset]


def subset_rows(dataset: Subset[Any]) -> np.ndarray:
    """The indices of a torch `Subset`, int64; ValueError if one is no whole number."""
    rows = np.asarray(dataset.indices)
    if rows.size and (rows.ndim != 1 or rows.dtype.kind not in "iu"):
        raise ValueError(
            f"indices of a Subset must be whole numbers; got {rows.dtype} of shape {rows.shape}"
        )
    return rows.astype(np.int64).reshape(-1)


def own_attribute(dataset: Any, name: str) -> Any:
    """An attribute of a dataset, or None; not one that its `__getattr__` takes from another."""
    if inspect.getattr_static(dataset, name, None) is None:
        return None
    return getattr(dataset, name, None)


def _is_name(value: Any) -> bool:
    """Whether this is a name, a number or a tuple of synonyms, not an image with its label."""
    if isinstance(value, tuple):
        return all(isinstance(word, str) for word in value)
    return isinstance(value, (str, Integral))  # numpy's integers are no int


def _own_classes(dataset: Any) -> list[str] | None:
    """The class names that a dataset or its reader (timm) has for the labels of its items."""
    if getattr(dataset, "target_transform", None) is not None:
        return None
    names = _names_in(dataset)
    if names is None:
        names = _names_in(own_attribute(dataset, "reader"))
    return names


def _names_in(holder: Any) -> list[str] | None:
    """The class names that a dataset or a reader stores."""
    class_to_idx = own_attribute(holder, "class_to_idx")
    if not isinstance(class_to_idx, Mapping):
        class_to_idx = {}
    names = own_attribute(holder, "classes")
    if isinstance(names, np.ndarray):
        names = names.tolist()
    features = own_attribute(holder, "features")
    if isinstance(features, Mapping):  # of a Hugging Face dataset
        names = getattr(features.get("label"), "names", None)
    labels = set(class_to_idx.values())
    if labels and (not names or labels == set(range(len(labels)))):
        return _in_label_order(class_to_idx)
    if isinstance(names, list | tuple) and names:
        return unique_names(names)
    return None


def _in_label_order(class_to_idx: Mapping[Any, int]) -> list[str]:
    synonyms: dict[int, list[str]] = {}
    for name, index in class_to_idx.items():
        synonyms.setdefault(index, []).append(str(name))
    if sorted(synonyms) != list(range(len(synonyms))):
        raise ValueError(
            f"class_to_idx must map to 0..{len(synonyms) - 1} for {len(synonyms)} classes; got "
            f"{sorted(synonyms)[:10]}. If two classes share a name, pass the names in label order"
        )
    return unique_names(tuple(synonyms[index]) for index in range(len(synonyms)))


def stored_labels(dataset: Any) -> np.ndarray | None:
    """Labels that a dataset stores for its own items, int64 of shape (N,), or None.

    They are its `targets` or `labels` (torchvision), the `samples` of its `reader` (timm), or the
    column `label` of a Hugging Face `Dataset`. Those of torch's `Subset` and `ConcatDataset` are
    taken from the datasets in it. The result is None with a `target_transform`, which changes the
    stored labels, and for other wrappers, which may change them.
    """
    if type(dataset) is Subset:
        labels = stored_labels(dataset.dataset)
        if labels is None:
            return None
        return labels[subset_rows(dataset)]
    if type(dataset) is ConcatDataset:
        parts = [stored_labels(part) for part in dataset.datasets]
        known = [labels for labels in parts if labels is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    if getattr(dataset, "target_transform", None) is not None:
        return None
    candidates = [own_attribute(dataset, "targets"), own_attribute(dataset, "labels")]
    if "label" in (own_attribute(dataset, "column_names") or ()):
        candidates.append(dataset["label"][:])
    samples = own_attribute(own_attribute(dataset, "reader"), "samples")
    if isinstance(samples, list):
        candidates.append([label for _, label in samples])
    for candidate in candidates:
        labels = as_labels(candidate, len(dataset))
        if labels is not None:
            return labels
    return None


def as_labels(values: Any, count: int) -> np.ndarray | None:
    """Labels as int64 of shape (count,); None if they are not `count` whole numbers."""
    try:
        if isinstance(values, Tensor):
            values = values.cpu()
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    if array.dtype.kind not in "iu" or array.shape != (count,):
        return None
    return array.astype(np.int64)


def check_class_sizes(labels: Tensor, names: Sequence[str]) -> None:
    """Check that class names are UTF-8 and that every class has an image.

    Warn of classes with one image, which get no PCA axes.
    """
    unencodable = [name for name in names if name != name.encode("utf-8", "ignore").decode()]
    if unencodable:
        raise ValueError(
            f"names of classes must be UTF-8: rename the folder of class {unencodable[0]!r}"
        )
    counts = labels.bincount(minlength=len(names)).tolist()
    empty = [repr(name) for name, count in zip(names, counts, strict=True) if count == 0]
    if empty:
        start = "" if counts[0] else "labels start at 0, and "
        raise ValueError(
            f"the dataset has no image of {len(empty)} of its {len(names)} classes: "
            f"{_few(empty)}; {start}each label in 0..K-1 needs at least one image"
        )
    single = [repr(name) for name, count in zip(names, counts, strict=True) if count == 1]
    if single:
        warnings.warn(
            f"{len(single)} of {len(names)} classes have one image, so they get no axes and "
            f"no partners, and without noise NFA leaves their images unchanged: {_few(single)}",
            stacklevel=3,
        )


def check_same_classes(names: Iterable[str] | None, expected: Sequence[str]) -> None:
    """Check that a dataset has the class names of a checkpoint, in its order."""
    if not expected:
        raise ValueError("the checkpoint has no class names to compare with; fit it (nfaug fit)")
    actual = unique_names(names or ())
    expected = unique_names(expected)
    for label, (name, expected_name) in enumerate(itertools.zip_longest(actual, expected)):
        if name != expected_name:
            same = sorted(actual) == sorted(expected)
            relation = ", the same in another order" if same else ""
            raise ValueError(
                f"the dataset has {len(actual)} classes and the checkpoint {len(expected)}"
                f"{relation}: label {label} is {name!r} in the data and {expected_name!r} in the "
                "checkpoint. Images would be mixed with images of another class. Use the "
                "checkpoint's classes in its order, or fit the checkpoint to this dataset: "
                "nfaug.fit(checkpoint, dataset)"
            )


def _few(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
