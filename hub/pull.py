"""Download a flow from the Hub: only the files it needs, each checked against its hash."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError

from ..io.atomic import check_output, replace_directory
from ..io.manifest import CONFIG, MODEL, MOST_SHARDS, TENSOR_FILE, read_json, tensor_files
from ..io.tensors import sha256_of
from ..io.version import __version__
from .errors import HubError, explain, is_transient, wait_before_retry

__all__ = ["fetch", "pull"]

EXTRAS = ("README.md", "samples.png")  # downloaded by `pull` into a directory only
_ATTEMPTS = 2  # the client itself retries for half a minute in each
_GIT_SHA1 = re.compile("[0-9a-f]{40}")

T = TypeVar("T")


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    local_dir: str | Path | None = None,
    token: str | bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Download a checkpoint and return its directory.

    The files go into the cache of the Hub and are checked against the SHA-256 in `config.json`. A
    damaged file is downloaded once more; if it is damaged again, it is removed from the cache.
    Without a network the cache is used. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HUB_CACHE
    have their usual effect.

    Args:
        repo_id: "owner/name".
        revision: Branch, tag or commit; the main branch by default.
        local_dir: Copy the checkpoint with its card and picture into this directory, atomically.
        token: Access token; None for the one that is logged in, False for none.
        overwrite: Replace a checkpoint in `local_dir`.

    Returns:
        `local_dir`, or the directory in the cache.

    Raises:
        ValueError: `repo_id` is not a repository name.
        FileExistsError: `local_dir` is not empty and `overwrite` is False.
        HubError: The repository cannot be read, holds no nfaug flow, or holds damaged files.
    """
    out = None if local_dir is None else Path(local_dir).expanduser()
    if out is not None:
        check_output(out, overwrite=overwrite)
    source = _Source(repo_id, revision, token)
    folder, names = source.fetch_config()
    source.fetch(folder, names, () if out is None else EXTRAS)
    return folder if out is None else _copy(folder, [CONFIG, *names], out, repo_id)


def fetch(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    whole: bool = True,
    check: bool = True,
) -> Path:
    """Download the files that a flow needs and return their directory in the cache.

    Args:
        repo_id: See `pull`, as for `revision` and `token`.
        revision: See `pull`.
        token: See `pull`.
        whole: Download all tensor files; otherwise the configuration and the flow alone.
        check: Check the SHA-256 of tensor files; False if the caller does so while reading them.

    Raises:
        HubError: See `pull`.
    """
    source = _Source(repo_id, revision, token)
    folder, files = source.fetch_config()
    wanted = files if whole else {name: files[name] for name in files if name == MODEL}
    source.fetch(folder, wanted, check=check)
    return folder


