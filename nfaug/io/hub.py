"""Read checkpoints of the Hugging Face Hub, and one readable error for what its client raises."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError

from .manifest import CONFIG, CheckpointError, read_manifest
from .text import printable
from .version import __version__

__all__ = ["HubError", "download", "hub_errors", "read_repository"]

T = TypeVar("T")


class HubError(OSError):
    """A repository could not be read or written; the message says why and what to do."""


@contextlib.contextmanager
def hub_errors(what: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the client raises about `what`, such as a repository, into a HubError.

    The error names the Hub's address. Text of the server is shown without control characters.
    """
    try:
        yield
    except (HubError, HFValidationError, UserWarning):  # the second explains the form of a name
        raise
    except Exception as error:  # the client and its HTTP library have dozens of types
        named = what if revision is None else f"{what} (revision {revision!r})"
        reason = f"{type(error).__name__}: {printable(error, longest=1000)}"
        raise HubError(
            f"{named} at {constants.ENDPOINT}: {reason}. Check the name, the network "
            "(HF_HUB_OFFLINE, HF_ENDPOINT), the token ('hf auth login' or HF_TOKEN) and the space "
            f"in the cache {constants.HF_HUB_CACHE}, then try again"
        ) from error


def download(
    repo_id: str,
    names: Iterable[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    force: bool = False,
) -> Path:
    """Download files into the client's cache and return their folder.

    Without a network the files that the cache holds are used.

    Args:
        repo_id: "owner/name".
        names: Names of files, or patterns of them; those that do not exist are left out.
        revision: Branch, tag or commit; the main branch by default.
        token: Access token; None for the one that is logged in, False for none.
        force: Download files that are in the cache once more.

    Raises:
        HubError: The repository cannot be read.
        ValueError: `repo_id` is not a repository name.
    """
    with hub_errors(repo_id, revision):
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                allow_patterns=list(names),
                force_download=force,
                library_name="nfaug",
                library_version=__version__,
            )
        )


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

    Only `config.json`, the tensor files that it lists and `extras` are downloaded. If one
    cannot be read or lacks its SHA-256, they are downloaded once more.

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
            wanted = [*names, *extras]
            download(repo_id, wanted, revision=folder.name, token=token, force=force)
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise HubError(
                f"{repo_id} lacks {', '.join(missing)}, which its {CONFIG} lists; or there is no "
                f"network, and the cache {constants.HF_HUB_CACHE} is not complete"
            )
        return folder

    try:
        return read(fetch(force=False))
    except CheckpointError:  # perhaps damaged on the way; the client checks only the length
        return read(fetch(force=True))
