"""Commands that are killed at random moments lose nothing, and the same command then succeeds."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest
from attack_tools import COUNTS
from hub_tools import REPO, FakeHub
from huggingface_hub import constants
from kill_tools import killed_commands, killed_runs

from nfaug.checkpoint.checkpoint import Checkpoint, load
from nfaug.hub import pull

FILES = ("config.json", "gaussians.safetensors", "model.safetensors", "pca.safetensors")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def before(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A folder with another flow, which the commands are to replace."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    return tiny_checkpoint.save(tmp_path / "out", overwrite=True)


def check_replaced(
    words: list[str], before: Path, kills: int, *, sources: list[Path], discard: list[Path]
) -> None:
    """Kill a command that replaces a flow: the old or the new one can be loaded at any time."""
    old = digests(before)["config.json"]
    kept = [digests(source) for source in sources]
    found = killed_commands([*words, "--overwrite"], before, kills, kills, discard)
    assert "Traceback" not in found["printed"], found["printed"][-2000:]
    new = digests(before)["config.json"]
    assert found["states"][0] in (old, new)
    assert set(found["states"]) <= {old, new}, "neither the old nor the new flow"
    assert load(before).config == load(Path(f"{before}-calm")).config
    assert (before / "notes.txt").read_text() == "mine"
    assert [digests(source) for source in sources] == kept
    left = [path.name for path in before.parent.iterdir() if path.name.startswith(".")]
    COUNTS.append(
        f"{words[0]}: {found['kills']} kills, {found['ended']} ended before; old flow "
        f"{found['states'].count(old)} times, new {found['states'].count(new)}; {len(left)} "
        "temporary folders left"
    )


def kill_fit(before: Path, flow: Path, data: Path, kills: int) -> None:
    words = ["fit", "--flow", str(flow), "--data", str(data), "--rank", "4"]
    check_replaced(words, before, kills, sources=[flow, data], discard=[])


def test_a_killed_fit(before: Path, tiny_path: Path, tiny_folder: Path) -> None:
    kill_fit(before, tiny_path, tiny_folder, 2)


@pytest.mark.soak
def test_many_killed_fits(before: Path, tiny_path: Path, tiny_folder: Path) -> None:
    kill_fit(before, tiny_path, tiny_folder, 12)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_many_killed_pulls(
    before: Path, pushed: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a warm cache: to download into it safely is the client's part."""
    pull(REPO, local_dir=tmp_path / "first")
    monkeypatch.setenv("HF_HUB_CACHE", constants.HF_HUB_CACHE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_replaced(["pull", REPO], before, 12, sources=[], discard=[])


@pytest.mark.soak
def test_many_killed_banks(tiny_path: Path, tiny_folder: Path, tmp_path: Path) -> None:
    words = ["bank", "--flow", str(tiny_path), "--data", str(tiny_folder), "--variants", "40"]
    out, kept = tmp_path / "bank", [digests(tiny_path), digests(tiny_folder)]
    found = killed_commands([*words, "--batch-size", "2"], out, 12, 3, [out])
    assert "Traceback" not in found["printed"], found["printed"][-2000:]
    assert digests(out) == digests(tmp_path / "bank-calm")
    assert [digests(tiny_path), digests(tiny_folder)] == kept
    states: list[int] = found["states"]
    for one, two in itertools.pairwise(states):
        assert one <= two or one == 36, f"images that were done are lost: {states}"
    COUNTS.append(f"bank: {found['kills']} kills, images done after each: {found['states']}")


@pytest.mark.soak
def test_many_killed_trainings(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        "{pictures_every: 0, trackers: [], epochs: 40, batch_size: 25, checkpoint_minutes: 1.0e-9, "
        "flow: {steps: [1, 1], blocks: [1, 1], width: [8, 8]}, dataset: {per_class: 10}, "
        "prior: {fixed_point: {kld_weight: 20}}, pca: {rank: 4, max_per_class: 6}}"
    )
    found = killed_runs(["--data", "digits", "-c", str(settings)], tmp_path, 14, 5)
    assert "Traceback" not in found["printed"], found["printed"]
    calm, killed = digests(tmp_path / "calm"), digests(tmp_path / "killed")
    assert [killed[name] for name in FILES[1:]] == [calm[name] for name in FILES[1:]]
    steps: list[int] = found["steps"]  # type: ignore[assignment]
    assert steps == sorted(steps), "a later step was saved and lost"
    COUNTS.append(f"train: {found['kills']} kills, newest step after each: {steps}")