class _Source:
    """A repository at one revision, read through the client's cache."""

    def __init__(self, repo_id: str, revision: str | None, token: str | bool | None) -> None:
        self.repo_id, self.revision = repo_id, revision
        self.options: dict[str, Any] = {
            "token": token,
            "library_name": "nfaug",
            "library_version": __version__,
        }

    def fetch_config(self) -> tuple[Path, dict[str, str]]:
        """Return the folder with `config.json` and the {name: SHA-256} that this file lists."""
        folder = Path(self._snapshot(self.revision, [CONFIG]))
        if not (folder / CONFIG).exists():
            raise HubError(f"{self.repo_id} has no {CONFIG}, so it is not an nfaug flow")
        files = _listed_files(folder / CONFIG)
        if files is None:
            self._fetch_again(folder, [CONFIG])
            files = _listed_files(folder / CONFIG)
        if files is None:
            _discard(folder, [CONFIG])
            raise HubError(
                f"{CONFIG} of {self.repo_id} is not an nfaug configuration, or is damaged, after a "
                "second download too"
            )
        if len(files) > MOST_SHARDS + 2:
            raise HubError(f"{CONFIG} of {self.repo_id} lists {len(files)} tensor files")
        return folder, files

    def fetch(
        self,
        folder: Path,
        files: dict[str, str],
        extras: Iterable[str] = (),
        *,
        check: bool = True,
    ) -> None:
        """Download the listed files into the folder and check them.

        Extras are downloaded if the repository has them; offline, the cache may lack them.
        """
        # By commit, so that a push in between cannot mix two versions.
        self._snapshot(folder.name, list(files) if constants.HF_HUB_OFFLINE else [*files, *extras])
        for name in files:
            if not (folder / name).exists():
                self._fetch_missing(folder, name)
        if check and (bad := _damaged(folder, files)):
            self._fetch_again(folder, bad)
            if bad := _damaged(folder, {name: files[name] for name in bad}):
                _discard(folder, bad)
                raise HubError(
                    f"{', '.join(bad)} of {self.repo_id} does not match the SHA-256 in {CONFIG}, "
                    "after a second download too: the network or the repository is at fault"
                )

    def _fetch_missing(self, folder: Path, name: str) -> None:
        """Download a file that the snapshot lacks; the error says whether the repository has it."""
        options = {"revision": folder.name, **self.options}
        try:
            self._attempt(partial(hf_hub_download, self.repo_id, name, **options))
        except HubError as error:
            if isinstance(error.__cause__, RemoteEntryNotFoundError):
                raise HubError(f"{self.repo_id} lacks {name}, which its {CONFIG} lists") from error
            raise

    def _snapshot(self, revision: str | None, names: list[str]) -> str:
        return self._attempt(
            lambda: snapshot_download(
                self.repo_id, revision=revision, allow_patterns=names, **self.options
            )
        )

    def _fetch_again(self, folder: Path, names: list[str]) -> None:
        try:
            for name in names:
                again = {"revision": folder.name, "force_download": True, **self.options}
                self._attempt(partial(hf_hub_download, self.repo_id, name, **again))
        except HubError as error:
            _discard(folder, names)
            raise HubError(
                f"{', '.join(names)} of {self.repo_id} was damaged and could not be fetched again: "
                f"{error}"
            ) from error

    def _attempt(self, request: Callable[[], T]) -> T:
        """Run a request and repeat it after a transient failure."""
        for attempt in range(_ATTEMPTS):
            try:
                return request()
            except HFValidationError:  # a ValueError that explains the form of a name
                raise
            except Exception as error:  # the client and its HTTP library have dozens of types
                if attempt + 1 == _ATTEMPTS or not is_transient(error):
                    raise explain(error, self.repo_id, self.revision) from error
                time.sleep(wait_before_retry(error, attempt))
        raise AssertionError("unreachable")


def _listed_files(path: Path) -> dict[str, str] | None:
    """Return {name: SHA-256} of a configuration; None if it is damaged or not a configuration.

    Names that a checkpoint cannot have are left out. Loading reports everything else.
    """
    try:
        values = read_json(path)
    except ValueError:
        return None
    files = values.get("files")
    if not isinstance(files, dict) or not _has_git_hash(path):
        return None
    return {name: str(digest) for name, digest in files.items() if TENSOR_FILE.fullmatch(name)}


def _has_git_hash(path: Path) -> bool:
    """Compare a small file with its SHA-1 in git, which is the name of its blob in the cache."""
    blob = path.resolve().name
    if not path.is_symlink() or not _GIT_SHA1.fullmatch(blob):
        return True  # a copy, on systems without links: the name is lost
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == blob


def _damaged(folder: Path, files: dict[str, str]) -> list[str]:
    """Return the names of the files with another SHA-256; files are hashed in parallel."""
    with ThreadPoolExecutor(max_workers=min(8, len(files) or 1)) as pool:
        found = pool.map(lambda name: sha256_of(folder / name), files)
        return [name for name, digest in zip(files, found, strict=True) if digest != files[name]]


def _discard(folder: Path, names: Iterable[str]) -> None:
    """Remove cached files and the blobs that their links point to."""
    for name in names:
        path = folder / name
        while path.is_symlink():
            target = Path(os.path.normpath(path.parent / path.readlink()))
            path.unlink(missing_ok=True)
            path = target
        path.unlink(missing_ok=True)


def _copy(folder: Path, names: Iterable[str], local_dir: Path, repo_id: str) -> Path:
    """Copy the named files, and those extras that exist, into a directory."""
    extras = (name for name in EXTRAS if (folder / name).exists())
    try:
        with replace_directory(local_dir, drop=frozenset(tensor_files(local_dir))) as staged:
            for name in (*names, *extras):
                shutil.copyfile(folder / name, staged / name)
    except OSError as error:
        raise explain(error, repo_id) from error
    return local_dir
