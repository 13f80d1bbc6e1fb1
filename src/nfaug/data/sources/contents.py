"""What files hold, where their names do not say it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable

from ..image_files import IMAGE_ENDINGS

HEAD = 512  # bytes at the start of a file that tell what it is
_IMAGES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|II\*\0|MM\0\*|RIFF....WEBP|P[1-6]\s|BM.{4}\0{4}",
    re.DOTALL,
)
# Annotations may be as many as images: these are not opened.
_TEXTS = (
    ".csv",
    ".htm",
    ".html",
    ".json",
    ".jsonl",
    ".md",
    ".tsv",
    ".txt",
    ".xml",
    ".yaml",
    ".yml",
)


def is_image(head: bytes) -> bool:
    """Whether a file that begins with these bytes is an image that can be decoded."""
    return _IMAGES.match(head) is not None


def sort_out(names: Iterable[str], head_of: Callable[[str], bytes]) -> tuple[list[str], list[str]]:
    """The images among files, and those that are neither images nor text.

    Args:
        names: Names, or relative paths.
        head_of: Takes a name, and returns the first `HEAD` bytes of the file.
    """
    images: list[str] = []
    unknown: list[str] = []
    for name in names:
        if name.lower().endswith(IMAGE_ENDINGS):
            images.append(name)
        elif not name.lower().endswith(_TEXTS):
            head = head_of(name)
            if is_image(head):
                images.append(name)
            elif not _is_text(head):
                unknown.append(name)
    return images, unknown


def _is_text(head: bytes) -> bool:
    """Whether these bytes, which may end within a character, are UTF-8 without a zero."""
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return len(head) == HEAD and error.start > HEAD - 4
    return True


def warn_of_unknown(unknown: list[str], where: str) -> None:
    """Say once that files are not read."""
    if unknown:
        warnings.warn(
            f"{where} holds {len(unknown)} files that are neither images nor text, such as "
            f"{unknown[0]!r}; they are not read",
            stacklevel=4,
        )
