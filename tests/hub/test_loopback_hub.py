"""The loopback Hub works with the real client as the real Hub does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import (
    HfApi,
    close_session,
    get_session,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback_hub import OWNER, READER, LoopbackHub

# The client's own way to upload large files, in 2.4.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "owner/flow"
SMALL = b'{"a": 1}\n'
LARGE = bytes(range(256)) * 400  # held as a large file for its name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "config.json").write_bytes(SMALL)
    (made / "model.safetensors").write_bytes(LARGE)
    card = "---\nlibrary_name: nfaug\ntags:\n- nfaug\n- flow\n---\n# A flow\n"
    (made / "README.md").write_text(card)
    return made


def test_create_push_list_pull(hub: LoopbackHub, folder: Path) -> None:
    api = HfApi()
    assert api.whoami()["name"] == "owner"
    assert api.create_repo("flow").repo_id == REPO
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    first = api.upload_folder(repo_id=REPO, folder_path=folder)
    assert api.upload_folder(repo_id=REPO, folder_path=folder).oid == first.oid  # nothing changed
    names = ["README.md", "config.json", "model.safetensors"]
    assert sorted(api.list_repo_files(REPO)) == [".gitattributes", *names]
    assert [info.id for info in api.list_models(filter="nfaug")] == [REPO]
    assert not list(api.list_models(filter="diffusers"))
    pulled = Path(snapshot_download(REPO, allow_patterns=names))
    assert sorted(os.listdir(pulled)) == names
    for name in names:
        assert (pulled / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(hub.fetched()) == names


def test_revisions_tags_and_deletion(hub: LoopbackHub) -> None:
    api = HfApi()
    old = hub.add(REPO, {"config.json": b"old"})
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="dev")
    hub.add(REPO, {"config.json": b"new"})
    refs = api.list_repo_refs(REPO)
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1", old)]
    assert {branch.name for branch in refs.branches} == {"main", "dev"}
    for revision, content in (("v1", b"old"), (old, b"old"), ("dev", b"old"), (None, b"new")):
        path = hf_hub_download(REPO, "config.json", revision=revision)
        assert Path(path).read_bytes() == content
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1")
    api.create_tag(REPO, tag="v1", exist_ok=True)
    api.delete_tag(REPO, tag="v1")
    api.delete_branch(REPO, branch="dev")
    assert not api.list_repo_refs(REPO).tags
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)


def test_refusals(hub: LoopbackHub) -> None:
    hub.add(REPO, {"config.json": SMALL})
    hub.add("owner/private", {"config.json": SMALL}, private=True)
    hub.add("owner/gated", {"config.json": SMALL}, gated=True)
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (RepositoryNotFoundError, "owner/none", {}),
        (RepositoryNotFoundError, "owner/none", {"token": False}),
        (RepositoryNotFoundError, "owner/private", {"token": READER}),
        (RepositoryNotFoundError, "owner/private", {"token": False}),
        (GatedRepoError, "owner/gated", {"token": READER}),
        (GatedRepoError, "owner/gated", {"token": False}),
        (RevisionNotFoundError, REPO, {"revision": "v9"}),
        (HfHubHTTPError, REPO, {"token": "hf_wrong"}),
    ]
    for error, repo_id, options in cases:
        with pytest.raises(error):
            hf_hub_download(repo_id, "config.json", **options)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "model.safetensors")
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token=READER).create_repo("owner/new")


def test_faults(hub: LoopbackHub) -> None:
    hub.add(REPO, {"config.json": SMALL, "model.safetensors": LARGE})

    def pulled() -> bytes:
        path = hf_hub_download(REPO, "model.safetensors", force_download=True)
        return Path(path).read_bytes()

    assert pulled() == LARGE
    hub.fail(r"/lfs/.*/model.safetensors", cut=1000)
    with pytest.raises(Exception, match=f"{len(LARGE)}"):
        get_session().get(hf_hub_url(REPO, "model.safetensors"))
    hub.fail(r"/lfs/.*/model.safetensors", flip=7)
    assert pulled() == LARGE[:7] + bytes([LARGE[7] ^ 1]) + LARGE[8:]  # and nobody notices
    hub.fail(r"/lfs/.*/model.safetensors", method="GET", status=500)
    with pytest.raises(HfHubHTTPError, match="500"):
        pulled()
    hub.fail(r"/lfs/.*/model.safetensors", method="GET", cut=1000, reset=True)
    with pytest.raises(Exception, match="reset"):
        pulled()
    hub.fail(r"/api/models/owner/flow", die=True)
    with pytest.raises(Exception, match=r"disconnected|reset"):
        snapshot_download(REPO, allow_patterns="none")
    close_session()
    with pytest.raises(LocalEntryNotFoundError, match="internet connection"):
        snapshot_download(REPO, revision="main", cache_dir="/nonexistent")


def test_reach_and_ranges(hub: LoopbackHub) -> None:
    """A client in another process finds it by environment variables and can resume."""
    hub.add(REPO, {"model.safetensors": LARGE}, private=True)
    code = (
        "import huggingface_hub as h; from huggingface_hub.utils import get_session as s;"
        f"p = h.hf_hub_download({REPO!r}, 'model.safetensors'); print(len(open(p, 'rb').read()));"
        f"u = h.hf_hub_url({REPO!r}, 'model.safetensors');"
        "r = s().get(u, headers={'Range': 'bytes=10-19', 'Authorization': 'Bearer "
        f"{OWNER}'}}); print(r.status_code, r.content.hex())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(len(LARGE)), "206", LARGE[10:20].hex()]
