"""Push a checkpoint to the Hub: one commit with configuration, tensors, card and picture."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import validate_repo_id  # documented
from torch import Tensor

from nfaug.checkpoint.checkpoint import Checkpoint, read_checkpoint
from nfaug.checkpoint.manifest import PICTURE, TENSOR_FILES
from nfaug.io.hub import HubError, download, hub_errors
from nfaug.io.hub_options import HubOptions
from nfaug.pictures.preview import sample_grid

from .card import make_card, set_privacy

CARD: str = "README.md"
FEWEST: int = 8  # images of a class, below which its mean shows them


class PushPlan(NamedTuple):
    """What a push contains.

    Attributes:
        files: Size in bytes of each file, by name.
        card: Text of the card.
    """

    files: dict[str, int]
    card: str


def push_to_hub(
    checkpoint: Checkpoint | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    memory: bool = True,
    commit_message: str = "Push a flow with nfaug",
    overwrite_card: bool = False,
    license: str | None = None,
    about_data: str | None = None,
) -> str:
    """Push a checkpoint to the Hub, as one commit.

    The repository and the branch are created if necessary. A push contains the configuration, the
    tensors, the card and the picture, and no other file of a folder. Without a change there is
    no commit. An interrupted push changes nothing and can be repeated.

    Args:
        checkpoint: A `Checkpoint`, or the folder of one. The README.md of a folder is the
            card; without one a card is generated.
        repo_id: "owner/name".
        private: Whether a new repository is private; None for the default of the account.
        revision: The branch; the main branch by default.
        token: Access token with write permission; None for the one that is logged in.
        memory: With False only the flow is pushed: no memory, no axes, nothing else that a fit
            found, and no image. From the mean and the axes of a class, its unusual images can
            nearly be rebuilt. After a training its class Gaussians go with it, and a picture of
            samples; a Gaussian of fewer than 8 images is an error, since its mean shows them.
            Earlier pushes stay in the history.
        commit_message: Summary line of the commit.
        overwrite_card: Replace the README.md of the repository. Otherwise it is kept, and only its
            privacy statement is brought up to date. A warning says so if the card that is pushed is
            not the generated one.
        license: The Hub's identifier of the license for a generated card, such as "mit".
        about_data: What the training images are and their terms of use, for a generated card.

    Returns:
        The address of the commit.

    Raises:
        ValueError: `repo_id` is not a repository name, the card or the picture is a link, the
            checkpoint cannot be saved, or `memory` is False and there is no flow to push, or a
            class had fewer than 8 images in its training.
        CheckpointError: The folder is not a checkpoint, or it is damaged.
        HubError: The repository cannot be written, or is public in spite of `private`.

    Example:
        >>> from nfaug.hub import push_to_hub
        >>> push_to_hub("my-nfa", "OWNER/my-nfa", memory=False)  # doctest: +SKIP
        'https://huggingface.co/OWNER/my-nfa/commit/...'
        >>> push_to_hub("my-nfa", "my-nfa")
        Traceback (most recent call last):
        ...
        ValueError: ...
    """
    _check_name(repo_id)
    options = HubOptions(revision=revision, token=token, force_download=True)
    api = HfApi(token=options.token, library_name="nfaug")
    with (
        _staged(checkpoint, repo_id, memory, license, about_data) as (staged, generated_card),
        hub_errors(repo_id, options),
    ):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise HubError(f"{repo_id} exists and is public: make it private on the Hub first")
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        remote_names = api.list_repo_files(repo_id, revision=revision)
        card = (staged / CARD).read_bytes().decode()
        if CARD in remote_names and not overwrite_card:
            found = download(repo_id, [CARD], options)  # never an older one of the cache
            remote_card = found[CARD].read_bytes().decode("utf-8", errors="replace")
            card = set_privacy(remote_card, generated_card)
            (staged / CARD).write_bytes(card.encode())
        _warn_of_card(card, generated_card)
        names = sorted(entry.name for entry in staged.iterdir())
        operations: list[Any] = []
        for name in names:
            operations.append(CommitOperationAdd(name, str(staged / name)))
        for name in sorted({PICTURE, *TENSOR_FILES}):
            if name in remote_names and name not in names:  # of an earlier push
                operations.append(CommitOperationDelete(name))
        # One commit of all files; `upload_folder` could make several.
        commit = api.create_commit(
            repo_id, operations, commit_message=commit_message, revision=revision
        )
    return commit.commit_url


def plan_push(
    checkpoint: Checkpoint | str | Path,
    repo_id: str = "owner/name",
    *,
    memory: bool = True,
    license: str | None = None,
    about_data: str | None = None,
) -> PushPlan:
    """Check and list what `push_to_hub` would push, without contacting the Hub.

    An existing card of the repository would be kept, so the card may be listed and not pushed.
    Arguments and errors are those of `push_to_hub`.
    """
    _check_name(repo_id)
    with _staged(checkpoint, repo_id, memory, license, about_data) as (staged, generated_card):
        sizes = {entry.name: entry.stat().st_size for entry in sorted(staged.iterdir())}
        card = (staged / CARD).read_text(encoding="utf-8")
        _warn_of_card(card, generated_card)
        return PushPlan(sizes, card)


def _check_name(repo_id: str) -> None:
    validate_repo_id(repo_id)
    if "/" not in repo_id:  # the card tells others what to load
        raise ValueError(f"pass owner/name, with your account or organisation; got {repo_id!r}")


def _flow_alone(checkpoint: Checkpoint) -> Checkpoint:
    """The flow and the class Gaussians of its training, without what a fit found.

    Raises:
        ValueError: There is no flow, or a Gaussian is of so few images that its mean shows them.
    """
    if not checkpoint.config.flow.parameter_count:
        raise ValueError(
            "memory=False (--no-memory) pushes the flow alone, and this checkpoint has none: in "
            "pixels and on latents it holds what was fitted to your images. Push it with the "
            "memory to a private repository, or let others fit to their own images"
        )
    found = checkpoint.config.gaussians
    if found.get("fitted"):
        base = {"flow": found["flow"]} if "flow" in found else {}
        config = replace(checkpoint.config, classes=(), gaussians=base, metrics={})
        return replace(checkpoint, config=config, gaussians=None, pca=None)
    if checkpoint.gaussians is not None:
        _check_counts(checkpoint.gaussians.counts, checkpoint.config.classes)
    return replace(checkpoint, pca=None)


def _check_counts(counts: Tensor, classes: Sequence[str]) -> None:
    """Raise ValueError if the mean of a class shows its images.

    That of a single image is the image, bit for bit.
    """
    small = ((counts > 0) & (counts < FEWEST)).nonzero().flatten().tolist()
    if not small:
        return
    number = int(counts[small[0]])
    name = (classes or ("all images",))[small[0]]  # a flow without classes has one Gaussian
    more = f", and {len(small) - 1} more classes have fewer than {FEWEST}"
    raise ValueError(
        "memory=False (--no-memory) leaves out the memory, but the Gaussian of a class stays, and "
        f"the mean of few images shows them: class {name!r} has {number} "
        f"image{'s' if number > 1 else ''}{more if small[1:] else ''}. Train without such classes "
        f"or with {FEWEST} images of each, or push with the memory to a private repository"
    )


def _samples_picture(checkpoint: Checkpoint) -> bytes:
    """A picture of samples as PNG, a row for each of ten classes; empty if none should be drawn.

    None is drawn of classes with few images, whose means look like these images; of a flow without
    parameters, which draws the class mean; and of a flow on latents, whose autoencoder may not be
    here.
    """
    config = checkpoint.config
    gaussians = checkpoint.gaussians
    classes = config.classes[:10]
    if gaussians is None or not classes:
        return b""
    if config.autoencoder or not config.flow.parameter_count:
        return b""
    if int(gaussians.counts.min()) < FEWEST:
        return b""
    picture = sample_grid(checkpoint.flow, gaussians, classes, 8, temperature=0.7)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _read_card_and_picture(directory: Path) -> dict[str, bytes]:
    """The contents of card and picture in a directory, by file name, as far as they exist."""
    contents = {}
    for file in (directory / CARD, directory / PICTURE):
        if file.is_symlink():  # it might publish a file from elsewhere
            raise ValueError(f"{file} is a link and is not pushed; put a copy in its place")
        if file.is_file():
            contents[file.name] = file.read_bytes()
    return contents


def _warn_of_card(card: str, generated: str) -> None:
    """Warn of a card that somebody wrote or that an earlier push generated."""
    if card.splitlines() != generated.splitlines():
        warnings.warn(
            f"{CARD} is kept: check its classes, figures and license, and what it says of "
            "training images; or have it generated again, without the one in the folder and with "
            "overwrite_card=True (--overwrite-card)",
            stacklevel=3,
        )


@contextlib.contextmanager
def _staged(
    checkpoint: Checkpoint | str | Path,
    repo_id: str,
    memory: bool,
    license: str | None,
    about_data: str | None,
) -> Iterator[tuple[Path, str]]:
    """Yield a temporary directory with exactly the files to push, and a generated card."""
    own_files: dict[str, bytes] = {}
    if not isinstance(checkpoint, Checkpoint):
        directory = Path(checkpoint).expanduser()
        own_files = _read_card_and_picture(directory)
        checkpoint = read_checkpoint(directory, on_latents=False)  # refuses a damaged one
    if not memory:
        checkpoint = _flow_alone(checkpoint)
        own_files.pop(PICTURE, None)
    picture = own_files.get(PICTURE) or _samples_picture(checkpoint)
    shows: Literal["images", "samples"] | None = None
    if PICTURE in own_files:
        shows = "images"
    elif picture:
        shows = "samples"
    generated_card = make_card(
        checkpoint.config,
        checkpoint.pca,
        repo_id,
        picture=shows,
        license=license,
        about_data=about_data,
    )
    card = generated_card
    if CARD in own_files:
        card = set_privacy(own_files[CARD].decode("utf-8", errors="replace"), generated_card)
    with tempfile.TemporaryDirectory(prefix="nfaug-push-") as folder:
        staged = checkpoint.save(Path(folder) / "checkpoint")
        (staged / CARD).write_text(card, encoding="utf-8")
        if picture:
            (staged / PICTURE).write_bytes(picture)
        yield staged, generated_card
