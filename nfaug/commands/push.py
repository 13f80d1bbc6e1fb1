"""nfaug push, and the push options of nfaug train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..io.text import printable
from .common import new_parser

__all__ = ["add_push_options", "parser", "push_target", "push_trained", "run"]

_NO_MEMORY = "leave out memory and picture; keep at most one axis per four images of a class"


def parser() -> ArgumentParser:
    """Options of `nfaug push`."""
    made = new_parser(
        "push",
        "Push a checkpoint to the Hugging Face Hub as one commit: configuration, tensors, card and "
        "picture. Log in first with: hf auth login.",
        "The partner memory nearly reproduces training images, and so do as many axes as images of "
        "a class. Use --no-memory for images that you must not publish.",
    )
    made.add_argument("directory", help="the checkpoint directory")
    made.add_argument("repo", help="owner/name on the Hub")
    made.add_argument("--private", action="store_true", help="make a new repository private")
    made.add_argument("--revision", help="the branch to push to")
    made.add_argument("--message", help="the commit's summary line")
    made.add_argument("--no-memory", action="store_true", help=_NO_MEMORY)
    made.add_argument(
        *("--license", "--licence"), help="for the card: identifier of the license, such as mit"
    )
    made.add_argument(
        "--about-data", help="for the card: what the training images are, and their terms of use"
    )
    made.add_argument(
        "--overwrite-card", action="store_true", help="replace the README.md on the Hub"
    )
    made.add_argument(
        "--dry-run", action="store_true", help="push nothing: check, list and print the card"
    )
    return made


def run(arguments: Namespace) -> dict[str, Any]:
    """Push, or list what would be pushed."""
    from ..hub import plan_push, push_to_hub

    memory = not arguments.no_memory
    if arguments.dry_run:
        planned, card = plan_push(
            arguments.directory,
            arguments.repo,
            memory=memory,
            license=arguments.license,
            data=arguments.about_data,
        )
        for line in card.splitlines():
            print(printable(line), file=sys.stderr)
        return {"repo": arguments.repo, "bytes": sum(planned.values()), "files": planned}
    files: dict[str, int] = {}
    url = push_to_hub(
        arguments.directory,
        arguments.repo,
        private=arguments.private or None,
        revision=arguments.revision,
        memory=memory,
        commit_message=arguments.message,
        overwrite_card=arguments.overwrite_card,
        license=arguments.license,
        data=arguments.about_data,
        listing=files.update,
    )
    return {"repo": arguments.repo, "commit": url, "files": files}


def add_push_options(parser: ArgumentParser) -> None:
    """Add --push-to and its companions to a command that ends with a checkpoint."""
    parser.add_argument(
        "--push-to", help="owner/name on the Hugging Face Hub to push to at the end"
    )
    parser.add_argument(
        "--push-private",
        action="store_true",
        help="make a new repository of --push-to private",
    )
    parser.add_argument(
        "--push-no-memory",
        action="store_true",
        help=f"for --push-to: {_NO_MEMORY}",
    )


def push_target(arguments: Namespace) -> str | None:
    """Return the repository of --push-to after a check of name and token; None without it.

    Raises:
        ValueError: The name is not valid, or a companion option is given without --push-to.
        nfaug.hub.HubError: There is no token, or the Hub rejects it.
    """
    if arguments.push_to is None:
        if arguments.push_private or arguments.push_no_memory:
            raise ValueError("--push-private and --push-no-memory need --push-to OWNER/NAME")
        return None
    from ..hub import check_push

    return check_push(arguments.push_to)


def push_trained(arguments: Namespace, out: Path, repo: str) -> dict[str, Any]:
    """Push the checkpoint in `out`; the error gives the command that repeats a failed push."""
    from ..hub import HubError, push_to_hub

    memory = not arguments.push_no_memory
    try:
        url = push_to_hub(out, repo, private=arguments.push_private or None, memory=memory)
    except HubError as error:
        options = " --private" * arguments.push_private + " --no-memory" * (not memory)
        raise HubError(
            f"the flow is saved in {out}, but was not pushed: {error}. Push it with: nfaug push "
            f"{out} {repo}{options}"
        ) from error
    return {"repo": repo, "commit": url}
