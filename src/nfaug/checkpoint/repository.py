"""Download a checkpoint from a repository of the Hugging Face Hub."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants

from ..io.hub import HubError, download
from ..io.hub_options import HubOptions, split_revision
from ..io.tensors import check_sha256
from .manifest import CONFIG, CheckpointError, read_manifest, reading_checkpoint


def download_checkpoint(
    repo_id: str,
    options: HubOptions | None = None,
    *,
    whole: bool = True,
    extras: Iterable[str] = (),
) -> Path:
    """Download a checkpoint, and return its folder in the cache.

    Only `config.json`, the tensor files that it lists and `extras` are downloaded. If a file
    cannot be read or has another SHA-256, all are downloaded once more. A warning says which
    extras could not be downloaded, for example because there is no network and the cache lacks
    them.

    Args:
        repo_id: "owner/name" or "owner/name@revision".
        options: See `download`.
        whole: Download the tensor files; otherwise `config.json` alone.
        extras: Other files to download if the repository has them.

    Raises:
        CheckpointError: `config.json` is not one of nfaug, or a file is damaged.
        HubError: The repository cannot be read, or lacks a file.
        ValueError: `repo_id` and `options` name two revisions.
    """
    repo_id, options = split_revision(repo_id, options or HubOptions())
    try:
        folder = _download_once(repo_id, options, whole)
    except CheckpointError as damaged:  # perhaps on the way; the client checks only the length
        if options.local_files_only:
            raise
        try:
            folder = _download_once(repo_id, replace(options, force_download=True), whole)
        except HubError as unreachable:
            raise damaged from unreachable
    _download_extras(repo_id, list(extras), options.at(folder.name))
    return folder


def _download_once(repo_id: str, options: HubOptions, whole: bool) -> Path:
    """The folder of a checkpoint whose files have the hashes that its `config.json` lists."""
    first = download(repo_id, [CONFIG], options)
    if not first:
        raise HubError(f"{repo_id} has no {CONFIG}, so it is not an nfaug checkpoint")
    folder = first[CONFIG].parent
    files = read_manifest(folder)["files"]
    if not whole:
        return folder
    # By commit, so that a push in between cannot mix two versions.
    found = download(repo_id, files, options.at(folder.name))
    missing = [name for name in files if name not in found]
    if missing:
        raise HubError(
            f"{repo_id} lacks {', '.join(missing)}, which its {CONFIG} lists; or there is no "
            f"network, and the cache {options.cache_dir or constants.HF_HUB_CACHE} is not "
            "complete"
        )
    for name, sha256 in files.items():
        with reading_checkpoint(folder / name):
            check_sha256(folder / name, sha256)
    return folder


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
