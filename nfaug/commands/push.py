"""nfaug push."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from .common import new_parser

__all__ = ["parser", "run"]


def parser() -> ArgumentParser:
    """Options of `nfaug push`."""
    made = new_parser(
        "push",
        "Push a checkpoint to the Hugging Face Hub as one commit: configuration, tensors, card and "
        "picture. Log in first with: hf auth login.",
        "The partner memory, and axes as many as a class has images, reproduce training images "
        "nearly. Push with --no-memory what was trained on images that are not yours to show.",
    )
    made.add_argument("directory", help="the checkpoint directory")
    made.add_argument("repo", help="owner/name on the Hub")
    made.add_argument("--private", action="store_true", help="make a new repository private")
    made.add_argument("--revision", help="the branch to push to")
    made.add_argument("--message", help="the commit's summary line")
    made.add_argument(
        "--no-memory",
        action="store_true",
        help="leave out memory and picture; at most a quarter as many axes as images of a class",
    )
    made.add_argument("--licence", help="for the card: the licence's identifier, such as mit")
    made.add_argument("--about-data", help="for the card: what the training images are")
    made.add_argument(
        "--overwrite-card", action="store_true", help="replace the README.md on the Hub"
    )
    made.add_argument("--dry-run", action="store_true", help="list files and sizes, push nothing")
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Push, or say what would be pushed."""
    from ..hub import plan_push, push_to_hub

    memory = not arguments.no_memory
    if arguments.dry_run:
        files = plan_push(arguments.directory, arguments.repo, memory=memory)
        return {"repo": arguments.repo, "bytes": sum(files.values()), "files": files}
    url = push_to_hub(
        arguments.directory,
        arguments.repo,
        private=arguments.private or None,
        revision=arguments.revision,
        memory=memory,
        commit_message=arguments.message,
        overwrite_card=arguments.overwrite_card,
        licence=arguments.licence,
        data=arguments.about_data,
    )
    return {"repo": arguments.repo, "commit": url}
