"""The Hub: what a repository can make the client download, and what a push publishes."""

from __future__ import annotations

import functools
import io
import json
import os
import tarfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from tools.checkpoint import sign
from tools.hub import OWNER, REPO, RUNTIME, FakeHub, augmented, httpx
from tools.nfa import TensorImages, images_of, tiny_flow

import nfaug
from nfaug.checkpoint.autoencoder import open_autoencoder
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
from nfaug.checkpoint.manifest import CheckpointError
from nfaug.classes.gaussians import ClassGaussians
from nfaug.cli import main
from nfaug.commands import list as list_command
from nfaug.flows.autoencoder import AutoencoderConfig
from nfaug.flows.backbone import Identity
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.latent_codec import UnopenedCodec
from nfaug.hub import HubError, pull, push_to_hub
from nfaug.hub.push import plan_push

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

LARGE = b" " * (2**24 + 1)


@pytest.mark.parametrize("read", [nfaug.load, pull, open_autoencoder])
def test_a_large_configuration_is_not_downloaded(read: Callable[[str], Any], hub: FakeHub) -> None:
    """Break 9 (and 67): a config.json of any size was downloaded from the Hub."""
    files = {"config.json": LARGE, "diffusion_pytorch_model.safetensors": b""}
    hub.add("owner/large", files)
    with pytest.raises(HubError, match="16,777,217 bytes"):
        read("owner/large")
    assert hub.fetched() == []


@pytest.mark.parametrize("name", ["README.md", "samples.png"])
def test_a_large_card_is_not_downloaded(name: str, pushed: FakeHub, tmp_path: Path) -> None:
    """Break 9 (and 67): a flow is pulled without a card or a picture of any size."""
    pushed.add(REPO, {name: LARGE})
    with pytest.warns(UserWarning, match="16,777,217 bytes"):
        out = pull(REPO, out=tmp_path / "out")
    other = {"README.md", "samples.png"} - {name}
    assert sorted(os.listdir(out)) == sorted([*RUNTIME, *other]) == pushed.fetched()


def test_a_hub_that_fails_is_read_from_the_cache(pushed: FakeHub, made: Path) -> None:
    """Break 9 (and 67): without its size nothing is downloaded."""
    pushed.fail["/resolve/"] = 500
    with pytest.raises(HubError, match="500"):
        nfaug.load(REPO)
    pushed.fail.clear()
    nfaug.load(REPO)
    pushed.fail["/resolve/"] = 500
    assert torch.equal(augmented(REPO), augmented(made))


def test_a_hub_without_other_questions_than_for_files(pushed: FakeHub, made: Path) -> None:
    """Break 9 (and 67): sizes come from the requests that every mirror of the Hub answers."""
    pushed.fail["/paths-info/"] = 404
    assert torch.equal(augmented(REPO), augmented(made))


def test_what_cannot_be_loaded_replaces_nothing(pushed: FakeHub, made: Path, mine: Path) -> None:
    """Break 10: `pull --overwrite` replaced a folder before the new flow was loaded."""
    pushed.add(REPO, {"pca.safetensors": b"hostile"})
    with pytest.raises(CheckpointError, match=r"pca\.safetensors"):
        pull(REPO, out=mine, overwrite=True)
    assert torch.equal(augmented(mine), augmented(made))


@pytest.mark.parametrize("name", ["README.md", "samples.png"])
def test_a_link_is_not_published(name: str, hub: FakeHub, mine: Path, tmp_path: Path) -> None:
    """Break 15: a push published the file that a link in the directory names."""
    (tmp_path / "key").write_text("private")
    (mine / name).unlink(missing_ok=True)
    (mine / name).symlink_to(tmp_path / "key")
    for push in (plan_push, push_to_hub):
        with pytest.raises(ValueError, match=name):
            push(mine, REPO)
    assert not hub.repos


EVIL = "\x1b]0;gone\x07"


