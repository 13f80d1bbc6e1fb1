"""How a repository of the Hugging Face Hub is read, without importing the Hub's client."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class HubOptions:
    """Options of a download; names and meanings are those of huggingface_hub.

    Attributes:
        revision: Branch, tag or commit; None for the main branch.
        token: Access token; None for the one that is logged in, False for none. Spaces and line
            breaks around it, which a file has, are left out.
        cache_dir: Folder of the cache; None for the client's own (HF_HUB_CACHE).
        local_files_only: Read the cache and send no request.
        force_download: Download files that are in the cache once more.

    Raises:
        ValueError: The token is empty, or holds a space or a character that is not ASCII.
    """

    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.token, str):
            return
        token = self.token.strip()
        if not re.fullmatch(r"[!-~]+", token):  # and the error must not show it
            raise ValueError(
                "token must be one word of ASCII characters, as in 'hf auth token'; this one has "
                f"{len(token)} characters, with spaces or others among them"
            )
        object.__setattr__(self, "token", token)

    def at(self, revision: str | None) -> HubOptions:
        """The same options for another revision."""
        return replace(self, revision=revision)


def split_revision(name: str, options: HubOptions) -> tuple[str, HubOptions]:
    """The repository in "owner/name@revision", and the options with this revision.

    Raises:
        ValueError: `options` have another revision.
    """
    repo_id, at, revision = name.partition("@")
    if not at or not revision:
        return name, options
    if options.revision not in (None, revision):
        raise ValueError(
            f"{name!r} and revision={options.revision!r} name two revisions: pass {repo_id!r} with "
            "revision="
        )
    return repo_id, options.at(revision)
