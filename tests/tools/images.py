"""Images for the tests of data sets."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["pixels", "png", "save"]


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, seed: int = 0, shape: tuple[int, ...] = (6, 6, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, *shape)).save(path)


def png(level: int = 0, size: tuple[int, int] = (4, 4)) -> bytes:
    """A grayscale PNG of one level."""
    data = io.BytesIO()
    Image.new("L", size, level).save(data, "PNG")
    return data.getvalue()
