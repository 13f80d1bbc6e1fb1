"""Download a flow from the Hub, and copy it into a directory once it can be read."""

from __future__ import annotations

import shutil
from pathlib import Path

from nfaug.checkpoint.autoencoder import replaced_copy
from nfaug.checkpoint.checkpoint import read_checkpoint
from nfaug.checkpoint.manifest import (
    CONFIG,
    PICTURE,
    TENSOR_FILES,
    check_replaceable,
    read_manifest,
)
from nfaug.checkpoint.repository import download_checkpoint
from nfaug.checkpoint.resolve import repository_name
from nfaug.io.atomic import check_output, replace_directory
from nfaug.io.hub_options import HubOptions
from nfaug.io.lock import lock_output

_EXTRAS = ("README.md", PICTURE)


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    out: str | Path | None = None,
    token: str | bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Download a checkpoint, and check that it loads.

    The files go into the cache of the Hub; without a network the cache is used, and a card or a
    picture that it lacks is left out. A file without the SHA-256 in `config.json` is downloaded
    once more. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HUB_CACHE have their usual effect.

    Args:
        repo_id: "owner/name" or "owner/name@revision", timm's "hf_hub:owner/name", or the address
            of the page.
        revision: Branch, tag or commit; the main branch by default.
        out: Copy the checkpoint with its card and picture into this folder, atomically.
        token: Access token; None for the one that is logged in, False for none.
        overwrite: Replace a checkpoint in `out`.

    Returns:
        `out`, or the folder in the cache.

    Raises:
        ValueError: `repo_id` is not a repository name.
        CheckpointError: The files cannot be loaded.
        FileExistsError: `out` is not empty and `overwrite` is False, or its `config.json` is that
            of another program.
        HubError: The repository cannot be read, or holds no checkpoint.
        OSError: Another process writes to `out`, or it cannot be written.

    Example:
        >>> from nfaug.hub import pull
        >>> pull("OWNER/my-nfa", out="my-nfa")  # doctest: +SKIP
        PosixPath('my-nfa')
        >>> pull("no name")
        Traceback (most recent call last):
        ...
        HFValidationError: ...
    """
    options = HubOptions(revision=revision, token=token)
    repo_id = repository_name(repo_id)
    if out is None:
        return _checked(download_checkpoint(repo_id, options))
    copy = Path(out).expanduser()
    check_output(copy, overwrite=overwrite)
    check_replaceable(copy)
    with lock_output(copy):
        folder = _checked(download_checkpoint(repo_id, options, extras=_EXTRAS))
        stale = frozenset[str]()
        if (copy / CONFIG).exists():  # none of the former checkpoint describes the new one
            stale = frozenset(TENSOR_FILES).union(_EXTRAS) | replaced_copy(None, copy)
        names = [CONFIG]
        names += read_manifest(folder)["files"]
        names += _EXTRAS
        with replace_directory(copy, drop=stale) as staged:
            for name in names:
                if (folder / name).exists():
                    shutil.copyfile(folder / name, staged / name)
    return copy


def _checked(folder: Path) -> Path:
    """The folder, once its checkpoint could be read."""
    read_checkpoint(folder, on_latents=False)  # the autoencoder need not be here yet
    return folder
