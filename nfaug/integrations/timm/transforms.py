"""Parse a line of text to timm's training transforms, without normalisation."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from timm.data import transforms_factory

__all__ = ["training_transform"]

_GIVEN = ("input_size", "is_training", "use_prefetcher", "separate")
_LATER = ("normalize", "mean", "std", "re_prob", "re_mode", "re_count", "re_num_splits")


def training_transform(spec: str, image_size: int | tuple[int, int]) -> Any:
    """The transform of a timm script, from a PIL image to uint8 (C, H, W).

    Normalisation and random erasing are not part of it: timm applies them later, in its loader.

    Args:
        spec: Arguments of `timm.data.create_transform`, such as "scale=(0.08,1) hflip=0.5
            auto_augment=rand-m9-mstd0.5". An empty string means timm's defaults.
        image_size: The size in pixels at which the script trains.

    Raises:
        ValueError: If an argument is unknown, belongs to the loader, or has no value.

    Example:
        >>> transform = training_transform("scale=(0.5,1) hflip=0.5", 32)
        >>> tuple(transform(PIL.Image.new("RGB", (40, 40))).shape)
        (3, 32, 32)
    """
    known = set(inspect.signature(transforms_factory.create_transform).parameters)
    known -= {*_GIVEN, *_LATER}
    settings: dict[str, Any] = {}
    for word in spec.split():
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise ValueError(
                f"{word!r} is not an argument of timm's create_transform; write name=value without "
                f"spaces, where name is one of {sorted(known)}"
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
