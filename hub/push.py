"""Sharing a checkpoint on the Hub: one commit, and nothing in it that was not meant to leave."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    hf_hub_download,
)
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from ..checkpoint.checkpoint import Checkpoint, verify
from ..checkpoint.config import read_config
from ..io.names import CONFIG, TENSOR_FILE
from .card import make_card, privacy_block, set_privacy, stated
from .errors import explain, is_transient, wait_before_retry
from .facts import facts_of

__all__ = ["check_push", "plan_push", "push_to_hub"]

CARD, PICTURE = "README.md", "samples.png"
_ATTEMPTS = 3  # a retry can meet a second fault: the connection that the first one closed
AXES_FRACTION = 0.25  # of a class's images, at most, when the memory is left out


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
    licence: str | None = None,
    data: str | None = None,
) -> str:
    """Push a checkpoint directory as one commit and return the commit's address.

    The repository is made if there is none, and so is the branch. What goes up is the
    configuration, the tensors, the card and the picture: never a training state, a log or any
    other file of the directory. A push without a change makes no commit; a push that was cut off
    changed nothing and can be repeated.

    Args:
        directory: the checkpoint; its README.md is the card, or one is generated.
        repo_id: "owner/name", or "name" for the account that is logged in.
        private: whether a new repository is private; None as the account has it.
        revision: the branch; the main one by default.
        token: an access token that may write; by default the one that is logged in.
        memory: False leaves out the partner memory and the picture, and keeps at most a quarter as
            many axes as a class has images: with either, training images can be reproduced nearly.
            What earlier pushes brought stays in the repository's history.
        commit_message: its summary line.
        overwrite_card: replace the README.md that the repository has; it is kept otherwise.
        licence, data: for a generated card: the licence's identifier, such as "mit", and what the
            training images are and under which terms they are used. Where the directory has a card
            they change nothing, and a warning says so.

    Raises:
        ValueError: `repo_id` is no repository name.
        CheckpointError: the directory is no checkpoint, or it is damaged.
        HubError: the repository cannot be written.
    """
    api = HfApi(token=token, library_name="nfaug")
    if "/" not in repo_id:
        repo_id = check_push(repo_id, token=token)
    message = commit_message or "Push a flow with nfaug"
    with _staged(Path(directory), repo_id, memory, licence, data) as staged:
        for attempt in range(_ATTEMPTS):
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                return _commit(api, staged, repo_id, revision, message, overwrite_card)
            except (HFValidationError, UserWarning):
                raise
            except Exception as error:
                if attempt == _ATTEMPTS - 1 or not is_transient(error):
                    raise explain(error, repo_id, revision, pushing=True) from error
                # If the answer was lost and not the commit, another time changes nothing.
                time.sleep(wait_before_retry(error, attempt))
    raise AssertionError("unreachable")


def check_push(repo_id: str, *, token: str | bool | None = None) -> str:
    """Check that a push can begin, before long work, and return the repository's full name.

    The name must be one and the Hub must know the token. Whether the token may write there, only
    the push itself tells.

    Raises:
        ValueError: `repo_id` is no repository name.
        HubError: there is no token, the Hub does not accept it, or it cannot be asked.
    """
    validate_repo_id(repo_id)
    try:
        account = HfApi(token=token, library_name="nfaug").whoami()["name"]
    except Exception as error:  # the client has dozens, with two HTTP libraries' among them
        raise explain(error, repo_id, pushing=True) from error
    return repo_id if "/" in repo_id else f"{account}/{repo_id}"


def plan_push(
    directory: str | Path,
    repo_id: str = "owner/name",
    *,
    memory: bool = True,
    licence: str | None = None,
    data: str | None = None,
) -> dict[str, int]:
    """The files that `push_to_hub` would push and their sizes in bytes, without asking the Hub.

    A card that the repository has already would be kept, which only the push itself can tell.

    Raises:
        CheckpointError: the directory is no checkpoint, or it is damaged.
    """
    with _staged(Path(directory), repo_id, memory, licence, data) as staged:
        return {entry.name: entry.stat().st_size for entry in sorted(staged.iterdir())}


@contextlib.contextmanager
def _staged(
    directory: Path,
    repo_id: str,
    memory: bool,
    licence: str | None = None,
    data: str | None = None,
) -> Iterator[Path]:
    """A temporary directory that holds exactly what is to be pushed."""
    directory = directory.expanduser().resolve()
    checkpoint = Checkpoint.load(directory)  # what could not be read again is not shared
    beside = directory.parent if os.access(directory.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".nfaug-push-", dir=beside) as folder:
        staged = Path(folder)
        if memory:
            for name in (CONFIG, *read_config(directory)[1]):
                _link(directory / name, staged / name)
            verify(staged)  # somebody may have saved in between
            if (directory / PICTURE).is_file():
                _link(directory / PICTURE, staged / PICTURE)
        else:
            if checkpoint.pca is not None:
                checkpoint.pca = checkpoint.pca.without_memory(max_axes_fraction=AXES_FRACTION)
            checkpoint.save(staged, overwrite=True)
        facts = facts_of(checkpoint, picture=(staged / PICTURE).is_file())
        if (directory / CARD).is_file():
            if licence is not None or data is not None:
                warnings.warn(
                    f"{directory / CARD} is the card as it stands; licence and data are for one "
                    "that is generated: write them there, or remove it",
                    stacklevel=4,
                )
            card = (directory / CARD).read_text(encoding="utf-8")
            card = set_privacy(card, privacy_block(facts))
        else:
            card = make_card(facts, repo_id, licence=licence, data=data)
        (staged / CARD).write_text(card, encoding="utf-8")
        yield staged


def _link(source: Path, target: Path) -> None:
    """Another name for the same file, so that it stays as it is; a copy on another disk."""
    source = source.resolve()  # a link of its own would lead elsewhere from there
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
    """Commit what differs. `create_commit` and not `upload_folder`, which may make several."""
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
    """Say so when the card that is kept makes another privacy statement than is true now."""
    with tempfile.TemporaryDirectory() as folder:
        kept = hf_hub_download(repo_id, CARD, revision=revision, local_dir=folder, token=api.token)
        said = stated(Path(kept).read_text(encoding="utf-8", errors="replace"))
    if said not in (None, stated((staged / CARD).read_text(encoding="utf-8"))):
        warnings.warn(
            f"the card of {repo_id} is kept, but its privacy statement is of another push; correct "
            "it, or replace the card with overwrite_card=True (--overwrite-card)",
            stacklevel=4,
        )
