"""Finding flows on the Hub."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import HfApi

from .card import TAGS
from .errors import explain

__all__ = ["FlowEntry", "list_flows"]


@dataclass(frozen=True)
class FlowEntry:
    """One repository: its "owner/name", whether it is private, and how often it was fetched."""

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
    """The repositories that carry nfaug's tag, as the Hub orders them.

    Args:
        author: only this account's or organisation's.
        search: only those whose name holds this.
        limit: at most so many, None for all.
        token: an access token; with one, private repositories it may read are listed too.

    Raises:
        HubError: the Hub could not be asked.
    """
    api = HfApi(token=token, library_name="nfaug")
    try:
        found = list(api.list_models(filter=TAGS[0], author=author, search=search, limit=limit))
    except Exception as error:  # the client has dozens, with two HTTP libraries' among them
        raise explain(error, "the list of flows", pushing=True) from error
    return [
        FlowEntry(
            info.id,
            bool(info.private),
            info.downloads or 0,
            info.last_modified.date().isoformat() if info.last_modified else None,
        )
        for info in found
    ]
