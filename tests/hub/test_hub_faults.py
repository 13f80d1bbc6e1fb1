"""Faults of network, server, disk and repository, with the real client."""

from __future__ import annotations

import contextlib
import json
import pickle
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_tools import sign
from hub_tools import KEEPS_PARTS, REPO, RUNTIME, TENSORS, cached, damage, snapshot_names
from huggingface_hub import constants
from loopback_hub import READER, LoopbackHub
from nfa_tools import NAMES

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointError
from nfaug.hub import HubError, plan_push, pull, push_to_hub

# The client's own way to upload large files, in 2.4.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


# A transient fault must end in success, any other fault in one clear error. Partial or damaged
# files must not stay behind.

PASSING: dict[str, list[dict[str, Any]]] = {
    "cut anywhere": [
        {"path": rf"/lfs/\w+/{name}", "method": "GET", "cut": cut}
        for name, cut in zip(TENSORS, (0, 100, 2000), strict=True)
    ]
    + [{"path": "resolve/.*/config.json", "method": "GET", "cut": 100}],
    "reset": [{"path": r"/lfs/\w+/model", "method": "GET", "cut": 1000, "reset": True}],
    "429 on the listing": [
        {"path": "/api/models/owner/flow", "status": 429, "headers": {"Retry-After": "0"}}
    ],
    "429 on a file": [
        {"path": r"/lfs/\w+/pca", "method": "GET", "status": 429, "headers": {"Retry-After": "0"}}
    ],
    "500 on a file": [{"path": r"/lfs/\w+/model", "method": "GET", "status": 500}],
    "503 on the listing": [
        {"path": "/flow/(tree|revision)/", "status": 503, "headers": {"Retry-After": "0"}}
    ],
    "flipped": [
        {"path": rf"/lfs/\w+/{name}", "method": "GET", "flip": flip}
        for name, flip in zip(TENSORS, (3, 300, -1), strict=True)
    ],
}


@pytest.mark.parametrize("name", PASSING)
def test_passing_faults_end_in_success(name: str, pushed: LoopbackHub, made: Path) -> None:
    for fault in PASSING[name]:
        pushed.fail(**fault)
    folder = pull(REPO)
    assert all(fault.hits == 1 for fault in pushed.faults)
    for file in RUNTIME:
        assert (folder / file).read_bytes() == (made / file).read_bytes()


@pytest.mark.parametrize("name", TENSORS)
def test_a_file_damaged_for_good_is_named_and_not_kept(name: str, pushed: LoopbackHub) -> None:
    pushed.fail(rf"(lfs|resolve)/.*{name}", method="GET", flip=150, times=None)
    with pytest.raises(HubError, match=name):
        pull(REPO)
    assert name not in snapshot_names()
    assert len([asked for asked in pushed.fetched() if asked == name]) in (2, 4)  # with redirects
    pushed.faults.clear()
    assert nfaug.load(REPO).config.class_names == NAMES


def test_no_damaged_file_is_kept_where_several_are(pushed: LoopbackHub) -> None:
    pushed.fail("lfs/.*safetensors", method="GET", flip=150, times=None)
    with pytest.raises(HubError, match=r"(\w+\.safetensors(, )?){3}"):
        pull(REPO)
    assert snapshot_names() == ["config.json"]
    pushed.faults.clear()
    assert pull(REPO)


