"""Read a checkpoint from a repository of the Hugging Face Hub."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants

from ..io.hub import HubError, download
from .manifest import CONFIG, CheckpointError, read_manifest

__all__ = ["read_repository"]

T = TypeVar("T")


def read_repository(
    read: Callable[[Path], T],
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
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
        repo_id, revision, token: See `download`.
        whole: Download the tensor files; otherwise `config.json` alone.
        extras: Other files to download if the repository has them.

    Raises:
        CheckpointError: `read` raised it, or `config.json` is not one of nfaug.
        HubError: The repository cannot be read, or lacks a file.
    """

    def fetch(force: bool) -> Path:
        folder = download(repo_id, [CONFIG], revision=revision, token=token, force=force)
        if not (folder / CONFIG).is_file():
            raise HubError(f"{repo_id} has no {CONFIG}, so it is not an nfaug flow")
        names = list(read_manifest(folder)["files"]) if whole else []
        if names:  # by commit, so that a push in between cannot mix two versions
            download(repo_id, names, revision=folder.name, token=token, force=force)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise HubError(
                f"{repo_id} lacks {', '.join(missing)}, which its {CONFIG} lists; or there is no "
                f"network, and the cache {constants.HF_HUB_CACHE} is not complete"
            )
        _download_extras(repo_id, list(extras), folder.name, token)
        return folder

    try:
        return read(fetch(force=False))
    except CheckpointError:  # perhaps damaged on the way; the client checks only the length
        return read(fetch(force=True))


def _download_extras(repo_id: str, names: list[str], commit: str, token: str | bool | None) -> None:
    """Download files that a flow does not need; warn of those that cannot be downloaded."""
    missing: list[str] = []
    errors: list[HubError] = []
    for name in names:
        try:
            download(repo_id, [name], revision=commit, token=token)
        except HubError as error:
            missing.append(name)
            errors.append(error)
    if missing:
        warnings.warn(
            f"{', '.join(missing)} may be missing, the flow is whole: {errors[0]}", stacklevel=2
        )
