"""nfaug push."""

from __future__ import annotations

import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..io.progress import progress_bar
from ..io.text import printable
from .parser import new_parser


def parser() -> ArgumentParser:
    """Options of `nfaug push`."""
    parser = new_parser(
        "push",
        "Upload a checkpoint to the Hugging Face Hub as one commit: configuration, tensors, card "
        "and picture. Log in first with: hf auth login.",
        "Privacy: training images can nearly be rebuilt from the memory, and some of them from "
        "the axes. Use --no-memory for images that you must not publish.",
        usage="CHECKPOINT REPO [options]",
        example="nfaug push my-flow OWNER/my-flow --no-memory --dry-run",
    )
    parser.add_argument("checkpoint", help="the checkpoint's folder")
    parser.add_argument("repo", help="owner/name on the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="the branch to push to")
    parser.add_argument(
        "--no-memory",
        action="store_true",
        help="push the flow alone: no memory, no axes and no images; after nfaug train with its "
        "class Gaussians and samples of them, where a Gaussian of fewer than 8 images is an error, "
        "since its mean shows them",
    )
    parser.add_argument("--license", help="for the card: identifier of the license, such as mit")
    parser.add_argument(
        "--about-data", help="for the card: what the training images are, and their terms of use"
    )
    parser.add_argument("--overwrite-card", action="store_true", help="replace the Hub's README.md")
    parser.add_argument(
        "--dry-run", action="store_true", help="push nothing: check, list and print the card"
    )
    return parser


def run(arguments: Namespace) -> dict[str, Any]:
    """Push, or list what would be pushed."""
    from ..hub import push_to_hub
    from ..hub.push import plan_push

    options = {
        "memory": not arguments.no_memory,
        "license": arguments.license,
        "about_data": arguments.about_data,
    }
    if arguments.dry_run:
        with progress_bar(None, f"checking {printable(arguments.checkpoint)}", shown=True):
            files, card = plan_push(arguments.checkpoint, arguments.repo, **options)
        for line in card.splitlines():
            print(printable(line), file=sys.stderr)
        return {"repo": arguments.repo, "bytes": sum(files.values()), "files": files}
    with progress_bar(None, f"pushing {printable(arguments.checkpoint)}", shown=True):
        url = push_to_hub(
            arguments.checkpoint,
            arguments.repo,
            private=arguments.private or None,
            revision=arguments.revision,
            overwrite_card=arguments.overwrite_card,
            **options,
        )
    return {"repo": arguments.repo, "commit": url}
