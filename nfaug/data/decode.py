"""Decode image files, within limits on format, size and depth."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

__all__ = [
    "IMAGE_ENDINGS",
    "MAX_PIXELS",
    "ImageDecodeError",
    "check_pixels",
    "decode_image",
    "is_deep",
    "to_8_bits",
    "upright",
]

_FORMATS = {
    ".bmp": "BMP", ".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".pbm": "PPM", ".pgm": "PPM",
    ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
IMAGE_ENDINGS = tuple(_FORMATS)
MAX_PIXELS = 2**26  # 8192 x 8192, below the size at which PIL itself warns
_EXIF_ORIENTATION = 0x0112
_EXIF_IN_HEADER = ("JPEG", "MPO", "WEBP")
_EXIF_OF_PNG = ("exif", "Raw profile type exif")  # without, getexif() decodes the whole image


class ImageDecodeError(ValueError):
    """An image that cannot be decoded. The message names it."""


def decode_image(
    data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, header_only: bool = False
) -> Image.Image:
    """Decode an image file, upright as its EXIF orientation says. GIFs give their first frame.

    PIL tries only the formats of `IMAGE_ENDINGS`: some of its other formats start programs.

    Args:
        data: The bytes of the file.
        name: The name of the image in messages.
        max_pixels: The largest number of pixels that is decoded.
        header_only: Whether the mode and the size are enough; pixels are then not decoded.

    Raises:
        ImageDecodeError: If the file is damaged, of another format, or too large.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=sorted({*_FORMATS.values()}))
        check_pixels(image.height, image.width, name, max_pixels)
        if _is_truncated(image):
            raise ImageDecodeError(
                f"{name} has more than 8 bits per channel in colour, of which 8 can be read; "
                'convert it to 8 bits, or skip such files with on_error="skip"'
            )
        png = any(key in image.info for key in _EXIF_OF_PNG)
        in_header = image.format in _EXIF_IN_HEADER or png
        if header_only and not (in_header and image.getexif().get(_EXIF_ORIENTATION, 1) != 1):
            return image
        return ImageOps.exif_transpose(image)  # decodes the pixels
    except ImageDecodeError:
        raise
    except Exception as error:  # PIL raises a dozen types for damaged files
        raise ImageDecodeError(
            f"{name} cannot be decoded ({type(error).__name__}: {error}); repair or remove it, or "
            'skip such files with on_error="skip"'
        ) from error


def _is_truncated(image: Image.Image) -> bool:
    """Whether PIL opens an image of more bits in a mode of 8: RGB, RGBA or LA."""
    if is_deep(image):
        return False
    for tile in getattr(image, "tile", ()):
        given = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        raw = given[0] if isinstance(given[0], str) else ""
        if ";16" in raw and raw != "BGR;16":  # which has 16 bits for all three channels
            return True
        if tile[0].startswith("ppm") and isinstance(given[-1], int) and given[-1] > 255:
            return True
    return False


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


def check_pixels(height: int, width: int, name: str, max_pixels: int, when: str = "") -> None:
    """Raise ImageDecodeError for an image of more than `max_pixels`."""
    if height * width > max_pixels:
        raise ImageDecodeError(
            f"{name} has {height} x {width} pixels{when}, more than max_pixels={max_pixels}; make "
            'it smaller, raise max_pixels, or skip such files with on_error="skip"'
        )
