"""Read a checkpoint from a repository of the Hugging Face Hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants

from ..io.hub import HubError, download
from ..io.hub_options import HubOptions, split_revision
from .manifest import CONFIG, CheckpointError, read_manifest

__all__ = ["read_repository"]

T = TypeVar("T")


def read_repository(
    read: Callable[[Path], T],
    repo_id: str,
    options: HubOptions | None = None,
    *,
    whole: bool = True,
    extras: Iterable[str] = (),
) -> T:
    """Download a checkpoint and read it.

    Only `config.json`, the tensor files that it lists and `extras` are downloaded. If a file
    cannot be read or has another SHA-256, they are downloaded once more. A warning says which
    extras could not be downloaded, for example because there is no network and the cache lacks
    them.

    Args:
        read: Reads a checkpoint directory.
        repo_id: "owner/name" or "owner/name@revision".
        options: See `download`.
        whole: Download the tensor files; otherwise `config.json` alone.
        extras: Other files to download if the repository has them.

    Raises:
        CheckpointError: `read` raised it, or `config.json` is not one of nfaug.
        HubError: The repository cannot be read, or lacks a file.
        ValueError: `repo_id` and `options` name two revisions.
    """
    repo_id, asked = split_revision(repo_id, options or HubOptions())

    def fetch(options: HubOptions) -> Path:
        folder = download(repo_id, [CONFIG], options)
        if not (folder / CONFIG).is_file():
            raise HubError(f"{repo_id} has no {CONFIG}, so it is not an nfaug flow")
        names = list(read_manifest(folder)["files"]) if whole else []
        if names:  # by commit, so that a push in between cannot mix two versions
            download(repo_id, names, options.at(folder.name))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise HubError(
                f"{repo_id} lacks {', '.join(missing)}, which its {CONFIG} lists; or there is no "
                f"network, and the cache {options.cache_dir or constants.HF_HUB_CACHE} is not "
                "complete"
            )
        _download_extras(repo_id, list(extras), options.at(folder.name))
        return folder

    try:
        return read(fetch(asked))
    except CheckpointError:  # perhaps damaged on the way; the client checks only the length
        if asked.local_files_only:
            raise
        return read(fetch(replace(asked, force_download=True)))


def _download_extras(repo_id: str, names: list[str], options: HubOptions) -> None:
    """Download files that a flow does not need; warn of those that cannot be downloaded."""
    missing: list[str] = []
    errors: list[HubError] = []
    for name in names:
        try:
            download(repo_id, [name], options)
        except HubError as error:
            missing.append(name)
            errors.append(error)
    if missing:
        warnings.warn(
            f"{', '.join(missing)} may be missing, the flow is whole: {errors[0]}", stacklevel=2
        )
