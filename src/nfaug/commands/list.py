"""nfaug list."""

from __future__ import annotations

import warnings
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..checkpoint.resolve import builtin_names
from .parser import Count, new_parser


def parser() -> ArgumentParser:
    """Options of `nfaug list`."""
    parser = new_parser(
        "list",
        "List the checkpoints that come with nfaug, and those of nfaug on the Hugging Face Hub.",
        usage="[options]",
        example="nfaug list --search flowers",
    )
    parser.add_argument("--author", help="only those of this account or organisation")
    parser.add_argument("--search", help="only those whose name contains this text")
    parser.add_argument("--limit", type=Count, default=100, help="the most that are listed")
    return parser


def run(arguments: Namespace) -> dict[str, Any]:
    """List what is built in, and what is on the Hub if it can be reached."""
    from ..io.hub import HubError

    built_in: list[str] = []
    if arguments.author is None:
        built_in = [name for name in builtin_names() if (arguments.search or "") in name]
    result: dict[str, Any] = {"built_in": built_in}
    try:
        result |= _on_the_hub(arguments)
    except HubError as error:
        warnings.warn(f"only what is built in is listed: {error}", stacklevel=1)
    return result


def _on_the_hub(arguments: Namespace) -> dict[str, Any]:
    """The flows on the Hub, at most --limit, and how many these are."""
    from huggingface_hub import HfApi, constants, get_session

    from ..io.hub import hub_errors

    with hub_errors("the list of flows"):
        models = HfApi(library_name="nfaug").list_models(
            filter="nfaug",
            author=arguments.author,
            search=arguments.search,
            limit=arguments.limit,
        )
        # Without a network this fails at once, where the listing would try again for 27 seconds.
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        flows = list(models)  # its requests are sent here
    result: dict[str, Any] = {"flows": len(flows)}
    for flow in flows:
        modified = flow.last_modified
        result[flow.id] = {
            "downloads": flow.downloads or 0,
            "updated": None if modified is None else modified.date().isoformat(),
            "private": bool(flow.private),
        }
    return result
