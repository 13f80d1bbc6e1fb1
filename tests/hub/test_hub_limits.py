"""What is refused before it is downloaded, and what is never deleted or published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoint_tools import sign, with_header
from hub_tools import REPO, RUNTIME
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from nfa_tools import NAMES

from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointError, load
from nfaug.flows.flow import Flow
from nfaug.hub import HubError, plan_push, pull, push_to_hub
from nfaug.io.hub import discard

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
BIG = 20 * 2**20


@pytest.mark.parametrize("name", [*RUNTIME])
def test_a_file_larger_than_the_configuration_allows_is_not_downloaded(
    name: str, pushed: LoopbackHub, tmp_path: Path
) -> None:
    files = pushed.files(REPO)
    pushed.add(REPO, {**files, name: files[name] + b" " * BIG})
    reads = [lambda: pull(REPO, local_dir=tmp_path / "out"), lambda: load(REPO)]
    if name in ("config.json", "model.safetensors"):
        reads.append(lambda: Flow.from_pretrained(REPO))
    for read in reads:
        with pytest.raises(HubError, match=name.partition(".")[0]):
            read()
    assert name not in pushed.fetched()
    kept = [path for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < BIG


def test_shards_are_bounded_together(pushed: LoopbackHub, mine: Path) -> None:
    Checkpoint.load(mine).save(mine, overwrite=True, shard_bytes=1)
    shards = sorted(path.name for path in mine.glob("pca-*"))
    files = {path.name: path.read_bytes() for path in mine.iterdir() if path.is_file()}
    assert len(shards) > 1
    each = 2**23 // len(shards) + 2**22  # beyond the headers that they may have, all together
    pushed.add(REPO, {**files, **{name: files[name] + b" " * each for name in shards}})
    with pytest.raises(HubError, match="pca"):
        pull(REPO)
    assert not [name for name in pushed.fetched() if name in shards]


def test_a_large_card_is_left_out(pushed: LoopbackHub, tmp_path: Path) -> None:
    pushed.add(REPO, {**pushed.files(REPO), "README.md": b" " * 2**21})
    with pytest.warns(UserWarning, match=r"README\.md"):
        folder = pull(REPO, local_dir=tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*RUNTIME, "samples.png"])
    assert "README.md" not in pushed.fetched()


def test_what_cannot_be_loaded_replaces_nothing(
    pushed: LoopbackHub, mine: Path, tmp_path: Path
) -> None:
    """The hashes are right, and the weights are those of no flow."""
    out = pull(REPO, local_dir=tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    header = {"a": {"dtype": "F32", "shape": [10**4], "data_offsets": [0, 4 * 10**4]}}
    (mine / "model.safetensors").write_bytes(with_header(header, b"\0" * 4 * 10**4))
    sign(mine)
    pushed.add(REPO, {name: (mine / name).read_bytes() for name in RUNTIME})
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        pull(REPO, local_dir=out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert Checkpoint.load(out).config.class_names == NAMES
    commit = pushed.repos[REPO].history[-1]
    kept = Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/{commit}/*")
    assert not list(kept), "what was refused is not kept"


@pytest.mark.parametrize("linked", ["snapshot", "blob"])
def test_nothing_outside_the_cache_is_deleted(
    linked: str, pushed: LoopbackHub, tmp_path: Path
) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("mine")
    folder = pull(REPO)
    path = folder / "model.safetensors"
    if linked == "blob":
        path = path.parent / path.readlink()
    path.unlink()
    path.symlink_to(thesis)
    pushed.fail("(lfs|resolve)/.*model", method="GET", flip=150, times=None)
    if linked == "blob":
        with pytest.raises(HubError, match=r"model\.safetensors"):
            pull(REPO)
        assert not (folder / "model.safetensors").exists()
    else:  # the blob is intact
        assert Checkpoint.load(pull(REPO)).config.class_names == NAMES
        path.unlink()
    assert thesis.read_text() == "mine"
    path.symlink_to(thesis)
    discard(folder, ["model.safetensors"])
    assert thesis.read_text() == "mine"
    assert not (folder / "model.safetensors").exists()
    pushed.faults.clear()
    assert Checkpoint.load(pull(REPO)).config.class_names == NAMES


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "samples.png", "README.md"])
def test_a_link_that_leaves_the_folder_is_not_pushed(
    name: str, hub: LoopbackHub, mine: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    if (mine / name).exists():
        shutil.move(mine / name, key)
    else:
        key.write_text("secret")
    (mine / name).symlink_to(key)
    with pytest.raises(ValueError, match=name):
        push_to_hub(mine, REPO)
    assert not hub.repos


def test_a_link_inside_the_folder_is_pushed(hub: LoopbackHub, mine: Path) -> None:
    shutil.move(mine / "samples.png", mine / "training" / "drawn.png")
    (mine / "samples.png").symlink_to("training/drawn.png")
    push_to_hub(mine, REPO)
    assert hub.files(REPO)["samples.png"] == (mine / "training" / "drawn.png").read_bytes()


def test_a_checkpoint_from_the_cache_is_pushed(pushed: LoopbackHub) -> None:
    """Files of the cache are links to its blobs."""
    push_to_hub(pull(REPO), "owner/copy")
    assert sorted(pushed.files("owner/copy"))[-1] == "pca.safetensors"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_shards_of_an_autoencoder_are_checked_before_they_are_downloaded(
    hub: LoopbackHub,
) -> None:
    from diffusers import AutoencoderKL

    from nfaug.flows.autoencoder import fetch_autoencoder

    kinds = {"DownEncoderBlock2D": "down_block_types", "UpDecoderBlock2D": "up_block_types"}
    blocks: dict[str, Any] = {name: [kind] for kind, name in kinds.items()}
    config = {**blocks, "block_out_channels": [4], "norm_num_groups": 2, "latent_channels": 2}
    text = json.dumps({"_class_name": "AutoencoderKL", **config}).encode()
    assert AutoencoderKL.from_config(json.loads(text))
    shards = {
        f"diffusion_pytorch_model-{n:05}-of-00030.safetensors": b"\0" * 2**20 for n in range(30)
    }
    hub.add("owner/vae", {"config.json": text, **shards})
    with pytest.raises(ValueError, match="owner/vae"):
        fetch_autoencoder("owner/vae")
    assert set(hub.fetched()) == {"config.json"}
    hub.add("owner/else", {"config.json": b'{"_class_name": "Other"}', **shards})
    with pytest.raises(ValueError, match="Other"):
        fetch_autoencoder("owner/else")
    assert set(hub.fetched()) == {"config.json"}


def test_a_dry_run_checks_what_a_push_checks(hub: LoopbackHub, made: Path) -> None:
    for call in (plan_push, push_to_hub):
        with pytest.raises(ValueError, match="Apache-2"):
            call(made, REPO, license="Apache-2")
        with pytest.raises(ValueError, match="a/b/c"):
            call(made, "a/b/c")
    assert not hub.repos
    assert plan_push(made, REPO, license="mit").card.startswith("---")


def test_a_push_lists_what_it_pushes(hub: LoopbackHub, made: Path) -> None:
    found: dict[str, int] = {}
    push_to_hub(made, REPO, listing=found.update)
    held = {name: len(data) for name, data in hub.files(REPO).items()}
    assert {".gitattributes": held[".gitattributes"], **found} == held
