"""Push and pull with the real client against the loopback Hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import run_python
from hub_tools import REPO, RUNTIME, augmented, damage, snapshot_names
from huggingface_hub import HfApi, close_session, constants
from loopback_hub import OWNER, READER, LoopbackHub
from nfa_tools import batch_of
from nfa_tools import checkpoint as parts

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig, CheckpointError
from nfaug.hub import HubError, list_flows, plan_push, pull, push_to_hub

# Raised by the client's own upload of large files in 2.4.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_push_pull_augment_is_bit_identical(hub: LoopbackHub, made: Path) -> None:
    address = push_to_hub(made, REPO)
    assert address == f"{hub.endpoint}/{REPO}/commit/{hub.repos[REPO].branches['main']}"
    here = augmented(made)
    images, _ = batch_of(16)
    assert not torch.equal(here, images)
    assert torch.equal(here, augmented(REPO))
    assert snapshot_names() == RUNTIME, "the runtime fetches only what it needs"
    there = nfaug.load(REPO)
    assert there.config == nfaug.load(made).config
    assert torch.equal(there.flow.encode(images)[0], nfaug.load(made).flow.encode(images)[0])


def test_from_pretrained_everywhere(pushed: LoopbackHub, made: Path) -> None:
    """Of the flow, the transform and the checkpoint, and `load`; with revision and token."""
    readers = (
        *(nfaug.Flow.from_pretrained, nfaug.NFAugment.from_pretrained),
        *(nfaug.Checkpoint.from_pretrained, nfaug.load),
    )
    for read in readers:
        with pytest.raises(HubError, match="token"):
            read(REPO, token="hf_wrong")
    images, _ = batch_of(4)
    here = nfaug.load(made).flow
    flow = nfaug.Flow.from_pretrained(REPO)
    assert snapshot_names() == ["config.json", "model.safetensors"], "a flow needs no more"
    assert torch.equal(flow.encode(images)[0], here.encode(images)[0])
    assert not flow.training
    HfApi().create_tag(REPO, tag="v1")
    pushed.add(REPO, {"config.json": b"{}"})
    for read in readers:
        read(REPO, revision="v1")
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read(REPO)
        with pytest.raises(FileNotFoundError, match="owner/flow"):
            read("./owner/flow")


def test_no_training_state_is_fetched(pushed: LoopbackHub, tmp_path: Path) -> None:
    """A repository that was pushed by other means may hold one."""
    state = {f"{folder}/{name}": b"state" for folder in ("state", "a/b") for name in RUNTIME}
    pushed.add(REPO, {**state, "optimizer.safetensors": b"state", "training_args.bin": b"state"})
    nfaug.load(REPO)
    assert sorted(set(pushed.fetched())) == RUNTIME
    out = pull(REPO, local_dir=tmp_path / "out")
    assert sorted(os.listdir(out)) == sorted([*RUNTIME, "README.md", "samples.png"])
    assert sorted(set(pushed.fetched())) == sorted([*RUNTIME, "README.md", "samples.png"])


def test_shards_travel(hub: LoopbackHub, made: Path, tmp_path: Path) -> None:
    whole = Checkpoint.load(made)
    whole.save(tmp_path / "shards", shard_bytes=1)
    names = [f"pca-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    push_to_hub(tmp_path / "shards", REPO)
    assert set(names) < set(hub.files(REPO))
    assert torch.equal(augmented(REPO), augmented(made))
    assert set(names) < set(snapshot_names())
    damage(pull(REPO) / names[1])
    assert torch.equal(augmented(REPO), augmented(made)), "fetched again"
    with pytest.warns(UserWarning, match="privacy"):
        push_to_hub(tmp_path / "shards", REPO, memory=False)
    assert [name for name in hub.files(REPO) if name.startswith("pca")] == ["pca.safetensors"]


def test_a_directory_of_links_is_pushed_with_what_they_lead_to(
    pushed: LoopbackHub, made: Path, tmp_path: Path
) -> None:
    """As in the client's cache, or in a folder that links to files beside it."""
    first = pushed.repos[REPO].branches["main"]
    linked = tmp_path / "linked"
    (linked / "real").mkdir(parents=True)
    for name in [*RUNTIME, "samples.png"]:
        shutil.copyfile(made / name, linked / "real" / name)
        (linked / name).symlink_to(Path("real") / name)
    assert push_to_hub(linked, REPO).endswith(first)
    push_to_hub(pull(REPO), "owner/copy")
    assert {name: pushed.files("owner/copy")[name] for name in RUNTIME} == {
        name: (made / name).read_bytes() for name in RUNTIME
    }


