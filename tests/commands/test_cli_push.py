"""What the commands publish, and that the options for private images reach the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback_hub import LoopbackHub

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.classes.pca import ClasswisePCA
from nfaug.cli import main
from nfaug.hub import plan_push

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def train_words(folder: Path, out: Path) -> list[str]:
    return [
        *("train", "--data", str(folder), "--out", str(out), "--trackers", "[]"),
        *("--epochs", "1", "--batch-size", "12", "--pca.rank", "4"),
        *("--flow.steps", "[1, 1]", "--flow.blocks", "[1, 1]", "--flow.width", "[8, 8]"),
        *("--prior.fixed-point.kld-weight", "20"),
    ]


def axes_of(name: str | Path, revision: str | None = None) -> ClasswisePCA:
    pca = Checkpoint.from_pretrained(name, revision=revision).pca
    assert pca is not None
    return pca


def test_a_push_without_memory(hub: LoopbackHub, tiny_path: Path) -> None:
    """12 images of a class span at most 3 axes of what is published."""
    own = axes_of(tiny_path)
    assert own.has_memory
    assert own.ranks.tolist() == [4, 4, 4]
    options = ["--no-memory", "--private", "--revision", "dev", "--message", "My flow"]
    assert main(["push", str(tiny_path), "owner/flow", *options]) == 0
    assert hub.repos["owner/flow"].private
    shared = axes_of("owner/flow", revision="dev")
    assert not shared.has_memory
    assert shared.ranks.tolist() == [3, 3, 3]
    assert main(["push", str(tiny_path), "owner/open"]) == 0
    assert not hub.repos["owner/open"].private
    assert axes_of("owner/open").has_memory


def test_a_training_that_pushes(hub: LoopbackHub, tiny_folder: Path, tmp_path: Path) -> None:
    words = train_words(tiny_folder, tmp_path / "run")
    assert main([*words, "--push-to", "owner/flow", "--push-private", "--push-no-memory"]) == 0
    assert hub.repos["owner/flow"].private
    shared = axes_of("owner/flow")
    assert not shared.has_memory
    assert shared.ranks.tolist() == [3, 3, 3]
    assert (tmp_path / "run" / "samples.png").is_file()
    assert "samples.png" not in hub.files("owner/flow")


def test_a_push_that_fails_after_the_training(
    hub: LoopbackHub, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fail("/commit/main", status=500, times=None)
    words = [*train_words(tiny_folder, tmp_path / "run"), "--pictures", "false"]
    assert main([*words, "--push-to", "owner/flow", "--push-private", "--push-no-memory"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f"nfaug push {tmp_path / 'run'} owner/flow --private --no-memory")
    assert axes_of(tmp_path / "run").has_memory


@pytest.mark.parametrize(
    ("repo", "token"), [("owner/flow", "hf_wrong"), ("owner/a/b", None), ("owner/..", None)]
)
def test_a_push_that_cannot_work_is_refused_before_the_training(
    repo: str,
    token: str | None,
    hub: LoopbackHub,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert main([*train_words(tiny_folder, tmp_path / "run"), "--push-to", repo]) == 2
    assert repo in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_published_names_no_folder_of_this_machine(
    tiny_folder: Path, tmp_path: Path
) -> None:
    run, fitted, made = tmp_path / "run", tmp_path / "fitted", tmp_path / "made"
    assert main([*train_words(tiny_folder, run), "--pictures", "false"]) == 0
    data = ["--data", str(tiny_folder), "--rank", "4"]
    assert main(["fit", "--flow", str(run), *data, "--out", str(fitted)]) == 0
    nfaug.fit(run, tiny_folder, rank=4, progress=False).save(made)
    for folder in (run, fitted, made):
        # A card escapes the characters that Markdown knows.
        for text in ((folder / "config.json").read_text(), plan_push(folder).card):
            plain = text.replace("\\", "")
            assert tiny_folder.name in plain, "the data's own name is said"
            assert str(tiny_folder.parent) not in plain
            assert str(tmp_path) not in plain
