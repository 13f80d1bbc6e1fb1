"""Download the files that a flow needs into the cache of the Hub, each within its limits."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from nfaug.io.hub_errors import HubError, attempt
from nfaug.io.manifest import (
    CONFIG,
    LARGEST_CONFIG,
    MODEL,
    PICTURE,
    CheckpointError,
    read_manifest,
)
from nfaug.io.tensors import sha256_of
from nfaug.io.version import __version__

__all__ = ["EXTRAS", "Source", "discard", "fetch"]

EXTRAS = {"README.md": 2**20, PICTURE: 2**24}  # bytes; downloaded by `pull` only


def fetch(
    repo_id: str,
    limits: Callable[[Path], Mapping[str, int]],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    whole: bool = True,
    check: bool = True,
    extras: Mapping[str, int] | None = None,
) -> Path:
    """Download the files that a flow needs and return their directory in the cache.

    `config.json` comes first. The sizes of all files are asked for before any is downloaded.

    Args:
        repo_id: See `pull`, as for `revision` and `token`.
        limits: Returns {part: bytes} for a directory with `config.json`. The parts are "model",
            "gaussians" and "pca", the last for all shards together.
        revision: See `pull`.
        token: See `pull`.
        whole: Download all tensor files; otherwise the configuration and the flow alone.
        check: Check the SHA-256 of tensor files; False if the caller does so while reading them.
        extras: Other files to download if the repository has them, and their largest size.

    Raises:
        CheckpointError: The configuration is damaged or not one of nfaug; it is removed from the
            cache.
        HubError: See `pull`.
    """
    source = Source(repo_id, revision, token)
    folder, files = _fetch_config(source)
    if not whole:
        files = {name: files[name] for name in files if name == MODEL}
    most = limits(folder)

    def within(sizes: Mapping[str, int]) -> list[str]:
        total: Counter[str] = Counter()
        for name in files:
            if name not in sizes:
                raise HubError(f"{repo_id} lacks {name}, which its {CONFIG} lists")
            total[re.split("[-.]", name)[0]] += sizes[name]
        for part, size in total.items():
            if size > most[part]:
                raise HubError(
                    f"{repo_id} has {size} bytes of {part}*.safetensors; by its {CONFIG} there are "
                    f"at most {most[part]}"
                )
        large = [name for name, limit in (extras or {}).items() if sizes.get(name, 0) > limit]
        for name in large:
            warnings.warn(f"{name} of {repo_id} is too large and left out", stacklevel=4)
        return [*files, *(name for name in extras or () if name in sizes and name not in large)]

    def download() -> list[str]:
        # By commit, so that a push in between cannot mix two versions.
        names = [*files, *(extras or ())]
        source.download(names, within, revision=folder.name, needed=list(files))
        bad = _damaged(folder, files) if check else []
        discard(folder, bad)
        return bad

    if download() and (bad := download()):
        raise HubError(
            f"{', '.join(bad)} of {repo_id} does not match the SHA-256 in {CONFIG}, after a second "
            "download too: the network or the repository is at fault"
        )
    return folder


class Source:
    """A repository at one revision, read through the client's cache."""

    def __init__(
        self, repo_id: str, revision: str | None = None, token: str | bool | None = None
    ) -> None:
        self.repo_id, self.revision = repo_id, revision
        self.options: dict[str, Any] = {
            "token": token,
            "library_name": "nfaug",
            "library_version": __version__,
        }

    def download(
        self,
        patterns: list[str],
        within: Callable[[Mapping[str, int]], list[str]],
        *,
        revision: str | None = None,
        needed: Iterable[str] = (),
    ) -> Path:
        """Download files and return their folder; without the Hub the cache must have them.

        Args:
            patterns: Names of files, or patterns of them.
            within: Takes the sizes of the files that exist, and returns the names to download.
            revision: The revision; that of the source by default.
            needed: Names that the cache must have if there is no network.

        Raises:
            HubError: The repository cannot be read, or `within` raised it.
        """
        revision = revision or self.revision
        get = partial(snapshot_download, self.repo_id, **self.options)
        plan = partial(get, revision=revision, allow_patterns=patterns, dry_run=True)
        try:
            found = self._attempt(plan)
        except HubError:
            with contextlib.suppress(OSError):
                names = list(needed) or patterns
                folder = Path(get(revision=revision, allow_patterns=names, local_files_only=True))
                if all((folder / name).exists() for name in needed):
                    return folder
            raise
        names = within({entry.filename: entry.file_size for entry in found})
        commit = found[0].commit_hash if found else revision
        return Path(self._attempt(partial(get, revision=commit, allow_patterns=names)))

    def _attempt(self, ask: Callable[[], Any]) -> Any:
        return attempt(ask, self.repo_id, self.revision, times=2)  # the client retries in each


def _fetch_config(source: Source) -> tuple[Path, dict[str, str]]:
    """Return the folder with `config.json` and the {name: SHA-256} that this file lists."""
    repo_id = source.repo_id

    def within(sizes: Mapping[str, int]) -> list[str]:
        if CONFIG not in sizes:
            raise HubError(f"{repo_id} has no {CONFIG}, so it is not an nfaug flow")
        if sizes[CONFIG] > LARGEST_CONFIG:
            raise HubError(
                f"{CONFIG} of {repo_id} has {sizes[CONFIG]} bytes; at most {LARGEST_CONFIG} are "
                "read"
            )
        return [CONFIG]

    folder = source.download([CONFIG], within, needed=[CONFIG])
    try:
        return folder, read_manifest(folder)["files"]
    except CheckpointError:
        discard(folder, [CONFIG])
        raise


def _damaged(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Return the names of the files with another SHA-256; files are hashed in parallel."""
    with ThreadPoolExecutor(max_workers=min(8, len(files) or 1)) as pool:
        found = pool.map(lambda name: sha256_of(folder / name), files)
        return [name for name, digest in zip(files, found, strict=True) if digest != files[name]]


def discard(folder: Path, names: Iterable[str]) -> None:
    """Remove files of a snapshot and their blobs, and nothing outside the cache's blobs.

    `DeleteCacheStrategy` of the client resolves links, so it would delete what a foreign link
    points to.
    """
    blobs, shared = folder.parents[1] / "blobs", folder.parents[2] / "blobs"
    for name in names:
        path = folder / name
        while path.is_symlink():
            target = Path(os.path.normpath(path.parent / path.readlink()))
            path.unlink(missing_ok=True)
            path = target
            if path.parent != blobs and path.parent.parent != shared:
                break
        else:
            path.unlink(missing_ok=True)
