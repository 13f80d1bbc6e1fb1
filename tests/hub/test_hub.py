"""Push, pull, list and load with the Hub's own client, over a Hub in memory."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants, hf_hub_download, scan_cache_dir
from tools.hub import REPO, RUNTIME, FakeHub, augmented, httpx
from tools.nfa import TensorImages, batch_of, images_of, tiny_flow
from tools.nfa import checkpoint as parts

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.checkpoint.manifest import CheckpointError
from nfaug.commands import list as list_command
from nfaug.hub import HubError, pull, push_to_hub
from nfaug.hub.card import make_card
from nfaug.hub.push import plan_push

# Raised by the client's own upload of large files in 2.4.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
WHOLE = sorted([*RUNTIME, "README.md", "samples.png"])


def test_push_pull_augment_is_bit_identical(hub: FakeHub, made: Path) -> None:
    address = push_to_hub(made, REPO)
    assert address.endswith(f"/{REPO}/commit/{hub.repos[REPO].names['main']}")
    here = augmented(made)
    assert not torch.equal(here, batch_of(16)[0])
    assert torch.equal(here, augmented(REPO))
    assert hub.fetched() == RUNTIME, "the runtime fetches only what it needs"
    assert nfaug.load(REPO).config == nfaug.load(made).config


def test_only_what_was_meant_travels_in_one_commit(hub: FakeHub, made: Path) -> None:
    push_to_hub(made, REPO)
    assert sorted(hub.files(REPO)) == sorted([".gitattributes", *WHOLE])
    assert len(hub.repos[REPO].commits) == 2  # its creation, and the push
    for name in [*RUNTIME, "samples.png"]:
        assert hub.files(REPO)[name] == (made / name).read_bytes()
    plan = plan_push(made, REPO)
    assert plan.files == {name: len(hub.files(REPO)[name]) for name in WHOLE}
    assert plan.card.encode() == hub.files(REPO)["README.md"]


def test_a_checkpoint_is_pushed_without_a_directory(hub: FakeHub, made: Path) -> None:
    checkpoint = nfaug.load(made)
    push_to_hub(checkpoint, REPO, license="mit", private=True)
    assert hub.repos[REPO].private
    assert b"license: mit" in hub.files(REPO)["README.md"]
    assert {name: hub.files(REPO)[name] for name in RUNTIME} == {
        name: (made / name).read_bytes() for name in RUNTIME
    }
    with pytest.raises(HubError, match="private"):
        nfaug.load(REPO, token="hf_wrong")


def test_a_name_is_whole_before_anything_is_done(hub: FakeHub, made: Path) -> None:
    for push in (push_to_hub, plan_push):
        for name in ("flow", "owner/", "an owner/flow", "owner/flow/1", "owner/a--b"):
            with pytest.raises(ValueError, match=f"'{name}'"):
                push(made, name)
    assert hub.repos == {}


def test_pushing_again_makes_no_commit(hub: FakeHub, made: Path) -> None:
    for memory in (True, False):
        first = push_to_hub(made, f"{REPO}-{memory}", memory=memory)
        assert push_to_hub(made, f"{REPO}-{memory}", memory=memory) == first
        assert len(hub.repos[f"{REPO}-{memory}"].commits) == 2


def test_a_card_that_stays_is_named(hub: FakeHub, made: Path) -> None:
    """Its classes and figures may be those of the flow before."""
    checkpoint = nfaug.load(made)
    push_to_hub(checkpoint, REPO)
    first = hub.files(REPO)["README.md"]
    checkpoint.config.training["epochs"] = 4
    with pytest.warns(UserWarning, match="README.md is kept: check its classes, figures"):
        push_to_hub(checkpoint, REPO)
    assert hub.files(REPO)["README.md"] == first
    push_to_hub(checkpoint, REPO, overwrite_card=True)
    assert hub.files(REPO)["README.md"] != first


def test_push_of_a_folder_with_the_card_of_another_checkpoint(
    hub: FakeHub, made: Path, tmp_path: Path
) -> None:
    """A fit into a folder keeps its README.md, such as the one of a flow that was pulled."""
    checkpoint = nfaug.load(made)
    other = dataclasses.replace(checkpoint.config, classes=("ant", "bee", "cow"))
    card = make_card(other, checkpoint.pca, "owner/other")
    folder = shutil.copytree(made, tmp_path / "flow")
    (folder / "README.md").write_text(card)
    with pytest.warns(UserWarning, match="README.md is kept"):
        push_to_hub(folder, REPO)
    assert b"owner/other" in hub.files(REPO)["README.md"]
    own = make_card(checkpoint.config, checkpoint.pca, REPO, picture="images")
    (folder / "README.md").write_bytes(own.replace("\n", "\r\n").encode())
    push_to_hub(folder, REPO, overwrite_card=True)  # without a warning


def test_push_without_memory(pushed: FakeHub, made: Path) -> None:
    """Also where the repository has a card already: its privacy statement stays true."""
    pca = nfaug.load(made).pca
    assert pca is not None
    assert pca.has_memory
    edited = pushed.files(REPO)["README.md"] + "My own words: ü\r\n".encode()
    assert b"holds a partner memory" in edited
    pushed.add(REPO, {"README.md": edited})
    with pytest.raises(HubError, match="is public"):
        push_to_hub(made, REPO, private=True)
    with pytest.warns(UserWarning, match="README.md is kept"):
        push_to_hub(made, REPO, memory=False, license="mit")
    card = pushed.files(REPO)["README.md"].decode()
    assert card.endswith("My own words: ü\r\n"), "the card is the user's"
    assert "It has no partner memory and no axes of classes. `gaussians" in card
    assert "partner memory**" not in card
    assert "shows images that the flow drew" in card
    picture = pushed.files(REPO)["samples.png"]
    assert picture.startswith(b"\x89PNG")
    assert picture != (made / "samples.png").read_bytes(), "it shows images"
    push_to_hub(made, REPO, memory=False, overwrite_card=True)
    assert "My own words" not in pushed.files(REPO)["README.md"].decode()
    assert "pca.safetensors" not in pushed.files(REPO)
    shared = nfaug.load(REPO)
    assert shared.pca is None
    assert shared.gaussians is not None
    assert shared.config.classes == nfaug.load(made).config.classes


def test_what_is_no_longer_there_goes(pushed: FakeHub, mine: Path) -> None:
    """And a flow without classes travels too."""
    pushed.add(REPO, {"notes.txt": b"mine", "pca.safetensors": b"old"})
    flow = parts().flow
    Checkpoint(flow, CheckpointConfig(flow.config)).save(mine, overwrite=True)
    push_to_hub(mine, REPO, overwrite_card=True)
    assert sorted(pushed.files(REPO)) == [
        *(".gitattributes", "README.md", "config.json", "model.safetensors", "notes.txt")
    ]
    assert nfaug.load(REPO).pca is None


def test_a_card_of_ones_own(hub: FakeHub, mine: Path) -> None:
    (mine / "README.md").write_text("---\nlicense: mit\n---\n# My own words\n")
    for push in (push_to_hub, plan_push):
        with pytest.warns(UserWarning, match="license, and what it says of training") as caught:
            push(mine, REPO, about_data="cats")
        (warning,) = [each for each in caught if each.category is UserWarning]
        assert warning.filename == __file__
    assert hub.files(REPO)["README.md"] == (mine / "README.md").read_bytes()


def test_a_damaged_directory_is_not_pushed(hub: FakeHub, mine: Path) -> None:
    (mine / "model.safetensors").write_bytes(b"")
    for push in (plan_push, push_to_hub):
        with pytest.raises(CheckpointError, match="model"):
            push(mine, REPO)
    assert not hub.repos


def test_revisions(pushed: FakeHub, mine: Path) -> None:
    HfApi().create_tag(REPO, tag="v1")
    first = nfaug.load(REPO).config
    found = nfaug.load(mine)
    found.config.training["epochs"] = 4
    push_to_hub(found, REPO, revision="dev", overwrite_card=True)
    assert nfaug.load(REPO).config == nfaug.load(REPO, revision="v1").config == first
    assert nfaug.load(REPO, revision="dev").config == found.config
    commit = pushed.repos[REPO].names["dev"]
    assert nfaug.load(REPO, revision=commit).config == found.config
    with pytest.raises(HubError, match="'v2'"):
        pull(REPO, revision="v2")


def test_a_revision_in_the_name(pushed: FakeHub, mine: Path, tmp_path: Path) -> None:
    found = nfaug.load(mine)
    found.config.training["epochs"] = 4
    push_to_hub(found, REPO, revision="dev", overwrite_card=True)
    assert nfaug.load(f"{REPO}@dev").config == found.config
    assert nfaug.load(f"{REPO}@dev", revision="dev").config == found.config
    pulled = pull(f"{REPO}@dev", out=tmp_path / "dev")
    assert nfaug.load(pulled).config == found.config
    with pytest.raises(HubError, match="refs/pr/1"):
        nfaug.load(f"{REPO}@refs/pr/1")
    with pytest.raises(ValueError, match="revision="):
        nfaug.load(f"{REPO}@dev", revision="main")


def test_other_ways_to_write_a_repository(pushed: FakeHub, mine: Path, tmp_path: Path) -> None:
    """timm's prefix, and the address of a page, which a browser shows."""
    page = f"https://huggingface.co/{REPO}"
    found = nfaug.load(mine)
    found.config.training["epochs"] = 4
    push_to_hub(found, REPO, revision="dev", overwrite_card=True)
    first = nfaug.load(REPO).config
    for name in (f"hf_hub:{REPO}", f"hf-hub:{REPO}", page, f"{page}/", f"hf.co/{REPO}?x=1#use"):
        assert nfaug.load(name).config == first
    for name in (f"hf-hub:{REPO}@dev", f"{page}/tree/dev", f"{page}/blob/dev/config.json"):
        assert nfaug.load(name).config == found.config
    with pytest.raises(HubError, match="refs/pr/1"):
        nfaug.load(f"{page}/tree/refs%2Fpr%2F1")
    pulled = pull(f"{page}/tree/dev", out=tmp_path / "dev")
    assert nfaug.load(pulled).config == found.config
    data = torch.utils.data.TensorDataset(batch_of(8)[0], torch.arange(8) % 2)
    fitted = nfaug.fit(f"hf_hub:{REPO}", data, rank=2, progress=False)
    assert fitted.config.gaussians["flow"] == REPO
    for other in (f"https://huggingface.co/datasets/{REPO}", "https://example.com/owner/flow"):
        with pytest.raises(FileNotFoundError, match="owner/name"):
            nfaug.load(other)


