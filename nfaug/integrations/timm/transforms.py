"""timm's training transforms from a line of text, as they are before normalisation."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from timm.data import transforms_factory

__all__ = ["training_transform"]

_GIVEN = ("input_size", "is_training", "use_prefetcher", "separate")
_LATER = ("normalize", "mean", "std", "re_prob", "re_mode", "re_count", "re_num_splits")


def training_transform(spec: str, image_size: int | tuple[int, int]) -> Any:
    """The transform of a timm script, from a PIL image to a uint8 array (C, H, W).

    `spec` holds arguments of `timm.data.create_transform`, as in "scale=(0.08,1) hflip=0.5
    auto_augment=rand-m9-mstd0.5"; an empty one is timm's defaults. `image_size` is what the script
    trains at. Normalisation and random erasing come later in timm, in its loader.

    Raises:
        ValueError: an argument is unknown, has no place here, or has no value.
    """
    known = set(inspect.signature(transforms_factory.create_transform).parameters)
    known -= {*_GIVEN, *_LATER}
    settings: dict[str, Any] = {}
    for word in spec.split():
        name, equals, value = word.partition("=")
        if name in _LATER:
            raise ValueError(
                f"{word!r} has no place here: normalisation and random erasing come after the "
                "transforms, in timm's loader; leave it out"
            )
        if not equals or name not in known:
            raise ValueError(
                f"{word!r} is no argument of timm's create_transform; write name=value without "
                f"spaces, with a name of {sorted(known)}"
            )
        settings[name] = _value(value)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return transforms_factory.create_transform(
        size, is_training=True, use_prefetcher=True, **settings
    )


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
