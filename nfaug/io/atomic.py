"""Atomic writes: a reader sees the old file or directory or the new one, never a part."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "INNER_LOCK",
    "check_output",
    "is_empty",
    "replace_directory",
    "write_bytes",
    "write_picture",
    "write_text",
]

INNER_LOCK = ".nfaug.lock"  # in a folder whose parent cannot hold its lock (nfaug.io.lock)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Renaming fails for a mount point and in a folder without write permission.
_CANNOT_RENAME = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)


def _fsync(path: Path) -> None:
    if os.name == "nt":  # Windows opens no directories and syncs no file opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    """Return a new hidden name in the same folder."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it and a rename."""
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file through a temporary one beside it and a rename."""
    write_bytes(path, text.encode())


def write_picture(path: Path, picture: Any) -> None:
    """Write a PIL image as a PNG file through a temporary one beside it and a rename."""
    data = io.BytesIO()
    picture.save(data, format="PNG")
    write_bytes(path, data.getvalue())


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check that a directory can be written: it is new or empty, or `overwrite` is set.

    Raises:
        FileExistsError: The path is a file, or a directory that is not empty.
    """
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; a checkpoint is a directory")
    if not overwrite and path.is_dir() and not is_empty(path):
        raise FileExistsError(
            f"{path} is not empty; pass overwrite=True (--overwrite) to replace it"
        )


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock."""
    return all(entry.name == INNER_LOCK for entry in folder.iterdir())


@contextlib.contextmanager
def replace_directory(
    path: Path,
    *,
    drop: frozenset[str] = frozenset(),
    last: str = "config.json",
    sync: bool = True,
) -> Iterator[Path]:
    """Yield an empty directory that becomes `path` when the block ends without an error.

    Files of an existing `path` that the block did not write are kept, except the names in `drop`.
    `path` is unchanged until the final rename, so a crash or a full disk leaves it whole. If `path`
    cannot be renamed (a mount point, the working directory of this process), its files are replaced
    one by one at the end, and `last` after all others: readers that need this file see the old
    directory, nothing, or the new directory. Without `sync`, files may still be on their way to the
    disk: for many small ones that can be made again.
    """
    path = path.resolve()  # keeps a symbolic link and replaces its target
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = _stage(path)
    try:
        yield staged
        for entry in staged.rglob("*") if sync else ():
            _fsync(entry)
        _fsync(staged)
        if path.exists():
            _replace(path, staged, drop, last)
        else:
            staged.rename(path)
        _fsync(path)
        with contextlib.suppress(PermissionError):  # the parent may not be readable
            _fsync(path.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _stage(path: Path) -> Path:
    """Make a directory on the same disk: beside `path`, or inside it if that is not allowed."""
    staged = _beside(path)
    try:
        staged.mkdir()
    except OSError as error:
        if error.errno not in _CANNOT_RENAME or not path.is_dir():
            raise
        staged = _beside(path / path.name)
        staged.mkdir()
    return staged


def _replace(path: Path, staged: Path, drop: frozenset[str], last: str) -> None:
    drop -= {entry.name for entry in staged.iterdir()}
    if staged.parent == path or path.is_mount() or _holds_working_directory(path):
        _replace_files(path, staged, drop, last)
        return
    _carry_over(path, staged, drop)
    shutil.copymode(path, staged)
    try:
        _exchange(path, staged)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME:
            raise
        _replace_files(path, staged, drop, last)


def _holds_working_directory(path: Path) -> bool:
    """Whether renaming would leave this process and its shell in a deleted directory."""
    try:
        return Path.cwd().is_relative_to(path)
    except FileNotFoundError:  # the working directory is deleted already
        return False


def _replace_files(path: Path, staged: Path, drop: frozenset[str], last: str) -> None:
    # Copy to the same disk first, so that each rename below is atomic.
    inner = staged if staged.parent == path else _beside(path / path.name)
    try:
        if inner != staged:
            shutil.copytree(staged, inner)
        if (inner / last).exists():
            (path / last).unlink(missing_ok=True)
        for name in drop:
            (path / name).unlink(missing_ok=True)
        for entry in sorted(inner.iterdir(), key=lambda entry: entry.name == last):
            if entry.is_dir() and (path / entry.name).is_dir():
                shutil.copytree(entry, path / entry.name, dirs_exist_ok=True)
            else:
                entry.replace(path / entry.name)
    finally:
        shutil.rmtree(inner, ignore_errors=True)


def _carry_over(old: Path, new: Path, drop: frozenset[str] = frozenset()) -> None:
    """Link the entries of `old` that `new` lacks into it; copy them if links are impossible."""
    for entry in old.iterdir():
        target = new / entry.name
        if entry.name in drop or (target.exists() and not target.is_dir()):
            continue
        if entry.is_dir() and not entry.is_symlink():
            target.mkdir(exist_ok=True)
            shutil.copymode(entry, target)
            _carry_over(entry, target)
        elif not target.exists():
            try:
                os.link(entry, target, follow_symlinks=False)
            except (OSError, NotImplementedError):
                shutil.copy2(entry, target, follow_symlinks=False)


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories: atomically if the kernel can, otherwise in three renames."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        swap = None
    if swap is not None:
        names = os.fsencode(one), os.fsencode(other)
        if swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    aside = _beside(one)
    one.rename(aside)
    try:
        other.rename(one)
    except BaseException:
        aside.rename(one)
        raise
    aside.rename(other)
