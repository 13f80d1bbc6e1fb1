"""List the flows on the Hub."""

from __future__ import annotations

from huggingface_hub import HfApi, ModelInfo

from nfaug.io.hub import hub_errors

__all__ = ["list_flows"]


def list_flows(
    *,
    author: str | None = None,
    search: str | None = None,
    limit: int | None = 100,
    token: str | bool | None = None,
) -> list[ModelInfo]:
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
    with hub_errors("the list of flows"):
        return list(api.list_models(filter="nfaug", author=author, search=search, limit=limit))
