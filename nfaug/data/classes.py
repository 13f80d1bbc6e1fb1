"""Class names of data sets, in label order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["class_names", "dataset_classes", "numbered", "unwrapped"]

_MAX_CLASSES = 65_536  # as many as a checkpoint can name


def class_names(classes: Iterable[Any]) -> list[str]:
    """One unique name per class.

    A tuple of synonyms becomes "a, b". Classes that share a name get their label as a suffix, such
    as "crane (134)". torchvision's ImageNet needs both.
    """
    names = [", ".join(map(str, x)) if isinstance(x, tuple) else str(x) for x in classes]
    times = Counter(names)
    return [f"{name} ({i})" if times[name] > 1 else name for i, name in enumerate(names)]


def numbered(labels: Any) -> list[str]:
    """Class names "0", "1", ... up to the largest label of a tensor or array.

    Raises:
        ValueError: If a label is 65,536 or more.
    """
    count = int(labels.max()) + 1 if len(labels) else 0
    if count > _MAX_CLASSES:
        raise ValueError(f"labels must be below {_MAX_CLASSES}; got {count - 1}")
    return [str(label) for label in range(count)]


def dataset_classes(source: Any, *, required: bool = False) -> list[str] | None:
    """Class names in label order of a `class_to_idx`, a sequence of names, or a data set.

    Names are unique, as `class_names` makes them. If a data set has both `class_to_idx` and
    `classes`, `class_to_idx` decides, unless it lacks a label: it cannot hold two classes of the
    same name. Wrappers are searched through their `dataset`, `datasets` and `reader` attributes
    (torch's Subset and ConcatDataset, timm's data sets). A Hugging Face `Dataset` names the classes
    of its column `label`.

    Args:
        source: The mapping, the names or the data set.
        required: Whether missing names are an error; otherwise None is returned.

    Raises:
        ValueError: If `class_to_idx` lacks a label, or names are `required` and there are none.
    """
    if isinstance(source, Mapping):
        return _in_label_order(source)
    if isinstance(source, (list, tuple)):
        return class_names(source)
    for holder in unwrapped(source):
        index = getattr(holder, "class_to_idx", None)
        features = getattr(holder, "features", None)  # of Hugging Face's datasets
        found = getattr(holder, "classes", None)
        if isinstance(features, Mapping):
            found = getattr(features.get("label"), "names", None)
        names = found if isinstance(found, Sequence) and not isinstance(found, str) else ()
        if isinstance(index, Mapping) and index:
            labels = {*index.values()}
            if not names or labels == {*range(len(labels))}:
                return _in_label_order(index)
        if names:
            return class_names(names)
    if required:
        raise ValueError(
            f"no class names found in a {type(source).__name__}; pass class_to_idx, or the names "
            "in label order"
        )
    return None


def _in_label_order(class_to_idx: Mapping[Any, int]) -> list[str]:
    synonyms: dict[int, list[str]] = {}
    for name, index in class_to_idx.items():
        synonyms.setdefault(index, []).append(str(name))
    if sorted(synonyms) != list(range(len(synonyms))):
        missing = next(i for i in range(len(synonyms)) if i not in synonyms)
        raise ValueError(
            f"class_to_idx must map to 0..{len(synonyms) - 1} for {len(synonyms)} classes; got "
            f"{sorted(synonyms)[:10]}, without {missing}. If two classes share a name, pass the "
            "names in label order instead"
        )
    return class_names(tuple(synonyms[index]) for index in range(len(synonyms)))


def unwrapped(source: Any) -> Iterator[Any]:
    """A data set, its reader, and the data sets that it wraps."""
    for _ in range(16):  # a wrapper may contain itself
        yield source
        if (reader := getattr(source, "reader", None)) is not None:
            yield reader
        parts = getattr(source, "datasets", None)  # torch's ConcatDataset
        source = parts[0] if parts else getattr(source, "dataset", None)
        if source is None:
            return
