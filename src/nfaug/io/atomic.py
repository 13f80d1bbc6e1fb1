"""Atomic writes: a reader sees the old file or directory or the new one, never a part."""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOUNTS = Path("/proc/self/mountinfo")
# A space, a tab, a line break or a backslash in a path of that file, written in octal.
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it and a rename."""
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_picture(path: Path, picture: Any) -> None:
    """Write a PIL image as a PNG file as `write_bytes` does."""
    data = io.BytesIO()
    picture.save(data, format="PNG")
    write_bytes(path, data.getvalue())


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check that a directory can be written: it is new or empty, or `overwrite` is set.

    Raises:
        FileExistsError: The path is a file, or a directory that is not empty.
        OSError: The path cannot be replaced (see `replace_directory`).
    """
    _check_replaceable(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; a checkpoint is a directory")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty: overwrite=True (--overwrite) replaces it")


@contextlib.contextmanager
def replace_directory(path: Path, *, drop: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield an empty directory that becomes `path` when the block ends without an error.

    Files of an existing `path` that the block did not write are kept, except the names in `drop`.
    `path` is unchanged until two renames at the end, which put the old directory aside and the new
    one in its place, so a crash or a full disk leaves it whole. If the process is killed between
    the two, the old directory is `.NAME.old`, and the next call puts it back.

    Raises:
        OSError: The path is a mount point or holds one, or the current directory is in it.
    """
    path = path.resolve()  # keeps a symbolic link and replaces its target
    _check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.old"
    staged = _beside(path)
    _put_back(aside, path)
    _check_replaceable(aside)  # left by a process that was killed, and removed below
    staged.mkdir()
    try:
        yield staged
        for entry in staged.rglob("*"):
            _fsync(entry)
        _fsync(staged)
        if path.exists():
            _carry_over(path, staged, drop)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        staged.rename(path)
        _fsync(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        _put_back(aside, path)
        shutil.rmtree(staged, ignore_errors=True)


def _check_replaceable(path: Path) -> None:
    """Raise OSError if a directory holds the current one or a mount point, or is one."""
    path = path.resolve()
    with contextlib.suppress(FileNotFoundError):  # the current directory may be deleted
        if Path.cwd().is_relative_to(path):
            raise OSError(
                f"{path} holds the current directory, and is replaced as a whole: work in another "
                "directory"
            )
    mounts = mount_points()
    if path in mounts or os.path.ismount(path):
        raise OSError(
            f"{path} is a mount point, and is replaced as a whole: choose a folder inside it"
        )
    for mount in mounts:
        if mount.is_relative_to(path):
            raise OSError(
                f"{mount} is mounted from elsewhere, in a folder that is replaced as a whole: "
                "unmount it, or choose another folder"
            )


def mount_points() -> list[Path]:
    """Where something is mounted: file systems and, in containers, single folders and files.

    Linux lists them. `os.path.ismount` does not see a folder of the same file system.
    """
    try:
        lines = MOUNTS.read_bytes().splitlines()
    except OSError:  # another system, on which folders are hardly ever mounted into each other
        return []
    encoded = [line.split(b" ")[4] for line in lines]
    return [Path(os.fsdecode(_ESCAPED.sub(_unescaped, name))) for name in encoded]


def _unescaped(escape: re.Match[bytes]) -> bytes:
    """The byte that an octal escape stands for."""
    return bytes([int(escape[1], 8)])


def _put_back(aside: Path, path: Path) -> None:
    """Give a directory that was put aside its name again, if nothing else has the name."""
    if aside.exists() and not path.exists():
        aside.rename(path)


def _carry_over(old: Path, new: Path, drop: frozenset[str] = frozenset()) -> None:
    """Link the entries of `old` that `new` lacks into it; copy them if links are impossible."""
    for entry in old.iterdir():
        target = new / entry.name
        if entry.name in drop or (target.exists() and not target.is_dir()):
            continue
        if entry.is_dir() and not entry.is_symlink():
            target.mkdir(exist_ok=True)
            _carry_over(entry, target)
        elif not target.exists():
            try:
                os.link(entry, target, follow_symlinks=False)
            except (OSError, NotImplementedError):
                shutil.copy2(entry, target, follow_symlinks=False)
    shutil.copymode(old, new)


def _beside(path: Path) -> Path:
    """A new hidden path in the same folder."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}"


def _fsync(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    if os.name == "nt":  # Windows opens no directories and syncs no file opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