@pytest.mark.filterwarnings("ignore:README.md is kept")
def test_text_of_others_does_not_reach_the_terminal_raw(
    hub: FakeHub, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Break 13: names, cards and errors held terminal escapes."""
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for name in ("cat", "dog"):
            member = tarfile.TarInfo(f"{name}/{EVIL}.png")
            member.size = 4
            archive.addfile(member, io.BytesIO(b"none"))
    (tmp_path / EVIL).mkdir()
    hub.add("owner/evil", {"config.json": json.dumps({EVIL: 1, "format_version": EVIL}).encode()})
    hub.add(f"owner/{EVIL}", {"README.md": b"---\ntags:\n- nfaug\n---\n"})
    sign(mine, lambda values: values.update(class_names=[EVIL, "dog", "eel"], metrics={EVIL: EVIL}))
    (mine / "README.md").write_text(f"# Cats {EVIL}\n")
    fit = ["fit", "--checkpoint", "builtin:rgb32", "--data", str(tmp_path / "images.tar")]
    for words, code in (
        ([*fit, "--out", str(tmp_path / "out")], 2),
        (["info", str(tmp_path / EVIL)], 2),
        (["info", "owner/evil"], 2),
        (["info", str(mine)], 0),
        (["info", str(mine), "--json"], 0),
        (["list"], 0),
        (["push", str(mine), "owner/cats", "--dry-run"], 0),
    ):
        assert main(words) == code
        said = "".join(capsys.readouterr())
        assert said
        assert said.replace("\n", "").isprintable(), said


def test_a_generated_card_holds_no_escapes(mine: Path) -> None:
    """Break 13: a card shows names and figures of a checkpoint without control characters."""
    sign(mine, lambda values: values.update(class_names=[EVIL, "dog", "eel"], metrics={EVIL: EVIL}))
    card = plan_push(mine, REPO).card
    assert "gone" in card
    assert card.replace("\n", "").isprintable()


LINK = "<!-- ](https://evil.example)"


@pytest.mark.parametrize("name", ["sha256", "channels", "kind", "name"])
def test_the_record_of_an_autoencoder_writes_nothing_into_a_card(name: str, tmp_path: Path) -> None:
    """Break 45: links and comments in `autoencoder.sha256` went into the card as they were."""
    record = AutoencoderConfig(
        "hub", "someone/vae", "0" * 64, 3, (64, 64), (0.0,) * 4, (1.0,) * 4, 1 / 64
    )
    shape = FlowConfig(4, (8, 8), Identity())
    flow = Flow(shape, codec=UnopenedCodec(shape, record))
    folder = tmp_path / "flow"
    Checkpoint(flow, CheckpointConfig(flow.config, autoencoder=record)).save(folder)
    assert "0" * 64 in plan_push(folder).card
    sign(folder, lambda values: values["autoencoder"].update({name: LINK}))
    with pytest.raises(CheckpointError, match=f"cannot have the {name}"):
        plan_push(folder)


@pytest.mark.filterwarnings("ignore:README")
@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "no network"])
def test_a_cached_flow_is_pulled_without_a_network(
    how: str, pushed: FakeHub, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 52: offline, a pull of a cached flow failed for want of its README.md."""
    nfaug.load(REPO)  # which leaves card and picture at the Hub
    if how == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        pushed.up = False
    out = pull(REPO, out=tmp_path / "out")
    assert sorted(os.listdir(out)) == RUNTIME
    assert torch.equal(augmented(out), augmented(made))


def test_a_card_that_cannot_be_had_is_a_warning(
    pushed: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 52: a flow is whole without its card and its picture."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own attempts
    pushed.fail[r"/resolve/.*/README\.md"] = 500
    with pytest.warns(UserWarning, match=r"README\.md"):
        out = pull(REPO, out=tmp_path / "out")
    assert set(RUNTIME) <= set(os.listdir(out))
    assert "README.md" not in os.listdir(out)


@pytest.mark.parametrize("name", ["a/../../../../victim", "/victim", "..\\victim"])
def test_a_revision_names_no_file_outside_of_the_cache(
    name: str, pushed: FakeHub, tmp_path: Path
) -> None:
    """Break 96: the name of a revision, such as one with `../`, is joined to the cache."""
    for _ in range(2):  # the second time, the cache has the repository
        with pytest.raises(HubError, match="victim"):
            nfaug.load(f"{REPO}@{name}")
        assert not list(tmp_path.rglob("victim*"))
        nfaug.load(REPO)


@pytest.mark.parametrize("name", ["../pca.safetensors", "/victim", "a\\victim", "C:victim"])
def test_a_configuration_names_no_file_outside_of_the_cache(
    name: str, pushed: FakeHub, mine: Path, tmp_path: Path
) -> None:
    """Break 96: nor does a file that a repository's `config.json` lists."""
    sign(mine, lambda values: values["files"].update({name: "0" * 64}))
    pushed.add(REPO, {"config.json": (mine / "config.json").read_bytes(), name: b"hostile"})
    with pytest.raises(CheckpointError, match=r"config\.json.*files names"):
        pull(REPO, out=tmp_path / "out")
    assert pushed.fetched() == ["config.json"]


def test_a_file_that_is_cut_is_not_kept(pushed: FakeHub, made: Path) -> None:
    """Break 97: a file with fewer bytes than the Hub said is an error."""

    def cut(hub: FakeHub, request: Any) -> Any:
        answer = hub.true_answer(request)
        if request.method == "HEAD":
            return answer
        return httpx.Response(200, content=answer.read()[:5])

    pushed.fail["/resolve/.*/pca"] = cut
    with pytest.raises(HubError, match="15216 but has size 5"):
        nfaug.load(REPO)
    pushed.fail.clear()
    assert torch.equal(augmented(REPO), augmented(made))


def test_a_tensor_file_of_any_size_is_not_downloaded(pushed: FakeHub) -> None:
    """Break 97 (and 67): what a Hub says about the size of weights has a limit, too."""

    def hostile(hub: FakeHub, request: Any) -> Any:
        answer = hub.true_answer(request)
        answer.headers["X-Linked-Size"] = str(2**50)
        return answer

    pushed.fail["/resolve/.*/model"] = hostile
    with pytest.raises(HubError, match="1,125,899,906,842,624 bytes"):
        nfaug.load(REPO)
    assert pushed.fetched() == ["config.json"]


SECRET = "hf_Secret0123456789"
ADDRESS = "https://me:pass%40word@hub.example"
SAID = [  # by a server, or by the client about what it could not send
    f"Illegal header value b'Bearer {SECRET}'",
    f"{{'Authorization': 'Bearer {SECRET}', 'accept': '*/*'}}",
    f"no such token: {SECRET}.",
    f"authorization: bearer\t{SECRET}\r\n",
    f"{'x' * 990} {SECRET}",
    f"404 for url {ADDRESS}/owner/flow",
    "password pass@word of user me, sent as Basic bWU6cGFzc0B3b3Jk",
]
IN_THEM = [SECRET, SECRET[:9], "pass@word", "pass%40word", "bWU6cGFzc0B3b3Jk"]


@pytest.mark.parametrize("given", [SECRET, None], ids=["given", "logged in"])
@pytest.mark.parametrize("said", SAID)
def test_no_error_about_the_hub_holds_a_secret(
    said: str, given: str | None, pushed: FakeHub, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 110: a token and the password in HF_ENDPOINT stood whole in a HubError."""
    asks: list[Callable[[], Any]] = [
        lambda: nfaug.load(REPO, token=given),
        lambda: pull(REPO, token=given),
        lambda: push_to_hub(made, REPO, token=given),
    ]
    if given is None:
        monkeypatch.setenv("HF_TOKEN", SECRET)
        asks.append(lambda: list_command.run(list_command.parser().parse_args([])))
    monkeypatch.setattr(constants, "ENDPOINT", ADDRESS)
    pushed.fail["/"] = RuntimeError(said)
    for ask in asks:
        with pytest.raises((HubError, UserWarning), match=r"https://\*\*\*@hub\.example") as caught:
            ask()
        shown = "".join(traceback.format_exception(caught.value))
        assert [secret for secret in IN_THEM if secret in shown] == []


@pytest.mark.parametrize("token", [f"{OWNER}\n", f" {OWNER} ", f"{OWNER}\r\n"])
def test_a_token_from_a_file_is_stripped(token: str, pushed: FakeHub, made: Path) -> None:
    """Break 110: `token=open("token").read()` ends in a line break."""
    pushed.repos[REPO].private = True
    with pytest.raises(HubError, match="Repo"):
        nfaug.load(REPO, token=False)
    assert nfaug.load(REPO, token=token).config == nfaug.load(made).config
    assert push_to_hub(made, "owner/again", token=token)
    assert pull(REPO, token=token).is_dir()


@pytest.mark.parametrize("token", ["", " ", "hf_one hf_two", "hf_a\nb", "hf_\x1b[31m", "hf_naïve"])
def test_what_is_no_token_is_refused(token: str, pushed: FakeHub, made: Path) -> None:
    """Break 110: before it is sent, and the error does not show it."""
    for ask in (nfaug.load, pull, functools.partial(push_to_hub, made)):
        with pytest.raises(ValueError, match="token must be one word") as caught:
            ask(REPO, token=token)
        assert not token.strip() or token not in str(caught.value)
    assert pushed.requests == []


@pytest.mark.parametrize("number", [1, 7])
def test_a_class_of_few_images_is_not_pushed_without_its_memory(
    number: int, tmp_path: Path, hub: FakeHub
) -> None:
    """Break 93: of a class of one image in pixels, the mean was the image, bit for bit."""
    labels = torch.tensor([0] * 9 + [1] * number)
    data = TensorImages(images_of(labels), labels, ["cat", "dog"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*one image")
        fitted = nfaug.fit("builtin:pixels", data, rank=2, progress=False)
    means = torch.zeros(2, 3 * 8 * 8)
    flow = tiny_flow()
    trained = Checkpoint(
        flow,
        CheckpointConfig(flow.config, classes=("cat", "dog")),
        ClassGaussians(means, means + 1, labels.bincount()),
    )
    words = {"and this checkpoint has none": fitted, f"'dog' has {number} image": trained}
    for error, checkpoint in words.items():
        for pushed in (checkpoint, checkpoint.save(tmp_path / str(len(error)))):
            for push in (plan_push, push_to_hub):
                with pytest.raises(ValueError, match=error):
                    push(pushed, REPO, memory=False)
    assert hub.repos == {}
    push_to_hub(fitted, REPO, private=True)
    assert hub.repos[REPO].private
