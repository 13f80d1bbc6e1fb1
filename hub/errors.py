"""What can go wrong between here and the Hub, in one sentence each."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

__all__ = ["HubError", "explain", "is_transient", "wait_before_retry"]

# The client's HTTP library changed between versions; its base error is the one before OSError.
_HTTP_ERROR: type[BaseException] = HfHubHTTPError.__mro__[1]
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0  # seconds


class HubError(OSError):
    """A repository could not be read or written; the message says which, why, and what would do."""


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later.

    A connection that cannot be made at all is no such case: the client has tried, and there may
    simply be no network.
    """
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            return cause.response.status_code in _PASSING
        if isinstance(cause, _HTTP_ERROR):
            return "Connect" not in type(cause).__name__
    return "Consistency check failed" in str(error)  # a body shorter than was announced


def wait_before_retry(error: BaseException, attempt: int) -> float:
    """Seconds to wait: what the server asked for, or 1/2, 1, 2, ..."""
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            asked = cause.response.headers.get("Retry-After", "")
            if asked.isdigit():
                return min(float(asked), _LONGEST_WAIT)
    return 2.0**attempt / 2


def explain(
    error: BaseException, repo_id: str, revision: str | None = None, *, pushing: bool = False
) -> HubError:
    """The error to show for what the client raised."""
    place = f"{repo_id} at {constants.ENDPOINT}"
    for cause in _causes(error):
        if isinstance(cause, GatedRepoError):
            return HubError(
                f"{place} is gated: ask for access on its page, then log in with 'hf auth login' "
                "or set HF_TOKEN"
            )
        if isinstance(cause, RepositoryNotFoundError):
            return HubError(
                f"{place} was not found: there is no such repository, or it is private and your "
                "token (HF_TOKEN, or 'hf auth login') does not open it"
            )
        if isinstance(cause, RevisionNotFoundError):
            return HubError(f"{place} has no revision {revision or 'main'!r}")
        if isinstance(cause, RemoteEntryNotFoundError):
            return HubError(f"{place} lacks a file: {cause}")
        if isinstance(cause, LocalTokenNotFoundError):
            return HubError(f"{place} needs a token: log in with 'hf auth login', or set HF_TOKEN")
        if isinstance(cause, HfHubHTTPError):
            return HubError(f"{place} {_refusal(cause)}")
        if isinstance(cause, OfflineModeIsEnabled):
            where = "" if pushing else f", and it is not whole in {constants.HF_HUB_CACHE}"
            return HubError(f"{place} may not be asked: HF_HUB_OFFLINE is set{where}")
        if isinstance(cause, _HTTP_ERROR):
            what = (
                "What was pushed before is as it was; push again: it does nothing twice"
                if pushing
                else f"It is not whole in the cache {constants.HF_HUB_CACHE} either"
            )
            return HubError(
                f"{place} could not be reached ({type(cause).__name__}: {cause}). {what}. Check "
                "the network, or HF_ENDPOINT"
            )
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            return HubError(
                f"{repo_id}: no space left for {cause.filename or constants.HF_HUB_CACHE} "
                f"({cause.strerror}). Free some, or move the cache with HF_HUB_CACHE"
            )
        if isinstance(cause, OSError) and cause.filename and cause.errno in _NOT_OURS:
            return HubError(
                f"{repo_id}: {cause.filename} cannot be used ({cause.strerror}). Correct its "
                f"permissions, or move the cache, {constants.HF_HUB_CACHE}, with HF_HUB_CACHE"
            )
    return HubError(f"{place}: {type(error).__name__}: {error}")


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return "did not accept your token: log in with 'hf auth login', or correct HF_TOKEN"
    if status == 403:
        return f"refused: your token may not do this ({error.server_message or 'status 403'})"
    if status == 429:
        return "answered 429, too many requests: wait a while and try again"
    if status >= 500:
        return f"answered {status}: the server has a problem; try again later"
    return f"answered {status}: {error.server_message or error}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
