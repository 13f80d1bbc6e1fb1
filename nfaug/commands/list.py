"""nfaug list."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from .common import new_parser

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug list`."""
    made = new_parser("list", "List the flows on the Hugging Face Hub.")
    made.add_argument("--author", help="only flows of this account or organization")
    made.add_argument("--search", help="only flows whose name contains this text")
    made.add_argument("--limit", type=int, default=100, help="maximum number of flows")
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """List the flows on the Hub."""
    from ..hub import list_flows

    found = list_flows(author=arguments.author, search=arguments.search, limit=arguments.limit)
    flows = {
        flow.id: {
            "downloads": flow.downloads or 0,
            "updated": flow.last_modified and flow.last_modified.date().isoformat(),
            "private": bool(flow.private),
        }
        for flow in found
    }
    return {"flows": len(found), **flows}
