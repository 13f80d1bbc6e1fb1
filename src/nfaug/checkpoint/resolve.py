"""From the name of a checkpoint to its folder."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from ..io.hub_options import HubOptions
from ..io.text import did_you_mean

BUILTIN = "builtin:"
_PREFIX = re.compile(r"hf[_-]hub:")  # timm's
# A page of a model on the Hub, perhaps that of a revision or of a file in it.
_PAGE = re.compile(
    r"(?:https?://)?(?:huggingface\.co|hf\.co)/(?!datasets/|spaces/)([\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve|commit)/(refs/pr/\d+|[^/?#]+))?(?:[/?#].*)?"
)
_FOLDER = Path(__file__).parent.parent / "builtin"


def builtin_names() -> list[str]:
    """Return the names of the bundled checkpoints, each with its prefix `builtin:`."""
    return sorted(BUILTIN + file.parent.name for file in _FOLDER.glob("*/config.json"))


def repository_name(name: str) -> str:
    """The "owner/name" or "owner/name@revision" of what names a repository of the Hub.

    This is such a name itself, with or without timm's prefix "hf_hub:" or "hf-hub:", or the address
    of its page. Other text is returned as it is.

    >>> repository_name("https://huggingface.co/owner/my-nfa/tree/v1")
    'owner/my-nfa@v1'
    """
    page = _PAGE.fullmatch(name)
    if page is None:
        return _PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name
    repo_id, revision = page.groups()
    return repo_id if revision is None else f"{repo_id}@{unquote(revision)}"


def resolve(
    checkpoint: str | Path, options: HubOptions | None = None, *, whole: bool = True
) -> Path:
    """The folder of a checkpoint: bundled, local, or downloaded into the cache of the Hub.

    Args:
        checkpoint: "builtin:NAME", an existing folder, or what `repository_name` understands.
        options, whole: For a repository; see `nfaug.checkpoint.repository.download_checkpoint`.

    Raises:
        CheckpointError: A file of the repository is damaged.
        FileNotFoundError: There is no such bundled checkpoint, or this is neither a folder nor a
            possible repository name.
        nfaug.hub.HubError: The repository cannot be read.
    """
    name = str(checkpoint)
    if name.startswith(BUILTIN):
        if name not in builtin_names():
            raise FileNotFoundError(
                f"there is no bundled checkpoint {name!r}{did_you_mean(name, builtin_names())} "
                f"({', '.join(builtin_names())})"
            )
        return _FOLDER / name.removeprefix(BUILTIN)
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path
    repository = repository_name(name)
    repo_id = repository.partition("@")[0]  # a revision may hold slashes
    if path.exists() or repo_id.count("/") != 1 or name.startswith((".", "/", "~")):
        bundled = {other.removeprefix(BUILTIN): other for other in builtin_names()}
        names = [*builtin_names(), *bundled]
        if path.parent.is_dir():
            names += [str(path.parent / folder.name) for folder in path.parent.glob("*/")]
        found = f"there is no folder {name!r}"
        if path.exists():
            found = f"{name!r} is no folder"
        elif not path.is_absolute():
            found += " here"
        raise FileNotFoundError(
            f"{found}, and it is not owner/name on the Hub{did_you_mean(name, names, bundled)} "
            f"(bundled are {', '.join(builtin_names())})"
        )
    # A local checkpoint does not need the Hub's client.
    from ..io.hub import HubError
    from .repository import download_checkpoint

    try:
        return download_checkpoint(repository, options, whole=whole)
    except HubError as error:  # the cause may be a mistyped path
        if repository != name:
            raise
        raise HubError(f"there is no folder {name!r} here, and {error}") from error
