"""Files of the Hugging Face Hub by its own client, and one readable error for what it raises.

A repository may be hostile: its files are fetched once their sizes are known, and what they hold is
checked where they are read. A server in the Hub's place is believed, as by every library on this
client.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)

from .hub_options import HubOptions
from .strict_json import LONGEST
from .text import printable
from .version import __version__

_MOST_TENSORS = 2**36  # bytes of a safetensors file
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIBRARY: dict[str, Any] = {"library_name": "nfaug", "library_version": __version__}


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
    Neither holds a token or a password, and the traceback ends here, since the client's own errors
    may hold them.
    """
    try:
        yield
    except (HubError, HFValidationError, UserWarning):
        raise  # HFValidationError explains the form of a name
    except Exception as error:  # the client and its HTTP library have dozens of types
        options = options or HubOptions()
        subject = what if options.revision is None else f"{what} (revision {options.revision!r})"
        cache = options.cache_dir or constants.HF_HUB_CACHE
        address = _without_secrets(constants.ENDPOINT, options)
        reason = printable(_without_secrets(str(error), options), longest=1000).rstrip(".")
        raise HubError(
            f"{subject} at {address}: {type(error).__name__}: {reason}. Check the name, the "
            "network (HF_HUB_OFFLINE, HF_ENDPOINT), the token ('hf auth login' or HF_TOKEN) and "
            f"the space in the cache {cache}, then try again"
        ) from None


def _without_secrets(text: str, options: HubOptions) -> str:
    """The text without tokens, and without the password of a Hub at `https://me:password@…`."""
    login = re.search(r"//[^/]*:([^/]*)@", constants.ENDPOINT)
    password = "" if login is None else login[1]
    secrets = {options.token, get_token(), password, unquote(password)}
    known = [secret for secret in secrets if isinstance(secret, str) and secret]
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"//[^/\s]*@", "//***@", text)
    return re.sub(r"(?i)\b(bearer|basic)\s+[^\s'\"]+", r"\1 ***", text)


def download(
    repo_id: str, names: Iterable[str], options: HubOptions | None = None
) -> dict[str, Path]:
    """Download files of a repository into the client's cache.

    All are of one commit, that of the first. The Hub is asked for the size of each before it is
    fetched: a file may have 16 MiB, the most that is read of JSON, or 64 GiB if it is a safetensors
    file. Without a network the files that the cache holds are used, but for `force_download`.

    Args:
        repo_id: "owner/name".
        names: Names of files, without folders.
        options: Revision, token, cache and the like.

    Returns:
        Paths by name, in one folder of the cache, which has the name of the commit. Files that do
        not exist are left out.

    Raises:
        HubError: The repository cannot be read, or a file is too large.
        ValueError: `repo_id` is not a repository name.
    """
    options = options or HubOptions()
    local = options.local_files_only
    found: dict[str, Path] = {}
    unreachable: Exception | None = None
    with hub_errors(repo_id, options):
        for name in names:
            try:
                if not local:
                    _check_size(repo_id, name, options)
            except RemoteEntryNotFoundError:
                continue
            except (HubError, RevisionNotFoundError):
                raise
            # The client and its HTTP library have dozens of types for a network or a Hub that does
            # not answer. As the client does, this then reads the cache.
            except Exception as error:
                if options.force_download:
                    raise
                unreachable = error
                local = True
            try:
                found[name] = _fetch(repo_id, name, options, local=local)
            except LocalEntryNotFoundError as error:
                unreachable = unreachable or error
            else:
                options = options.at(found[name].parent.name)
        if not found and unreachable is not None:
            raise unreachable
    return found


def _check_size(repo_id: str, name: str, options: HubOptions) -> None:
    """Raise HubError if a file has more bytes than `download` says, or nobody says how many.

    The file of a commit never changes, so that one in the cache needs no request.
    """
    if _COMMIT.fullmatch(options.revision or "") and not options.force_download:
        cached = try_to_load_from_cache(repo_id, name, options.cache_dir, options.revision)
        if isinstance(cached, str):
            return
    url = hf_hub_url(repo_id, name, revision=options.revision)
    size = get_hf_file_metadata(url, token=options.token, **_LIBRARY).size
    limit = _MOST_TENSORS if name.endswith(".safetensors") else LONGEST
    if size is None or size > limit:
        count = "an unknown number of" if size is None else f"{size:,}"
        raise HubError(
            f"{name} of {repo_id} has {count} bytes, and at most {limit:,} are downloaded: choose "
            "another repository or revision"
        )


def _fetch(repo_id: str, name: str, options: HubOptions, *, local: bool) -> Path:
    """The path of a file in the cache; with `local`, without a request.

    Raises:
        LocalEntryNotFoundError: The cache lacks it, and there is no network.
    """
    path = hf_hub_download(
        repo_id,
        name,
        revision=options.revision,
        token=options.token,
        cache_dir=options.cache_dir,
        force_download=options.force_download and not local,
        local_files_only=local,
        **_LIBRARY,
    )
    return Path(path)
