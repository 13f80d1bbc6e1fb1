"""Files of the Hugging Face Hub, and one readable error for what its client raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)

from .hub_options import HubOptions
from .strict_json import LONGEST
from .text import printable
from .version import __version__

__all__ = ["HubError", "download", "hub_errors"]


class HubError(OSError):
    """A repository could not be read or written; the message says why and what to do.

    Example:
        >>> import nfaug
        >>> from nfaug.hub import HubError
        >>> try:
        ...     nfaug.load("nobody/no-such-checkpoint", local_files_only=True)
        ... except HubError as error:
        ...     print("nobody/no-such-checkpoint" in str(error))
        True
    """


@contextlib.contextmanager
def hub_errors(what: str, options: HubOptions | None = None) -> Iterator[None]:
    """Turn what the client raises about `what`, such as a repository, into a HubError.

    The error names the Hub's address. Text of the server is shown without control characters.
    """
    try:
        yield
    except (HubError, HFValidationError, UserWarning):
        raise  # HFValidationError explains the form of a name
    except Exception as error:  # the client and its HTTP library have dozens of types
        options = options or HubOptions()
        subject = what if options.revision is None else f"{what} (revision {options.revision!r})"
        cache = options.cache_dir or constants.HF_HUB_CACHE
        reason = f"{type(error).__name__}: {printable(error, longest=1000)}"
        raise HubError(
            f"{subject} at {constants.ENDPOINT}: {reason}. Check the name, the network "
            "(HF_HUB_OFFLINE, HF_ENDPOINT), the token ('hf auth login' or HF_TOKEN) and the space "
            f"in the cache {cache}, then try again"
        ) from error


def download(
    repo_id: str,
    names: Iterable[str],
    options: HubOptions | None = None,
) -> Path:
    """Download files into the client's cache and return their folder.

    Files other than tensors are downloaded only if the Hub says that they have at most 16 MiB, the
    most that is read of JSON. Without a network the files that the cache holds are used.

    Args:
        repo_id: "owner/name".
        names: Names of files; those that do not exist are left out.
        options: Revision, token, cache and the like.

    Raises:
        HubError: The repository cannot be read, or a file is too large.
        ValueError: `repo_id` is not a repository name.
    """
    wanted = list(names)
    options = options or HubOptions()

    def fetch(*, only_cached: bool) -> Path:
        folder = snapshot_download(
            repo_id,
            revision=options.revision,
            token=options.token,
            cache_dir=options.cache_dir,
            allow_patterns=wanted,
            force_download=options.force_download,
            local_files_only=only_cached,
            library_name="nfaug",
            library_version=__version__,
        )
        return Path(folder)

    with hub_errors(repo_id, options):
        if options.local_files_only:
            return fetch(only_cached=True)
        try:
            for name in wanted:
                if not name.endswith(".safetensors"):
                    _check_size(repo_id, name, options)
        except (HubError, RevisionNotFoundError):
            raise
        # The client and its HTTP library have dozens of types for a network or a Hub that does not
        # answer. As the client does, this then reads the cache.
        except Exception as unreachable:
            try:
                return fetch(only_cached=True)
            except LocalEntryNotFoundError:
                raise unreachable from None
        return fetch(only_cached=False)


def _check_size(repo_id: str, name: str, options: HubOptions) -> None:
    """Raise HubError if the Hub says that a file is too large, or does not say its size.

    A file that does not exist is no error.
    """
    url = hf_hub_url(repo_id, name, revision=options.revision)
    try:
        metadata = get_hf_file_metadata(
            url, token=options.token, library_name="nfaug", library_version=__version__
        )
    except EntryNotFoundError:
        return
    if metadata.size is None or metadata.size > LONGEST:
        size = "no size" if metadata.size is None else f"{metadata.size:,} bytes"
        raise HubError(
            f"{name} of {repo_id} has {size}, and at most {LONGEST:,} are downloaded: choose "
            "another repository or revision"
        )
