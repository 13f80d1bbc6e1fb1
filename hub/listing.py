"""List the flows on the Hub."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import HfApi, ModelInfo, constants, get_session

from nfaug.io.hub_errors import attempt

from .card import TAGS

__all__ = ["FlowEntry", "list_flows"]

_PATIENCE = 10.0  # seconds


@dataclass(frozen=True)
class FlowEntry:
    """A repository: "owner/name", whether it is private, downloads, and date of the last change."""

    repo_id: str
    private: bool
    downloads: int
    updated: str | None


def list_flows(
    *,
    author: str | None = None,
    search: str | None = None,
    limit: int | None = 100,
    token: str | bool | None = None,
) -> list[FlowEntry]:
    """Return the repositories that have nfaug's tag, in the order of the Hub.

    Args:
        author: Only repositories of this account or organization.
        search: Only repositories whose name contains this text.
        limit: Maximum number; None for all.
        token: Access token; with one, private repositories that it can read are listed too.

    Raises:
        HubError: The Hub cannot be reached or refuses the request.
    """
    api = HfApi(token=token, library_name="nfaug")

    def ask() -> list[ModelInfo]:
        # Without a network this fails at once; the client retries its own request for 23 seconds.
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
        return list(api.list_models(filter=TAGS[0], author=author, search=search, limit=limit))

    return [
        FlowEntry(
            info.id,
            bool(info.private),
            info.downloads or 0,
            info.last_modified.date().isoformat() if info.last_modified else None,
        )
        for info in attempt(ask, "the list of flows", times=1, request="list")
    ]
