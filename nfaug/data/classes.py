"""Checks at the public edge: settings, and whether data and checkpoint mean the same classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["checked", "class_names", "dataset_classes", "one_of", "refuse_other_classes"]

_Word = TypeVar("_Word", bound=str)


def checked(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> float:
    """A finite number in [low, high], or in (low, high]."""
    good = math.isfinite(value) and low <= value <= high and not (open_low and value == low)
    if not good:
        bounds = f"{'(' if open_low else '['}{low:g}, {high:g}]"
        raise ValueError(f"{name} must be a finite number in {bounds}; got {value}")
    return float(value)


def one_of(name: str, value: _Word, choices: tuple[_Word, ...]) -> _Word:
    """One of a few words."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}; got {value!r}")
    return value


def class_names(classes: Iterable[Any]) -> list[str]:
    """A name for each class, no two alike: torchvision's ImageNet has both that this undoes.

    The synonyms of one class, a tuple, become "a, b"; classes of one name, "crane (134)" and so on,
    with their labels.
    """
    names = [", ".join(map(str, x)) if isinstance(x, tuple) else str(x) for x in classes]
    times = Counter(names)
    return [f"{name} ({i})" if times[name] > 1 else name for i, name in enumerate(names)]


def dataset_classes(source: Any, *, required: bool = False) -> list[str] | None:
    """Class names in label order of a `class_to_idx`, a sequence of names, or a data set.

    They are those of `class_names`. Of a data set with both, `class_to_idx` says which label is
    which, unless it lacks one: a name stands there for one class only, and two may be alike.
    Looks through wrappers that call what they wrap `dataset` or `reader` (torch's Subset, timm's
    data sets). None where there are no names, or a ValueError if they are `required`.
    """
    if isinstance(source, Mapping):
        return _in_order(source)
    if isinstance(source, (list, tuple)):
        return class_names(source)
    for holder in _unwrapped(source):
        index = getattr(holder, "class_to_idx", None)
        found = getattr(holder, "classes", None)
        names = found if isinstance(found, Sequence) and not isinstance(found, str) else ()
        if isinstance(index, Mapping) and index and (not names or _numbers_all(index)):
            return _in_order(index)
        if names:
            return class_names(names)
    if required:
        raise ValueError(
            f"no class names found in a {type(source).__name__}: pass class_to_idx, or names in "
            "label order"
        )
    return None


def refuse_other_classes(names: Iterable[str] | None, expected: Sequence[str]) -> None:
    """Compare names in label order with a checkpoint's.

    Raises:
        ValueError: they differ, or the checkpoint has none.
    """
    found = list(names or ())
    if not expected:
        raise ValueError("the checkpoint has no class names to compare with; fit it (nfaug fit)")
    if found == list(expected):
        return
    if sorted(found) == sorted(expected):
        first = next(i for i, name in enumerate(found) if name != expected[i])
        raise ValueError(
            "the data set and the checkpoint have the same classes in another order: label "
            f"{first} is {found[first]!r} in the data and {expected[first]!r} in the checkpoint. "
            "Images would be mixed with those of another class: use the checkpoint's order, or fit "
            "it to this data (nfaug fit)"
        )
    missing = [name for name in found if name not in set(expected)]
    extra = [name for name in expected if name not in set(found)]
    raise ValueError(
        f"the data set has {len(found)} classes, the checkpoint {len(expected)}; only in the data: "
        f"{_few(missing)}; only in the checkpoint: {_few(extra)}. Fit the flow to these classes "
        "(nfaug fit)"
    )


def _few(names: list[str]) -> str:
    return (
        repr(names[:5])[1:-1] + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"
    )


def _numbers_all(class_to_idx: Mapping[Any, int]) -> bool:
    return set(class_to_idx.values()) == set(range(len(set(class_to_idx.values()))))


def _in_order(class_to_idx: Mapping[Any, int]) -> list[str]:
    synonyms: dict[int, list[str]] = {}
    for name, index in class_to_idx.items():
        synonyms.setdefault(index, []).append(str(name))
    if sorted(synonyms) != list(range(len(synonyms))):
        missing = next(i for i in range(len(synonyms)) if i not in synonyms)
        raise ValueError(
            f"class_to_idx must number its {len(synonyms)} classes 0, 1, ...; got "
            f"{sorted(synonyms)[:10]}, without {missing}. Where two classes have one name it lacks "
            "the first: pass the names in label order instead"
        )
    return class_names(tuple(synonyms[index]) for index in range(len(synonyms)))


def _unwrapped(source: Any) -> Iterable[Any]:
    for _ in range(16):  # a wrapper could contain itself
        yield source
        if (reader := getattr(source, "reader", None)) is not None:
            yield reader
        if (source := getattr(source, "dataset", None)) is None:
            return
