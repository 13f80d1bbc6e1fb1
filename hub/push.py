"""Push a checkpoint to the Hub: one commit with configuration, tensors, card and picture."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
)
from huggingface_hub.utils._validators import validate_repo_id

from nfaug.checkpoint.directory import read_parts, write_parts
from nfaug.io.hub_errors import attempt
from nfaug.io.manifest import CONFIG, PICTURE, TENSOR_FILE, read_manifest, tensor_files

from .card import facts_of, make_card, privacy_block, set_privacy, stated
from .licenses import check_license

__all__ = ["PushPlan", "check_push", "plan_push", "push_to_hub"]

CARD = "README.md"
_ATTEMPTS = 3  # the second one may fail on the connection that the first one closed
AXES_FRACTION = 0.25  # most axes per image of a class when the memory is left out


class PushPlan(NamedTuple):
    """What a push contains: {file: bytes}, and the text of the card."""

    files: dict[str, int]
    card: str


def push_to_hub(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    memory: bool = True,
    commit_message: str | None = None,
    overwrite_card: bool = False,
    license: str | None = None,
    data: str | None = None,
    listing: Callable[[dict[str, int]], object] | None = None,
) -> str:
    """Push a checkpoint directory as one commit and return the URL of the commit.

    The repository and the branch are created if necessary. Pushed are the configuration, the
    tensors, the card and the picture, and no other file of the directory, such as a training state
    or a log. Without a change there is no commit. An interrupted push changes nothing and can be
    repeated.

    Args:
        directory: The checkpoint. Its README.md is the card; without one a card is generated.
        repo_id: "owner/name", or "name" in the account that is logged in.
        private: Whether a new repository is private; None for the default of the account.
        revision: The branch; the main branch by default.
        token: Access token with write permission; None for the one that is logged in.
        memory: With False the partner memory and the picture are left out, and a class keeps at
            most a quarter as many axes as it has images: with more, training images could nearly
            be reproduced. Earlier pushes stay in the history of the repository.
        commit_message: Summary line of the commit.
        overwrite_card: Replace the README.md of the repository, which is kept otherwise.
        license: The Hub's identifier of the license for a generated card, such as "mit".
        data: What the training images are and their terms of use, for a generated card. If the
            directory has a card, `license` and `data` have no effect, and a warning says so.
        listing: Called with {file: bytes} before the upload.

    Raises:
        ValueError: `repo_id` is not a repository name, `license` is not an identifier of the Hub,
            or a file is a link that leaves the directory.
        CheckpointError: The directory is not a checkpoint, or it is damaged.
        HubError: The repository cannot be written.

    >>> from nfaug.hub import push_to_hub
    >>> push_to_hub("runs/cats", "me/cats", license="mit")  # doctest: +SKIP
    """
    api = HfApi(token=token, library_name="nfaug")
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        repo_id = check_push(repo_id, token=token)
    message = commit_message or "Push a flow with nfaug"
    with _staged(Path(directory), repo_id, memory, license, data) as staged:
        if listing is not None:
            listing(_sizes(staged))

        def ask() -> str:  # repeating a commit that succeeded changes nothing
            api.create_repo(repo_id, private=private, exist_ok=True)
            return _commit(api, staged, repo_id, revision, message, overwrite_card)

        return attempt(ask, repo_id, revision, times=_ATTEMPTS, request="push")


def check_push(repo_id: str, *, token: str | bool | None = None) -> str:
    """Check the name and the token before long work, and return the full name "owner/name".

    Whether the token has write permission shows at the push only.

    Raises:
        ValueError: `repo_id` is not a repository name.
        HubError: There is no token, the Hub rejects it, or the Hub cannot be reached.
    """
    validate_repo_id(repo_id)
    api = HfApi(token=token, library_name="nfaug")
    account = attempt(api.whoami, repo_id, times=1, request="push")["name"]
    return repo_id if "/" in repo_id else f"{account}/{repo_id}"


def plan_push(
    directory: str | Path,
    repo_id: str = "owner/name",
    *,
    memory: bool = True,
    license: str | None = None,
    data: str | None = None,
) -> PushPlan:
    """Check and list what `push_to_hub` would push, without contacting the Hub.

    An existing card of the repository would be kept, so the card may be listed and not pushed.

    Raises:
        ValueError: See `push_to_hub`.
        CheckpointError: The directory is not a checkpoint, or it is damaged.
    """
    validate_repo_id(repo_id)
    with _staged(Path(directory), repo_id, memory, license, data) as staged:
        return PushPlan(_sizes(staged), (staged / CARD).read_text(encoding="utf-8"))


def _sizes(folder: Path) -> dict[str, int]:
    return {entry.name: entry.stat().st_size for entry in sorted(folder.iterdir())}


@contextlib.contextmanager
def _staged(
    directory: Path,
    repo_id: str,
    memory: bool,
    license: str | None = None,
    data: str | None = None,
) -> Iterator[Path]:
    """Yield a temporary directory with exactly the files to push."""
    check_license(license)
    directory = directory.expanduser().resolve()
    _check_links(directory)
    parts = read_parts(directory)  # a checkpoint that cannot be read is not pushed
    beside = directory.parent if os.access(directory.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".nfaug-push-", dir=beside) as folder:
        staged = Path(folder)
        if memory:
            for name in (CONFIG, *read_manifest(directory)["files"]):
                _link(directory / name, staged / name)
            if (directory / PICTURE).is_file():
                _link(directory / PICTURE, staged / PICTURE)
        else:
            if parts.pca is not None:
                pca = parts.pca.without_memory(max_axes_fraction=AXES_FRACTION)
                parts = parts._replace(pca=pca)
            write_parts(staged, parts, overwrite=True)
        facts = facts_of(parts.config, parts.pca, picture=(staged / PICTURE).is_file())
        if (directory / CARD).is_file():
            if license is not None or data is not None:
                warnings.warn(
                    f"{directory / CARD} is used as the card; license and data apply to generated "
                    "cards only: write them into this file, or remove it",
                    stacklevel=4,
                )
            card = (directory / CARD).read_text(encoding="utf-8")
            card = set_privacy(card, privacy_block(facts))
        else:
            card = make_card(facts, repo_id, license=license, data=data)
        (staged / CARD).write_text(card, encoding="utf-8")
        yield staged


def _check_links(directory: Path) -> None:
    """Raise ValueError if a file to push is a link to somewhere else, such as a private key."""
    cache = Path(constants.HF_HUB_CACHE).resolve()
    home = cache if directory.is_relative_to(cache) else directory  # a snapshot links to blobs
    for name in (CONFIG, CARD, PICTURE, *tensor_files(directory)):
        target = (directory / name).resolve()
        if not target.is_relative_to(home):
            raise ValueError(
                f"{directory / name} is a link to {target}, outside of the directory, and is not "
                "pushed; copy the file if you want to publish it"
            )


def _link(source: Path, target: Path) -> None:
    """Make a hard link, which later saves do not change; a copy on another disk."""
    source = source.resolve()  # a relative link would point elsewhere from `target`
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _commit(
    api: HfApi,
    staged: Path,
    repo_id: str,
    revision: str | None,
    message: str,
    overwrite_card: bool,
) -> str:
    """Commit the differences; `upload_folder` could make several commits."""
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    remote = api.list_repo_files(repo_id, revision=revision)
    names = sorted(entry.name for entry in staged.iterdir())
    if CARD in remote and not overwrite_card:
        names.remove(CARD)
        _warn_if_untrue(api, staged, repo_id, revision)
    ours = (name for name in remote if name == PICTURE or TENSOR_FILE.fullmatch(name))
    stale = sorted(set(ours) - set(names))
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        *(CommitOperationAdd(name, str(staged / name)) for name in names),
        *(CommitOperationDelete(name) for name in stale),
    ]
    commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    return commit.commit_url


def _warn_if_untrue(api: HfApi, staged: Path, repo_id: str, revision: str | None) -> None:
    """Warn if the card that is kept makes another privacy statement than this push needs."""
    with tempfile.TemporaryDirectory() as folder:
        kept = hf_hub_download(repo_id, CARD, revision=revision, local_dir=folder, token=api.token)
        said = stated(Path(kept).read_text(encoding="utf-8", errors="replace"))
    if said not in (None, stated((staged / CARD).read_text(encoding="utf-8"))):
        warnings.warn(
            f"the card of {repo_id} is kept, but its privacy statement is of another push; correct "
            "it, or replace the card with overwrite_card=True (--overwrite-card)",
            stacklevel=6,  # the caller of push_to_hub
        )