def test_options_of_the_client_are_passed_on(
    pushed: FakeHub, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "mine"
    with pytest.raises(HubError, match="mine"):
        nfaug.load(REPO, cache_dir=cache, local_files_only=True)
    assert pushed.requests == [], "local_files_only sends no request"
    nfaug.load(REPO, cache_dir=cache)
    assert pushed.fetched() == RUNTIME
    assert list(cache.glob("models--*"))
    assert not Path(constants.HF_HUB_CACHE).exists()
    pushed.requests.clear()
    nfa = nfaug.NFAugment.from_pretrained(REPO, cache_dir=cache, local_files_only=True)
    assert nfa.num_classes == 3
    assert pushed.requests == []
    nfaug.NFAugment.from_pretrained(REPO, cache_dir=cache)
    assert pushed.fetched() == [], "the cache has them"
    nfaug.NFAugment.from_pretrained(REPO, cache_dir=cache, force_download=True)
    assert pushed.fetched() == RUNTIME


def test_the_cache_is_that_of_the_client(pushed: FakeHub, made: Path) -> None:
    """Each reads what the other downloaded, and the client's tools list both."""
    hf_hub_download(REPO, "model.safetensors")
    pushed.requests.clear()
    folder = pull(REPO)
    assert pushed.fetched() == [name for name in RUNTIME if name != "model.safetensors"]
    pushed.up = False
    for name in RUNTIME:
        found = Path(hf_hub_download(REPO, name, local_files_only=True))
        assert found == folder / name
        assert found.read_bytes() == (made / name).read_bytes()
    cached = scan_cache_dir(constants.HF_HUB_CACHE)
    assert not cached.warnings
    (repository,) = cached.repos
    (revision,) = repository.revisions
    assert sorted(file.file_name for file in revision.files) == RUNTIME
    assert (revision.commit_hash, revision.refs) == (folder.name, {"main"})
    pushed.up = True
    pushed.add(REPO, {"README.md": b"a new commit of the same flow"})
    pushed.requests.clear()
    assert torch.equal(augmented(REPO), augmented(made))
    assert pushed.fetched() == [], "the same content is not downloaded again"


def test_a_damaged_cache_is_an_error_where_nothing_may_be_downloaded(pushed: FakeHub) -> None:
    pushed.damage["model.safetensors"] = 2
    with pytest.raises(CheckpointError, match="SHA-256"):
        nfaug.load(REPO)
    pushed.requests.clear()
    with pytest.raises(CheckpointError, match="SHA-256"):
        nfaug.load(REPO, local_files_only=True)
    assert pushed.requests == []


BUILT_IN = ["builtin:fashion-mnist", "builtin:gray28", "builtin:pixels", "builtin:rgb32"]


def test_a_listing_without_a_network_is_of_what_is_built_in(pushed: FakeHub) -> None:
    """At once: without a second attempt."""
    pushed.up = False
    with pytest.warns(UserWarning, match="network"):
        assert listed() == {"built_in": BUILT_IN}
    assert len(pushed.requests) == 1


def listed(*words: str) -> dict[str, Any]:
    return list_command.run(list_command.parser().parse_args([*words]))


def test_lists(pushed: FakeHub, made: Path) -> None:
    push_to_hub(made, "owner/private", private=True)
    pushed.add("owner/other", {"config.json": b"{}"})
    found = listed()
    assert found["flows"] == 2
    assert (found[REPO]["private"], found["owner/private"]["private"]) == (False, True)
    assert found["built_in"] == BUILT_IN
    assert listed("--search=pix")["built_in"] == ["builtin:pixels"]
    assert listed("--author=reader") == {"built_in": [], "flows": 0}
    assert listed("--limit=1")["flows"] == 1


def test_pull_into_a_directory(pushed: FakeHub, made: Path, tmp_path: Path) -> None:
    pushed.add(REPO, {"optimizer.safetensors": b"", "evil.bin": b"", "a/config.json": b""})
    out = pull(REPO, out=tmp_path / "out")
    assert sorted(os.listdir(out)) == WHOLE == pushed.fetched()
    assert not any(path.is_symlink() for path in out.iterdir())
    assert torch.equal(augmented(out), augmented(made))
    with pytest.raises(FileExistsError, match="overwrite"):
        pull(REPO, out=out)
    (out / "pca.safetensors").write_bytes(b"of another checkpoint")
    (out / "notes.txt").write_text("mine")
    pull(REPO, out=out, overwrite=True)
    assert sorted(os.listdir(out)) == sorted([*WHOLE, "notes.txt"])
    pixels = nfaug.load("builtin:pixels")  # of which there is no picture
    push_to_hub(pixels, "owner/other")
    pull("owner/other", out=out, overwrite=True)
    assert "samples.png" not in os.listdir(out), "it shows images of the flow before"


@pytest.mark.parametrize("name", RUNTIME[1:])
def test_a_file_damaged_on_the_way_is_downloaded_again(
    name: str, pushed: FakeHub, made: Path, tmp_path: Path
) -> None:
    pushed.damage[name] = 2
    with pytest.raises(CheckpointError, match="SHA-256"):
        nfaug.load(REPO)
    pushed.damage[name] = 0
    assert torch.equal(augmented(REPO), augmented(made)), "no damaged file is kept"
    pushed.damage[name] = 1
    constants.HF_HUB_CACHE = str(tmp_path / "cold")
    assert torch.equal(augmented(REPO), augmented(made))


def test_a_warm_cache_needs_no_network(
    pushed: FakeHub, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pull(REPO)
    pushed.requests.clear()
    assert pull(REPO) == folder
    assert {*pushed.requests} == {f"HEAD /{REPO}/resolve/main/config.json"}
    asked = len(pushed.requests)
    pushed.up = False
    assert pull(REPO) == folder
    pushed.up = True
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(augmented(REPO), augmented(made))
    assert not [each for each in pushed.requests[asked:] if each.startswith("GET /owner")]
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        pull("owner/other")
    with pytest.warns(UserWarning, match="HF_HUB_OFFLINE"):
        listed()


# The listing warns of the Hub, and has what is built in.
ASKS: list[Callable[[Path], Any]] = [
    lambda made: nfaug.load(REPO),
    lambda made: pull(REPO),
    lambda made: push_to_hub(made, REPO),
    lambda made: listed(),
]


@pytest.mark.parametrize(
    ("fault", "token"),
    [
        (403, "403"),
        (404, "404"),
        (OSError(28, "No space left on device"), "space"),
        (RuntimeError("\x1b[31mred"), "red"),
        (b"[" * 100_000, "recursion|Commit|connection"),
    ],
)
def test_a_fault_is_one_clear_error(fault: Any, token: str, pushed: FakeHub, made: Path) -> None:
    pushed.fail["/"] = fault
    for ask in ASKS:
        with pytest.raises((HubError, UserWarning), match=token) as caught:
            ask(made)
        assert str(caught.value).isprintable()
        assert constants.ENDPOINT in str(caught.value)


def test_without_a_network(pushed: FakeHub, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own attempts
    pushed.fail["/"] = httpx.ConnectError("no network")
    for ask in ASKS:
        with pytest.raises((HubError, UserWarning), match="HF_ENDPOINT"):
            ask(made)


def test_a_repository_that_cannot_be_read(hub: FakeHub, made: Path) -> None:
    with pytest.raises(HubError, match="RepositoryNotFound"):
        nfaug.load("owner/none")
    hub.add("owner/gated", {"config.json": b"{}"}, gated=True)
    with pytest.raises(HubError, match="Gated"):
        nfaug.load("owner/gated")
    hub.add("owner/bert", {"model.safetensors": b""})
    with pytest.raises(HubError, match="not an nfaug checkpoint"):
        nfaug.load("owner/bert")
    config = (made / "config.json").read_bytes()
    hub.add("owner/part", {"config.json": config})
    with pytest.raises(HubError, match=r"lacks.*model\.safetensors"):
        nfaug.load("owner/part")
    for content in (b'{"model_type": "bert"}', b"[" * 100_000, b"\x80\x04pickle"):
        hub.add("owner/bert", {"config.json": content})
        with pytest.raises(CheckpointError, match=r"config\.json"):
            pull("owner/bert")
    evil = config.replace(b"model.safetensors", b"../model.safetensors")
    hub.add("owner/evil", {"config.json": evil, "../model.safetensors": b"", "evil.pkl": b""})
    with pytest.raises(CheckpointError, match=r"config\.json"):
        pull("owner/evil")
    assert hub.fetched() == ["config.json"]
    for name in ("a/b/c", "owner/..", "-x", "x" * 200):
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            push_to_hub(made, name)


def test_nothing_of_a_fit_is_pushed_without_its_memory(hub: FakeHub) -> None:
    """The axes of a class of 40 images gave its most unusual image back, with an error of 1%."""
    labels = torch.tensor([0] * 40 + [1] * 40)
    data = TensorImages(images_of(labels), labels, ["cat", "dog"])
    flow = tiny_flow()
    trained = Checkpoint(flow, CheckpointConfig(flow.config))
    fitted = nfaug.fit(trained, data, rank=10, gaussians=True, progress=False)
    push_to_hub(fitted, REPO, memory=False)
    assert sorted(hub.files(REPO)) == [
        *(".gitattributes", "README.md", "config.json", "model.safetensors")
    ]
    assert b"cat" not in hub.files(REPO)["config.json"]
    again = nfaug.fit(REPO, data, rank=10, progress=False)
    assert again.pca is not None
    assert fitted.pca is not None
    assert torch.equal(again.pca.mean, fitted.pca.mean)


def test_processes_that_start_together_download_once(pushed: FakeHub) -> None:
    """A late download replaced the file that an early process was reading, which then failed."""
    asked = threading.Barrier(4)

    def slow(hub: FakeHub, request: Any) -> Any:
        if request.method == "HEAD":
            asked.wait(30)
        else:
            time.sleep(0.5)  # in which the others come to the same place
        return hub.true_answer(request)

    pushed.fail["/resolve/.*/model"] = slow

    def load(_: int) -> torch.Tensor:
        return next(nfaug.load(REPO).flow.parameters())

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(load, range(4))
    assert all(torch.equal(first, other) for other in others)
    downloads = [line for line in pushed.requests if line.startswith("GET") and "model" in line]
    assert len(downloads) == 1


def test_a_push_in_between_mixes_nothing(pushed: FakeHub, made: Path, mine: Path) -> None:
    """All files are those of the commit whose config.json came first."""
    other = nfaug.load(made)
    other.config.training["epochs"] = 4
    for parameter in other.flow.parameters():
        parameter.data += 1
    other.save(mine, overwrite=True)
    files = {name: (mine / name).read_bytes() for name in RUNTIME}

    def then_pushed(hub: FakeHub, request: Any) -> Any:
        answer = hub.true_answer(request)
        if request.method == "GET":
            hub.fail.clear()
            hub.add(REPO, files)
        return answer

    pushed.fail["/resolve/.*/config"] = then_pushed
    assert torch.equal(augmented(REPO), augmented(made))
    assert torch.equal(augmented(REPO), augmented(mine))


def test_a_forced_download_is_never_of_the_cache(pushed: FakeHub) -> None:
    nfaug.load(REPO)
    pushed.up = False
    nfaug.load(REPO)
    with pytest.raises(HubError, match="no network"):
        nfaug.load(REPO, force_download=True)


def test_a_push_keeps_the_card_of_now(pushed: FakeHub, made: Path, tmp_path: Path) -> None:
    """When the Hub did not answer for it once, an older card of the cache took its place."""
    pull(REPO, out=tmp_path / "pulled")
    edited = pushed.files(REPO)["README.md"] + b"My own words\n"
    pushed.add(REPO, {"README.md": edited})

    def no_answer_once(hub: FakeHub, request: Any) -> Any:
        hub.fail.clear()
        return httpx.Response(500)

    pushed.fail["/resolve/.*/README"] = no_answer_once
    with pytest.raises(HubError, match="500"):
        push_to_hub(made, REPO)
    assert pushed.files(REPO)["README.md"] == edited
