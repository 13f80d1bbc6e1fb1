"""One readable error for everything that the client of the Hub raises, and when to retry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nfaug.io.text import printable

__all__ = ["HubError", "attempt", "explain"]

T = TypeVar("T")
Request = Literal["pull", "push", "list"]

# The base class of the HTTP library's errors; the library differs between versions of the client.
_HTTP_ERROR: type[BaseException] = HfHubHTTPError.__mro__[1]
_KNOWN = {  # the first is a special case of the second
    GatedRepoError: "is gated: ask for access on its page, then log in with 'hf auth login' or set "
    "HF_TOKEN",
    RepositoryNotFoundError: "was not found: there is no such repository, or it is private and "
    "your token (HF_TOKEN, or 'hf auth login') does not open it",
    RevisionNotFoundError: "has no revision {revision!r}",
    LocalTokenNotFoundError: "needs a token: log in with 'hf auth login', or set HF_TOKEN",
}
_STATUS = {
    401: "did not accept your token: log in with 'hf auth login', or correct HF_TOKEN",
    403: "refused: your token may not do this",
    429: "answered 429, too many requests: wait a while and try again",
}
_PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0  # seconds
_LONGEST_TEXT = 1000  # characters of a message of the server


class HubError(OSError):
    """A repository could not be read or written; the message says why and what to do."""


def attempt(
    ask: Callable[[], T],
    repo_id: str,
    revision: str | None = None,
    *,
    times: int,
    request: Request = "pull",
) -> T:
    """Run a request up to `times` times: again only after a transient failure.

    Raises:
        HubError: See `explain`.
    """
    for number in range(times):
        try:
            return ask()
        except (HFValidationError, UserWarning):  # the first explains the form of a name
            raise
        except Exception as error:  # the client and its HTTP library have dozens of types
            if number + 1 == times or not _is_transient(error):
                raise explain(error, repo_id, revision, request=request) from error
            time.sleep(_wait_before_retry(error, number))
    raise AssertionError("unreachable")


def _is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later.

    A failure to connect is not transient: the client has retried it, and there may be no network.
    """
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            return cause.response.status_code in _PASSING
        if isinstance(cause, _HTTP_ERROR):
            return "Connect" not in type(cause).__name__
    return "Consistency check failed" in str(error)  # the body is shorter than its header says


def _wait_before_retry(error: BaseException, attempt: int) -> float:
    """Return the seconds to wait: those that the server asks for, or 1/2, 1, 2, ..."""
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            asked = cause.response.headers.get("Retry-After", "")
            if asked.isdigit():
                return min(float(asked), _LONGEST_WAIT)
    return 2.0**attempt / 2


def explain(
    error: BaseException,
    repo_id: str,
    revision: str | None = None,
    *,
    request: Request = "pull",
) -> HubError:
    """Return the error to show for an error of the client.

    Text of the server is shown without control characters.

    Args:
        error: What the client raised.
        repo_id: The repository, for the message.
        revision: The revision that was asked for.
        request: What was asked for; it decides what the advice is.
    """
    place = f"{repo_id} at {constants.ENDPOINT}"
    for cause in _causes(error):
        for kind, text in _KNOWN.items():
            if isinstance(cause, kind):
                return HubError(f"{place} {text.format(revision=revision or 'main')}")
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            said = f": {_text(cause.server_message)}" if cause.server_message else ""
            return HubError(f"{place} {_STATUS.get(status, f'answered {status}')}{said}")
        if isinstance(cause, OfflineModeIsEnabled):
            cached = request == "pull"
            where = f" and it is not complete in {constants.HF_HUB_CACHE}" if cached else ""
            return HubError(f"{place} is not available offline: HF_HUB_OFFLINE is set{where}")
        if isinstance(cause, _HTTP_ERROR):
            advice = {
                "pull": f"It is not complete in the cache {constants.HF_HUB_CACHE} either. ",
                "push": "The repository is unchanged; push again, which repeats nothing. ",
                "list": "",
            }
            return HubError(
                f"{place} could not be reached ({type(cause).__name__}: {_text(cause)}). "
                f"{advice[request]}Check the network, or HF_ENDPOINT"
            )
        if isinstance(cause, OSError) and cause.errno:
            return HubError(
                f"{repo_id}: {cause.filename or constants.HF_HUB_CACHE}: {cause.strerror}. Free "
                f"some space, correct the permissions, or move the cache, {constants.HF_HUB_CACHE},"
                " with HF_HUB_CACHE"
            )
    return HubError(f"{place}: {type(error).__name__}: {_text(error)}")


def _text(error: object) -> str:
    return printable(error, longest=_LONGEST_TEXT)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
