"""Decode image files."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from ..run.blocks import blocks

_FORMATS = {
    ".bmp": "BMP", ".gif": "GIF", ".jpeg": "JPEG", ".jpg": "JPEG", ".pbm": "PPM", ".pgm": "PPM",
    ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
# Formats that are not decoded, with the packages that convert them. Such files count as images, so
# that they raise an error in place of being left out silently.
_UNREADABLE = {
    ".avif": "pillow-avif-plugin", ".heic": "pillow-heif", ".heif": "pillow-heif", ".jp2": "Pillow",
    ".jxl": "pillow-jxl-plugin",
}  # fmt: skip
IMAGE_ENDINGS = (*_FORMATS, *_UNREADABLE)
# Bytes of an image that are converted at once, 4 a pixel. Files of a few kB can have 2**27 pixels.
STRIP = 2**22
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations of which width and height are exchanged
# Formats of which PIL finds the orientation without decoding pixels. A PNG may have it after them,
# and PIL turns a TIFF by itself.
_TOLD_FIRST = ("BMP", "GIF", "JPEG", "PPM", "WEBP")
_TOP_16 = 65535
_TOP_12 = 4095  # levels of a camera of 12 bits, which many programs store as 16 bits unscaled


class ImageDecodeError(ValueError):
    """An image that cannot be decoded. The message names it."""


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode an image file to 8 bits, upright as its EXIF orientation says.

    GIFs give their first frame. PIL tries only the formats of `IMAGE_ENDINGS`, since some of its
    other formats start programs, and refuses more pixels than twice `PIL.Image.MAX_IMAGE_PIXELS`.

    Args:
        data: The bytes of the file.
        name: The name of the image in messages.

    Raises:
        ImageDecodeError: If the file is damaged, of another format, or too large.
    """
    with _decoding(name):
        image = upright(_opened(data))
        image.load()
        return to_8_bits(image)


def read_header(data: bytes, name: str) -> tuple[str, tuple[int, int]]:
    """PIL's mode and the (height, width) upright of an image, mostly without decoding it.

    They are those of the image that `decode_image` would return, whose pixels may be damaged.
    Arguments and errors are the same.
    """
    with _decoding(name):
        image = _opened(data)
        is_sideways = False
        if image.width != image.height:
            if image.format in _TOLD_FIRST:
                is_sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
            else:
                image = upright(image)
                image.load()
        size = (image.width, image.height) if is_sideways else (image.height, image.width)
        return image.mode, size


def _opened(data: bytes) -> Image.Image:
    """An image whose pixels are not decoded yet."""
    return Image.open(io.BytesIO(data), formats=sorted(set(_FORMATS.values())))


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Raise an ImageDecodeError for a format that is not read, or for what PIL raises."""
    package = converter_of(name)
    if package is not None:
        raise ImageDecodeError(
            f"{name} is of a format that is not read: convert it to PNG or JPEG, which the package "
            f'{package} does, or skip such files with on_error="skip" (--on-error skip)'
        )
    try:
        yield
    except Exception as error:  # PIL raises a dozen types for damaged files
        reason = re.sub(r" <.* object at 0x\w+>", "", str(error))  # PIL's name of an open file
        raise ImageDecodeError(
            f"{name} cannot be decoded ({type(error).__name__}: {reason}); repair or remove it, or "
            'skip such files with on_error="skip" (--on-error skip)'
        ) from error


def converter_of(name: str) -> str | None:
    """The package that converts a file of this name; None if its format is read here."""
    for ending, package in _UNREADABLE.items():
        if name.lower().endswith(ending):
            return package
    return None


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, without that tag.

    An image without the tag is returned as it is. PIL keeps the tag when it opens, converts,
    resizes or crops an image, so that images of torchvision's and timm's datasets have it.
    Arrays and tensors lose it.
    """
    if image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def row_strips(image: Image.Image) -> Iterator[Image.Image]:
    """The rows of an image in parts of up to `STRIP` bytes, from the top; all if it is smaller."""
    for rows in blocks(image.height, 4 * image.width, at_once=STRIP):
        if rows == slice(0, image.height):
            yield image
        else:
            yield image.crop((0, rows.start, image.width, rows.stop))


def to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit levels in 0..65535, or floating-point ones in [0, 1], to 8 bits.

    Other images are returned as they are. A warning says if the levels of a 16-bit image have 12
    bits at most, since it becomes nearly black.

    Raises:
        ValueError: If a value is outside of that range.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    is_float = image.mode == "F"
    top = 1.0 if is_float else float(_TOP_16)
    brightest = 0.0
    scaled = np.empty((image.height, image.width), np.uint8)
    row = 0
    for strip in row_strips(image):
        levels = np.asarray(strip).astype(np.float32)
        brightest = max(brightest, levels.max())
        if not (levels.min() >= 0 and levels.max() <= top):  # NaN fails too
            raise ValueError(f"levels of mode {image.mode!r} must lie between 0 and {top:g}")
        levels *= 255 / top
        scaled[row : row + strip.height] = np.rint(levels, out=levels)
        row += strip.height
    if not is_float and 0 < brightest <= _TOP_12:
        # The text is the same for every image, so that Python shows it once.
        warnings.warn(
            f"an image of 16 bits has no level above {_TOP_12} of {_TOP_16}, and becomes nearly "
            f"black. Levels of a camera of 12 bits must be scaled by {_TOP_16} / {_TOP_12} first",
            stacklevel=2,
        )
    return Image.fromarray(scaled)