def test_a_checkpoint_pushes_itself(hub: LoopbackHub, made: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(made)
    address = checkpoint.push_to_hub(REPO, license="mit", memory=False)
    assert address.endswith(hub.repos[REPO].branches["main"])
    assert b"license: mit" in hub.files(REPO)["README.md"]
    shared = Checkpoint.from_pretrained(REPO)
    assert shared.config == checkpoint.config
    assert shared.pca is not None
    assert not shared.pca.has_memory
    checkpoint.save_pretrained(tmp_path / "flow2", push_to_hub=True, private=True)
    assert hub.repos["owner/flow2"].private
    assert hub.files("owner/flow2")["model.safetensors"] == (
        (tmp_path / "flow2" / "model.safetensors").read_bytes()
    )


def test_only_what_was_meant_travels_in_one_commit(hub: LoopbackHub, made: Path) -> None:
    push_to_hub(made, REPO, commit_message="first")
    assert sorted(hub.files(REPO)) == sorted(
        [".gitattributes", "README.md", "samples.png", *RUNTIME]
    )
    assert len(hub.repos[REPO].history) == 2  # its creation, and the push
    for name in [*RUNTIME, "samples.png"]:
        assert hub.files(REPO)[name] == (made / name).read_bytes()
    plan = plan_push(made, REPO).files
    assert plan == {name: len(data) for name, data in hub.files(REPO).items() if name in plan}
    assert sorted(plan) == sorted([*RUNTIME, "README.md", "samples.png"])
    assert not [p for p in made.parent.iterdir() if p.name != "flow"], "nothing is left beside it"


def test_pushing_again_makes_no_commit(hub: LoopbackHub, made: Path) -> None:
    for memory in (True, False):
        first = push_to_hub(made, f"{REPO}-{memory}", memory=memory)
        assert push_to_hub(made, f"{REPO}-{memory}", memory=memory) == first
        assert len(hub.repos[f"{REPO}-{memory}"].history) == 2


def test_push_without_memory(hub: LoopbackHub, made: Path) -> None:
    assert (pca := nfaug.load(made).pca) is not None
    assert pca.has_memory
    push_to_hub(made, REPO)
    assert "samples.png" in hub.files(REPO)
    assert "holds a partner memory" in hub.files(REPO)["README.md"].decode()
    with pytest.warns(UserWarning, match="privacy"):
        push_to_hub(made, REPO, memory=False)
    push_to_hub(made, REPO, memory=False, overwrite_card=True)
    card = hub.files(REPO)["README.md"].decode()
    assert "The partner memory was left out." in card
    assert "samples.png" not in card
    assert "samples.png" not in hub.files(REPO)
    shared = nfaug.load(REPO).pca
    assert shared is not None
    assert not shared.has_memory
    assert "samples.png" not in plan_push(made, memory=False).files
    assert pca.has_memory, "the directory itself stays as it was"


def test_a_flow_without_classes_travels_too(hub: LoopbackHub, tmp_path: Path) -> None:
    flow = parts().flow
    Checkpoint(flow, CheckpointConfig(flow.config)).save(tmp_path / "bare")
    push_to_hub(tmp_path / "bare", REPO)
    push_to_hub(tmp_path / "bare", f"{REPO}2", memory=False)
    assert nfaug.load(REPO).pca is None
    assert snapshot_names() == ["config.json", "model.safetensors"]


def test_files_that_are_no_longer_there_go(pushed: LoopbackHub, mine: Path, made: Path) -> None:
    found = Checkpoint.load(mine)
    found.pca = None
    found.save(mine, overwrite=True)
    pushed.add(REPO, {"notes.txt": b"mine", "pca-00001-of-00002.safetensors": b"old"})
    with pytest.warns(UserWarning, match="privacy"):
        push_to_hub(mine, REPO)
    left = sorted(set(pushed.files(REPO)) - set(RUNTIME))
    assert left == [".gitattributes", "README.md", "notes.txt"], "the picture shows old axes"
    assert "pca.safetensors" not in pushed.files(REPO)


def test_cards_are_the_users(hub: LoopbackHub, mine: Path) -> None:
    (mine / "README.md").write_text("---\nlicense: mit\n---\n# My own words\n")
    push_to_hub(mine, REPO)
    assert hub.files(REPO)["README.md"] == (mine / "README.md").read_bytes()
    (mine / "README.md").write_text("# Others\n")
    with pytest.warns(UserWarning, match=r"README\.md"):
        push_to_hub(mine, REPO, license="mit")
    assert b"My own words" in hub.files(REPO)["README.md"], "kept unless asked"
    push_to_hub(mine, REPO, overwrite_card=True)
    assert hub.files(REPO)["README.md"] == b"# Others\n"


def test_branches_tags_and_revisions(pushed: LoopbackHub, mine: Path) -> None:
    HfApi().create_tag(REPO, tag="v1")
    first = nfaug.load(REPO).config
    found = Checkpoint.load(mine)
    found.config.training["epochs"] = 4
    found.save(mine, overwrite=True)
    push_to_hub(mine, REPO, revision="dev")
    assert nfaug.load(REPO).config == nfaug.load(REPO, revision="v1").config == first
    assert nfaug.load(REPO, revision="dev").config == found.config
    commit = pushed.repos[REPO].branches["dev"]
    assert nfaug.load(REPO, revision=commit).config == found.config
    with pytest.raises(HubError, match="'v2'"):
        pull(REPO, revision="v2")


def test_private_repositories_and_lists(hub: LoopbackHub, made: Path) -> None:
    push_to_hub(made, "flow", private=True)  # in the account that is logged in
    push_to_hub(made, "owner/open")
    hub.add("owner/other", {"config.json": b"{}"})
    assert hub.repos[REPO].private
    assert [(flow.repo_id, flow.private) for flow in list_flows()] == [
        (REPO, True),
        ("owner/open", False),
    ]
    assert [flow.repo_id for flow in list_flows(token=False)] == ["owner/open"]
    assert list_flows(author="reader") == []
    assert len(list_flows(limit=1)) == 1
    with pytest.raises(HubError, match="private"):
        pull(REPO, token=READER)


def test_pull_into_a_directory(pushed: LoopbackHub, made: Path, tmp_path: Path) -> None:
    out = pull(REPO, local_dir=tmp_path / "out")
    assert sorted(os.listdir(out)) == sorted([*RUNTIME, "README.md", "samples.png"])
    assert not any(path.is_symlink() for path in out.iterdir())
    assert torch.equal(augmented(out), augmented(made))
    with pytest.raises(FileExistsError, match="overwrite"):
        pull(REPO, local_dir=out)
    (out / "pca-00001-of-00002.safetensors").write_bytes(b"of another checkpoint")
    (out / "notes.txt").write_text("mine")
    pull(REPO, local_dir=out, overwrite=True)
    assert sorted(os.listdir(out)) == sorted([*RUNTIME, "README.md", "notes.txt", "samples.png"])
    push_to_hub(made, "owner/other", memory=False)  # which publishes no picture
    pull("owner/other", local_dir=out, overwrite=True)
    assert "samples.png" not in os.listdir(out), "it shows images of the flow before"


def test_a_warm_cache_needs_no_network(pushed: LoopbackHub, made: Path) -> None:
    folder = pull(REPO)
    asked = len(pushed.fetched())
    assert pull(REPO) == folder
    assert len(pushed.fetched()) == asked, "nothing is fetched twice"
    pushed.stop()
    close_session()
    assert pull(REPO) == folder
    assert torch.equal(augmented(REPO), augmented(made))


def test_offline(pushed: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        pull(REPO)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        list_flows()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = pull(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pull(REPO) == folder
    assert sorted(os.listdir(pull(REPO, local_dir=tmp_path / "out"))) == RUNTIME
    damage(folder / "model.safetensors")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        pull(REPO)
    assert "model.safetensors" not in snapshot_names()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert torch.isfinite(nfaug.load(pull(REPO)).flow.encode(batch_of(2)[0])[0]).all()


def test_the_clients_variables_hold(pushed: LoopbackHub, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE, as new processes see them."""
    pushed.repos[REPO].private = True
    code = (
        "import sys, nfaug.hub\n"
        "for repo in sys.argv[1:]:\n"
        "    try: print(nfaug.hub.pull(repo))\n"
        "    except nfaug.hub.HubError as error: print(error)\n"
    )

    def pulled(*repos: str, **variables: str) -> list[str]:
        environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "c"), **variables}
        return run_python(["-c", code, *repos], env=environment).stdout.splitlines()

    there = pulled(REPO, HF_TOKEN=OWNER)
    assert there[0].startswith(str(tmp_path / "c"))
    asked = len(pushed.requests)
    variables = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": ""}
    again, other = pulled(REPO, "owner/other", **variables)
    assert again == there[0]
    assert other.startswith("owner/other at http://127.0.0.1:9")
    assert "HF_HUB_OFFLINE" in other
    assert len(pushed.requests) == asked


@pytest.mark.soak
def test_cold_pull_of_a_flow_of_the_papers_size() -> None:
    """By the processor's time, since the clock counts whatever else the machine does."""
    benchmark = Path(__file__).parents[2] / "benchmarks" / "hub.py"
    command = [sys.executable, str(benchmark), "--rounds", "1"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(run.stdout)
    last = run.stdout.splitlines()[-1].split("|")
    assert last[1].strip() == "processor"
    assert float(last[4]) < 2.0
