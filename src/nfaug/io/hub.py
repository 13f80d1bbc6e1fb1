"""Files of the Hugging Face Hub, and one readable error for what its client raises.

Whatever answers at HF_ENDPOINT may be hostile. So what it says is checked before it names a file or
is believed, and no answer is read without a limit: files are downloaded here, into the layout of
the client's cache, and not by the client, which joins names of the server to its paths.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    HFValidationError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers, tqdm

from .atomic import write_text
from .hub_options import HubOptions
from .strict_json import LONGEST
from .text import printable
from .version import __version__

_MOST_TENSORS = 2**36  # bytes of a safetensors file
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"\w[\w.-]*", re.ASCII)  # the SHA of a file, or what a mirror has in its place
_LIBRARY: dict[str, Any] = {"library_name": "nfaug", "library_version": __version__}


class HubError(OSError):
    """A repository could not be read or written; the message says why and what to do.

    Example:
        >>> import nfaug
        >>> from nfaug.hub import HubError
        >>> try:
        ...     nfaug.load("nobody/no-such-checkpoint", local_files_only=True)
        ... except HubError as error:
        ...     print("nobody/no-such-checkpoint" in str(error))
        True
    """


@contextlib.contextmanager
def hub_errors(what: str, options: HubOptions | None = None) -> Iterator[None]:
    """Turn what the client raises about `what`, such as a repository, into a HubError.

    The error names the Hub's address. Text of the server is shown without control characters.
    """
    try:
        yield
    except (HubError, HFValidationError, UserWarning):
        raise  # HFValidationError explains the form of a name
    except Exception as error:  # the client and its HTTP library have dozens of types
        options = options or HubOptions()
        subject = what if options.revision is None else f"{what} (revision {options.revision!r})"
        cache = options.cache_dir or constants.HF_HUB_CACHE
        reason = f"{type(error).__name__}: {printable(error, longest=1000)}"
        raise HubError(
            f"{subject} at {constants.ENDPOINT}: {reason}. Check the name, the network "
            "(HF_HUB_OFFLINE, HF_ENDPOINT), the token ('hf auth login' or HF_TOKEN) and the space "
            f"in the cache {cache}, then try again"
        ) from error


class _RemoteFile(NamedTuple):
    """A file of a repository: its name, the name of its content in the cache, and its bytes."""

    name: str
    blob: str
    size: int


def download(
    repo_id: str,
    names: Iterable[str],
    options: HubOptions | None = None,
) -> Path:
    """Download files into the client's cache and return their folder.

    All files are those of one commit. At most as many bytes are read of a file as the Hub says that
    it has, and it may have 16 MiB, the most that is read of JSON, or 64 GiB if it is a safetensors
    file. Without a network the files that the cache holds are used, but for `force_download`.

    Args:
        repo_id: "owner/name".
        names: Names of files; those that do not exist are left out.
        options: Revision, token, cache and the like.

    Raises:
        HubError: The repository cannot be read, a file is too large, or an answer makes no sense.
        ValueError: `repo_id` is not a repository name.
    """
    wanted = list(names)
    options = options or HubOptions()
    revision = options.revision or constants.DEFAULT_REVISION
    cache = Path(options.cache_dir or constants.HF_HUB_CACHE).expanduser()
    home = cache / f"models--{repo_id.replace('/', '--')}"
    with hub_errors(repo_id, options):
        for path in (*wanted, revision):
            hf_hub_url(repo_id, path)  # checks the name of the repository
            _check_path(repo_id, path)
        if options.local_files_only:
            return _cached(home, revision, wanted)
        try:
            commit, files = _find(repo_id, wanted, revision, options)
        except (HubError, RevisionNotFoundError):
            raise
        # The client and its HTTP library have dozens of types for a network or a Hub that does not
        # answer. As the client does, this then reads the cache.
        except Exception as unreachable:
            if options.force_download:
                raise
            try:
                return _cached(home, revision, wanted)
            except FileNotFoundError:
                raise unreachable from None
        _check_sizes(repo_id, files)
        folder = home / "snapshots" / commit
        for file in files:
            if options.force_download or not (folder / file.name).exists():
                _fetch(repo_id, commit, file, home, options)
        ref = home / "refs" / revision
        if revision != commit and not (ref.is_file() and ref.read_text() == commit):
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_text(ref, commit)
        return folder


def _check_path(repo_id: str, path: str) -> None:
    """Raise HubError unless a file or a revision stays below the folder that it is joined to."""
    parts = path.split("/")
    if re.search(r"[\\:]", path) or not all(part.strip(".") for part in parts):
        raise _refused(repo_id, f"{path!r} is no path of a file and no revision")


def _refused(repo_id: str, reason: str) -> HubError:
    """The error about an answer that must not be used."""
    return HubError(f"{repo_id} at {constants.ENDPOINT}: {printable(reason, longest=1000)}")


def _find(
    repo_id: str, names: list[str], revision: str, options: HubOptions
) -> tuple[str, list[_RemoteFile]]:
    """The commit of a revision, and those of the files that it has.

    Raises:
        HubError: An answer names no commit or another one, no hash, or no size.
    """
    commit = revision if _COMMIT.fullmatch(revision) else None
    files = []
    for name in names:
        url = hf_hub_url(repo_id, name, revision=commit or revision)
        found = None
        try:
            found = get_hf_file_metadata(url, token=options.token, **_LIBRARY)
            answered = found.commit_hash
        except RemoteEntryNotFoundError as error:
            answered = error.response.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
            answered = answered or commit
        if answered is None or not _COMMIT.fullmatch(answered) or commit not in (None, answered):
            reason = f"the answer names the commit {answered!r}; expected {commit or 'a hash'}"
            raise _refused(repo_id, reason)
        commit = answered
        if found is None:
            continue
        if found.etag is None or not _BLOB.fullmatch(found.etag) or found.size is None:
            reason = f"{name} has the ETag {found.etag!r} and {found.size} bytes"
            raise _refused(repo_id, f"{reason}; expected a hash and a number")
        files.append(_RemoteFile(name, found.etag, found.size))
    assert commit is not None  # there is a name
    return commit, files


def _check_sizes(repo_id: str, files: list[_RemoteFile]) -> None:
    """Raise HubError if files have more bytes than `download` says."""
    for file in files:
        limit = _MOST_TENSORS if file.name.endswith(".safetensors") else LONGEST
        if file.size > limit:
            raise _refused(
                repo_id,
                f"{file.name} has {file.size:,} bytes, and at most {limit:,} are downloaded: "
                "choose another repository or revision",
            )


@contextlib.contextmanager
def _answer(repo_id: str, url: str, options: HubOptions) -> Iterator[Any]:
    """The answer to a GET, to be read in parts.

    Raises:
        HubError: Its status is not 200. The body of such an answer is not read.
    """
    headers = build_hf_headers(token=options.token, **_LIBRARY)
    headers["Accept-Encoding"] = "identity"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream(
        "GET", url, headers=headers, timeout=timeout, follow_redirects=True
    ) as answer:
        if answer.status_code != 200:
            code = answer.headers.get("X-Error-Code", answer.reason_phrase)
            raise _refused(repo_id, f"the answer to {url} is {answer.status_code} {code}")
        yield answer


def _fetch(repo_id: str, commit: str, file: _RemoteFile, home: Path, options: HubOptions) -> None:
    """Bring a file of a commit into the cache of a repository.

    Of processes that start together one downloads, and the others wait: a file must not be replaced
    while another process reads it.
    """
    pointer = home / "snapshots" / commit / file.name
    blob = home / "blobs" / file.blob
    lock = home.parent / ".locks" / home.name / f"{file.blob}.lock"  # where the client has its own
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if pointer.exists() and not options.force_download:
            return  # another process brought it
        if options.force_download or not blob.exists():
            url = hf_hub_url(repo_id, file.name, revision=commit)
            _save(repo_id, url, file, blob, options)
        _link(pointer, blob)


def _save(repo_id: str, url: str, file: _RemoteFile, blob: Path, options: HubOptions) -> None:
    """Download a file to `blob`, through a temporary file beside it.

    Raises:
        HubError: It has more or fewer bytes than the Hub said; no more are read.
    """
    blob.parent.mkdir(parents=True, exist_ok=True)
    temporary = blob.with_name(f"{blob.name}.{secrets.token_hex(4)}.incomplete")
    received = 0
    try:
        with (
            _answer(repo_id, url, options) as answer,
            temporary.open("xb") as out,
            tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, delay=1) as bar,
        ):
            for chunk in answer.iter_bytes():
                received += len(chunk)
                if received > file.size:
                    break
                out.write(chunk)
                bar.update(len(chunk))
        if received != file.size:
            count = "more" if received > file.size else f"{received:,}"
            reason = f"{file.name} has {file.size:,} bytes, and {count} arrived: try again"
            raise _refused(repo_id, reason)
        temporary.replace(blob)
    finally:
        temporary.unlink(missing_ok=True)


def _link(pointer: Path, blob: Path) -> None:
    """Make a file of a snapshot a link to this content, or a copy of it."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    staged = pointer.with_name(f".{pointer.name}.{secrets.token_hex(4)}")
    try:
        staged.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # on Windows, links are a privilege
        shutil.copyfile(blob, staged)
    staged.replace(pointer)


def _cached(home: Path, revision: str, names: list[str]) -> Path:
    """The folder of a revision in the cache of a repository.

    Raises:
        FileNotFoundError: The cache has none of the files of these names.
    """
    ref = home / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    folder = home / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not any((folder / name).is_file() for name in names):
        raise FileNotFoundError(f"the cache has no {' and no '.join(names)} of {revision!r}")
    return folder