@pytest.mark.parametrize(
    ("fault", "options", "message"),
    [
        ({"path": "/api/models/", "status": 500}, {}, "500"),
        ({"path": "/api/models/", "status": 429}, {}, "429"),
        ({"path": "/api/models/", "cut": 0}, {}, "hub-cache"),
        ({"path": "none"}, {"token": "hf_wrong"}, "token"),
        ({"path": "none"}, {"repo_id": "owner/none"}, "owner/none"),
        ({"path": "none"}, {"repo_id": "owner/gated", "token": READER}, "gated: ask"),
        ({"path": "none"}, {"repo_id": "owner/else"}, r"config\.json"),
        ({"path": "none"}, {"repo_id": "owner/less"}, r"pca\.safetensors"),
    ],
)
def test_lasting_faults_end_in_one_clear_error(
    fault: dict[str, Any],
    options: dict[str, Any],
    message: str,
    pushed: LoopbackHub,
    tmp_path: Path,
) -> None:
    files = pushed.files(REPO)
    pushed.add("owner/gated", {"config.json": files["config.json"]}, gated=True)
    pushed.add("owner/else", {"pytorch_model.bin": b"pickle"})
    pushed.add("owner/less", {name: files[name] for name in RUNTIME if name != "pca.safetensors"})
    pushed.fail(**{"times": None, "headers": {"Retry-After": "0"}, **fault})
    with pytest.raises(HubError, match=message):
        pull(**{"repo_id": REPO, "local_dir": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()
    assert KEEPS_PARTS or not [name for name in cached() if "incomplete" in name]


@pytest.mark.parametrize("content", [b"<html>", b"{}", b'{"model_type": "bert"}'])
def test_a_configuration_of_something_else(content: bytes, hub: LoopbackHub) -> None:
    hub.add(REPO, {"config.json": content})
    for read in (pull, nfaug.load):
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read(REPO)
        assert not snapshot_names()


def test_no_network_and_a_cold_cache(hub: LoopbackHub, made: Path) -> None:
    hub.stop()
    with pytest.raises(HubError, match=r"ConnectError.*cache"):
        pull(REPO)
    with pytest.raises(HubError, match="push again"):
        push_to_hub(made, REPO)


def test_names_that_are_no_repository(hub: LoopbackHub, made: Path) -> None:
    for call in (lambda: pull("a/b/c"), lambda: push_to_hub(made, "a/b/c")):
        with pytest.raises(ValueError, match="a/b/c"):
            call()
    assert not hub.repos


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_pickle_and_no_foreign_name_is_ever_fetched(
    hub: LoopbackHub, mine: Path, tmp_path: Path
) -> None:
    """Only names that a checkpoint can have are downloaded from a repository."""
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "trap.pt")
    foreign = ["pytorch_model.bin", "model.bin", "model.pkl", "model.pt", "state/model.safetensors"]
    hub.add(REPO, {**dict.fromkeys(foreign, trap), **files_of(mine)})
    assert nfaug.load(REPO).config.class_names == NAMES
    assert sorted(set(hub.fetched())) == RUNTIME
    # Listed, in a configuration that is otherwise good.
    listed = ["../../evil.safetensors", "/etc/passwd", "*", *foreign]
    sign(mine, lambda values: values["files"].update(dict.fromkeys(listed, "0" * 64)))
    hub.add(REPO, files_of(mine))
    with pytest.raises(CheckpointError, match="files"):
        nfaug.load(REPO)
    assert sorted(set(hub.fetched())) == RUNTIME
    # Under a good name, and with its hash.
    for data in (trap, (tmp_path / "trap.pt").read_bytes()):
        (mine / "model.safetensors").write_bytes(data)
        sign(mine, lambda values: values.update(files=dict(list(values["files"].items())[:3])))
        hub.add(REPO, files_of(mine))
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            nfaug.load(REPO)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            push_to_hub(mine, REPO)
    assert not (tmp_path / "sprung").exists()


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RUNTIME}


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """A limit on file size fails in the middle of a write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_full(pushed: LoopbackHub, mine: Path, tmp_path: Path) -> None:
    out, size = tmp_path / "out", (mine / "model.safetensors").stat().st_size
    with full_disk(size - 1000), pytest.raises(HubError, match="large"):
        pull(REPO, local_dir=out)
    assert not out.exists()
    assert KEEPS_PARTS or not [*tmp_path.rglob("*incomplete*")]
    assert "model.safetensors" not in snapshot_names()
    folder = pull(REPO)  # and now while it is copied out of the cache
    with full_disk(size - 1000), pytest.raises(HubError, match=r"safetensors.*large"):
        pull(REPO, local_dir=out)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
    shutil.copytree(folder, out)
    with full_disk(size - 1000), pytest.raises(HubError, match="large"):
        pull(REPO, local_dir=out, overwrite=True)
    assert Checkpoint.load(out).config.class_names == NAMES, "what was there is whole"
    assert pull(REPO, local_dir=out, overwrite=True) == out
    with full_disk(size - 1000), pytest.raises(OSError, match=r"model\.safetensors"):
        push_to_hub(mine, REPO, memory=False)
    assert len(pushed.repos[REPO].history) == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".nfaug")]


def test_a_cache_that_cannot_be_used(
    pushed: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(HubError, match="HF_HUB_CACHE"):
        pull(REPO)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "fault",
    [
        {"path": "/commit/main", "lose_answer": True},
        {"path": "/commit/main", "status": 503, "headers": {"Retry-After": "0"}},
        {"path": "/commit/main", "die": True, "back_after": 0.2},
        {"path": "/upload/", "cut": 500},
        {"path": "/api/repos/create", "status": 429, "headers": {"Retry-After": "0"}},
    ],
)
def test_a_push_survives_what_passes(fault: dict[str, Any], hub: LoopbackHub, made: Path) -> None:
    """Also when the response to a successful commit is lost: it is not made twice."""
    asked = hub.fail(**fault)
    push_to_hub(made, REPO)
    assert asked.hits == 1
    assert len(hub.repos[REPO].history) == 2
    assert hub.files(REPO)["model.safetensors"] == (made / "model.safetensors").read_bytes()


def test_a_server_gone_half_way_through_a_push(pushed: LoopbackHub, mine: Path) -> None:
    found = Checkpoint.load(mine)
    with torch.no_grad():
        next(found.flow.parameters()).add_(1)
    picture = (mine / "samples.png").read_bytes()
    found.save(mine, overwrite=True)
    (mine / "samples.png").write_bytes(picture)
    before = pushed.files(REPO)
    pushed.fail("/commit/main", die=True)
    with pytest.raises(HubError, match="push again"):
        push_to_hub(mine, REPO)
    assert pushed.files(REPO) == before
    pushed.start()
    push_to_hub(mine, REPO)
    assert pushed.files(REPO)["model.safetensors"] == (mine / "model.safetensors").read_bytes()
    assert len(pushed.repos[REPO].history) == 3


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (READER, "refused"),
        ("hf_wrong", "HF_TOKEN"),
        (False, "HF_TOKEN"),
    ],
)
def test_a_push_that_is_not_allowed(
    token: str | bool, message: str, hub: LoopbackHub, made: Path
) -> None:
    with pytest.raises(HubError, match=message):
        push_to_hub(made, REPO, token=token)
    assert not hub.repos


def test_a_damaged_directory_is_not_pushed(hub: LoopbackHub, mine: Path) -> None:
    damage(mine / "pca.safetensors")
    for call in (lambda: push_to_hub(mine, REPO), lambda: plan_push(mine)):
        with pytest.raises(CheckpointError, match=r"pca\.safetensors"):
            call()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        push_to_hub(mine.parent, REPO)
    assert not hub.repos


# The long form.


@pytest.mark.soak
def test_cut_at_fifty_offsets(pushed: LoopbackHub, made: Path, tmp_path: Path) -> None:
    sizes = {name: (made / name).stat().st_size for name in RUNTIME}
    cuts = [(name, size * i // 13) for i in range(13) for name, size in sizes.items()]
    for i in range(0, len(cuts), 4):  # four files at a time: the client waits a second for each
        for name, cut in cuts[i : i + 4]:
            pushed.fail(rf"(lfs|resolve)/.*/{name}", method="GET", cut=cut, reset=bool(i % 3))
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
        folder = pull(REPO)
        for name in RUNTIME:
            assert (folder / name).read_bytes() == (made / name).read_bytes()
        pushed.faults.clear()


@pytest.mark.soak
def test_a_byte_flipped_anywhere(pushed: LoopbackHub, made: Path) -> None:
    for name in TENSORS:
        size = (made / name).stat().st_size
        for at in range(0, size, max(1, size // 25)):
            shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
            fault = pushed.fail(rf"(lfs|resolve)/.*/{name}", method="GET", flip=at)
            folder = pull(REPO)
            assert fault.hits
            assert (folder / name).read_bytes() == (made / name).read_bytes()


def retrain(folder: Path) -> None:
    """Other weights, with a picture beside them as before: the card on the Hub stays true."""
    picture = (folder / "samples.png").read_bytes()
    found = Checkpoint.load(folder)
    with torch.no_grad():
        next(found.flow.parameters()).add_(1)
    found.save(folder, overwrite=True)
    (folder / "samples.png").write_bytes(picture)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("path", "status"),
    [
        (r"/lfs/\w+/model", 429),
        (r"/lfs/\w+/model", 500),
        ("resolve/.*/config.json", 503),
        ("/tree/", 500),
        ("/upload/", 503),
    ],
)
def test_a_status_that_lasts(path: str, status: int, pushed: LoopbackHub, mine: Path) -> None:
    """This includes the client's own retries of half a minute."""
    retrain(mine)
    pushed.fail(path, status=status, times=None)
    with pytest.raises(HubError, match=f"{status}"):
        push_to_hub(mine, REPO) if path == "/upload/" else pull(REPO)
    assert KEEPS_PARTS or not [name for name in cached() if "incomplete" in name]
    pushed.faults.clear()
    push_to_hub(mine, REPO)
    assert json.loads((pull(REPO) / "config.json").read_bytes())["class_names"] == list(NAMES)


@pytest.mark.soak
@pytest.mark.parametrize("path", ["/preupload/", "/info/lfs/", "/upload/", "/verify", "/commit/"])
def test_a_server_gone_at_any_step_of_a_push(path: str, pushed: LoopbackHub, mine: Path) -> None:
    retrain(mine)
    before = pushed.files(REPO)
    pushed.fail(path, die=True)
    with pytest.raises(HubError, match="reached"):
        push_to_hub(mine, REPO)
    assert pushed.files(REPO) == before
    pushed.start()
    push_to_hub(mine, REPO)
    assert pushed.files(REPO)["model.safetensors"] == (mine / "model.safetensors").read_bytes()
