"""nfaug pull."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..io.progress import progress_bar
from ..io.text import printable
from .parser import new_parser


def parser() -> ArgumentParser:
    """Options of `nfaug pull`."""
    parser = new_parser(
        "pull",
        "Download a checkpoint from the Hugging Face Hub and check its hashes. Other commands take "
        "owner/name as --checkpoint, and download it themselves.",
        usage="REPO [options]",
        example="nfaug pull OWNER/my-nfa --out my-nfa",
    )
    parser.add_argument("repo", help="owner/name on the Hub")
    parser.add_argument("--out", help="copy it into this folder (default: it stays in the cache)")
    parser.add_argument("--revision", help="a branch, tag or commit")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds")
    return parser


def run(arguments: Namespace) -> dict[str, Any]:
    """Download, and return the directory."""
    from ..hub import pull

    with progress_bar(None, f"pulling {printable(arguments.repo)}", shown=True):
        folder = pull(
            arguments.repo,
            revision=arguments.revision,
            out=arguments.out,
            overwrite=arguments.overwrite,
        )
    return {"repo": arguments.repo, "out": str(folder)}
