"""Fetching a flow from the Hub: only the files it needs, and every byte checked."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError

from ..checkpoint.checkpoint import refuse_existing
from ..checkpoint.config import config_digest, read_values
from ..io.atomic import replace_directory
from ..io.names import CONFIG, MODEL, MOST_SHARDS, TENSOR_FILE, tensor_files
from ..io.tensors import sha256_of
from .errors import HubError, explain, is_transient, wait_before_retry

__all__ = ["fetch", "pull"]

EXTRAS = ("README.md", "samples.png")  # for people; the runtime does not fetch them
_ATTEMPTS = 2  # the client has its own patience, half a minute of it, in each

T = TypeVar("T")


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    local_dir: str | Path | None = None,
    token: str | bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Fetch a checkpoint from the Hub and return its directory.

    The files come into the Hub's cache, as every library's do, and are checked against the SHA-256
    in ``config.json`` (bytes damaged on the way keep their length, so nobody else notices). A
    damaged file is fetched once more; what is still damaged then leaves the cache. Without a
    network the cache is used. The client's variables hold: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE,
    HF_HUB_CACHE.

    Args:
        repo_id: "owner/name".
        revision: a branch, tag or commit; the main branch by default.
        local_dir: copy the checkpoint, with its card and picture, into this directory too. It
            appears whole or not at all. The copy is the caller's to change.
        token: an access token; by default the one that is logged in, False for none.
        overwrite: let `local_dir` hold something already.

    Raises:
        ValueError: `repo_id` is no repository name.
        FileExistsError: `local_dir` is not empty and `overwrite` is False.
        HubError: the repository cannot be read, holds no nfaug flow, or holds damaged files.
    """
    out = None if local_dir is None else Path(local_dir).expanduser()
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
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
    """Fetch what running a flow takes, and return its directory in the Hub's cache.

    Without `whole` that is the configuration and the flow's weights alone. Without `check` the
    tensor files are not hashed: for whoever reads them, and hashes what was read, at once.
    Arguments and errors are those of `pull`.
    """
    source = _Source(repo_id, revision, token)
    folder, files = source.fetch_config()
    wanted = files if whole else {name: files[name] for name in files if name == MODEL}
    source.fetch(folder, wanted, check=check)
    return folder


class _Source:
    """One repository at one revision, read through the client's cache."""

    def __init__(self, repo_id: str, revision: str | None, token: str | bool | None) -> None:
        from ..io.version import __version__

        self.repo_id, self.revision = repo_id, revision
        self.options: dict[str, Any] = {
            "token": token,
            "library_name": "nfaug",
            "library_version": __version__,
        }

    def fetch_config(self) -> tuple[Path, dict[str, str]]:
        """The snapshot's folder with config.json in it, and the {name: SHA-256} this lists."""
        folder = Path(self._snapshot(self.revision, [CONFIG]))
        if not (folder / CONFIG).exists():
            raise HubError(f"{self.repo_id} has no {CONFIG}: it is no nfaug flow")
        files = _listed_files(folder / CONFIG)
        if files is None:
            self._fetch_again(folder, [CONFIG])
            files = _listed_files(folder / CONFIG)
        if files is None:
            _discard(folder, [CONFIG])
            raise HubError(
                f"{CONFIG} of {self.repo_id} is no nfaug configuration, or is damaged: its content "
                "does not match its own SHA-256, after a second download too"
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
        """Bring the listed files into the snapshot's folder, with the bytes that were listed.

        Extras come along if they are there; offline, what the cache has of them will do.
        """
        # From here on the commit, so that a push in between cannot mix two versions.
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
        """The repository lacks the file, or it is not in the cache and nobody could be asked."""
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
        """Do it, again after a passing failure; the client itself retries only some of these."""
        for attempt in range(_ATTEMPTS):
            try:
                return request()
            except HFValidationError:  # a ValueError that says what a name looks like
                raise
            except Exception as error:  # the client has dozens, with two HTTP libraries' among them
                if attempt + 1 == _ATTEMPTS or not is_transient(error):
                    raise explain(error, self.repo_id, self.revision) from error
                time.sleep(wait_before_retry(error, attempt))
        raise AssertionError("unreachable")


def _listed_files(path: Path) -> dict[str, str] | None:
    """The tensor files that a configuration lists; None where its content is not what was hashed.

    Only names that a checkpoint can have are asked for, whatever a stranger's file says. What else
    is wrong with it, loading says.
    """
    try:
        values = read_values(path)
    except ValueError:
        return None
    if values.get("config_sha256") != config_digest(values):
        return None
    files = values.get("files")
    listed = files.items() if isinstance(files, dict) else ()
    return {name: str(digest) for name, digest in listed if TENSOR_FILE.fullmatch(name)}


def _damaged(folder: Path, files: dict[str, str]) -> list[str]:
    """Names of the files whose SHA-256 is another, hashed side by side."""
    with ThreadPoolExecutor(max_workers=min(8, len(files) or 1)) as pool:
        found = pool.map(lambda name: sha256_of(folder / name), files)
        return [name for name, digest in zip(files, found, strict=True) if digest != files[name]]


def _discard(folder: Path, names: Iterable[str]) -> None:
    """Remove cached files, and the blobs that their links lead to."""
    for name in names:
        path = folder / name
        while path.is_symlink():
            target = Path(os.path.normpath(path.parent / path.readlink()))
            path.unlink(missing_ok=True)
            path = target
        path.unlink(missing_ok=True)


def _copy(folder: Path, names: Iterable[str], local_dir: Path, repo_id: str) -> Path:
    """The named files, all of which must be there still, and of the extras what is there."""
    extras = (name for name in EXTRAS if (folder / name).exists())
    try:
        with replace_directory(local_dir, drop=frozenset(tensor_files(local_dir))) as staged:
            for name in (*names, *extras):
                shutil.copyfile(folder / name, staged / name)
    except OSError as error:
        raise explain(error, repo_id) from error
    return local_dir
