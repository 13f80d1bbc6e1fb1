"""nfaug list."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from .common import new_parser

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug list`."""
    made = new_parser("list", "List the flows on the Hugging Face Hub.")
    made.add_argument("--author", help="only flows of this account or organisation")
    made.add_argument("--search", help="only flows whose name contains this text")
    made.add_argument("--limit", type=int, default=100, help="maximum number of flows")
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """List the flows on the Hub."""
    from huggingface_hub import HfApi

    from ..io.hub import hub_errors

    query = {name: getattr(arguments, name) for name in ("author", "search", "limit")}
    with hub_errors("the list of flows"):
        found = list(HfApi(library_name="nfaug").list_models(filter="nfaug", **query))
    flows = {
        flow.id: {
            "downloads": flow.downloads or 0,
            "updated": flow.last_modified and flow.last_modified.date().isoformat(),
            "private": bool(flow.private),
        }
        for flow in found
    }
    return {"flows": len(found), **flows}
