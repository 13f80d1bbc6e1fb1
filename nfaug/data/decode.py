"""Decode image files."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

__all__ = ["IMAGE_ENDINGS", "ImageDecodeError", "decode_image", "is_deep", "to_8_bits", "upright"]

_FORMATS = {
    ".bmp": "BMP", ".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".pbm": "PPM", ".pgm": "PPM",
    ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
IMAGE_ENDINGS = tuple(_FORMATS)
_EXIF_ORIENTATION = 0x0112


class ImageDecodeError(ValueError):
    """An image that cannot be decoded. The message names it."""


def decode_image(data: bytes, name: str, *, header_only: bool = False) -> Image.Image:
    """Decode an image file, upright as its EXIF orientation says. GIFs give their first frame.

    PIL tries only the formats of `IMAGE_ENDINGS`: some of its other formats start programs. It
    refuses images of more than twice `PIL.Image.MAX_IMAGE_PIXELS`.

    Args:
        data: The bytes of the file.
        name: The name of the image in messages.
        header_only: Whether the mode and the size are enough; pixels may then not be decoded.

    Raises:
        ImageDecodeError: If the file is damaged, of another format, or too large.
    """
    try:
        image = upright(Image.open(io.BytesIO(data), formats=sorted({*_FORMATS.values()})))
        if not header_only:
            image.load()
    except Exception as error:  # PIL raises a dozen types for damaged files
        raise ImageDecodeError(
            f"{name} cannot be decoded ({type(error).__name__}: {error}); repair or remove it, or "
            'skip such files with on_error="skip"'
        ) from error
    return image


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, without the tag; itself if it has none.

    Images keep the tag when PIL opens, converts, resizes or crops them, so that data sets of
    torchvision and timm yield it. Through an array or a tensor it is lost.
    """
    if image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def is_deep(image: Image.Image | Tensor) -> bool:
    """Whether a PIL image has more than 8 bits per channel."""
    return isinstance(image, Image.Image) and image.mode.startswith(("I", "F"))


def to_8_bits(image: Image.Image, name: str) -> Tensor:
    """Scale a 16-bit image (0..65535), or a floating-point one in [0, 1], to uint8 (1, H, W).

    Raises:
        ImageDecodeError: If a value is outside of that range.
    """
    levels = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    low, high = float(levels.min()), float(levels.max())
    if not (low >= 0 and high <= top):  # NaN fails too
        raise ImageDecodeError(
            f"{name} has values from {low:g} to {high:g} (mode {image.mode!r}); scale_16_bit maps "
            f"0..{top:g} to 0..255"
        )
    return torch.from_numpy(np.rint(levels * (255 / top)).astype(np.uint8))[None]
