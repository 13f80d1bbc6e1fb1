"""Download a flow from the Hub, and copy it into a directory once it can be read."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from nfaug.checkpoint.directory import check_loads, file_limits
from nfaug.io.atomic import check_output, replace_directory
from nfaug.io.hub import EXTRAS, discard, fetch
from nfaug.io.hub_errors import explain
from nfaug.io.lock import lock_output
from nfaug.io.manifest import CONFIG, CheckpointError, read_manifest, tensor_files

__all__ = ["pull"]


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
    damaged tensor file is downloaded once more; if it is damaged again, it is removed from the
    cache. Files that are larger than the configuration allows are not downloaded. Without a network
    the cache is used. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HUB_CACHE have their usual
    effect.

    Args:
        repo_id: "owner/name".
        revision: Branch, tag or commit; the main branch by default.
        local_dir: Copy the checkpoint with its card and picture into this directory, atomically,
            after it was loaded once.
        token: Access token; None for the one that is logged in, False for none.
        overwrite: Replace a checkpoint in `local_dir`.

    Returns:
        `local_dir`, or the directory in the cache.

    Raises:
        ValueError: `repo_id` is not a repository name.
        CheckpointError: The files cannot be loaded; they are removed from the cache.
        FileExistsError: `local_dir` is not empty and `overwrite` is False.
        HubError: The repository cannot be read, holds no nfaug flow, or holds damaged or too large
            files.
        OSError: Another process writes to `local_dir`.
    """
    if local_dir is None:
        return fetch(repo_id, file_limits, revision=revision, token=token)
    out = Path(local_dir).expanduser()
    check_output(out, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock_output(out))
        except PermissionError as error:
            raise explain(error, repo_id) from error
        folder = fetch(repo_id, file_limits, revision=revision, token=token, extras=EXTRAS)
        names = [CONFIG, *read_manifest(folder)["files"]]
        try:
            check_loads(folder)
        except CheckpointError:
            discard(folder, [*names, *EXTRAS])
            raise
        try:
            old = frozenset({*tensor_files(out), *EXTRAS})  # none of it describes the new flow
            with replace_directory(out, drop=old) as staged:
                for name in (*names, *EXTRAS):
                    if (folder / name).exists():
                        shutil.copyfile(folder / name, staged / name)
        except OSError as error:
            raise explain(error, repo_id) from error
    return out
