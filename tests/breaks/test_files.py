"""Files: mounts, links, full disks, locks, deep JSON."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tools.hub import REPO, FakeHub

import nfaug
from nfaug.cli import main
from nfaug.hub import pull
from nfaug.io import atomic
from nfaug.io.atomic import write_bytes
from nfaug.io.lock import OutputInUseError, lock_output
from nfaug.io.strict_json import parse_json
from nfaug.training.snapshots import Snapshot, Snapshots

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def content(folder: Path) -> dict[str, bytes]:
    """The files below a folder, hidden ones too."""
    files = [entry for entry in sorted(folder.rglob("*")) if entry.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    """A checkpoint in a folder that holds files of its owner."""
    folder = nfaug.load("builtin:pixels").save(tmp_path / "flow")
    (folder / "README.md").write_text("mine")
    (folder / "volume").mkdir()
    (folder / "volume" / "data").write_text("precious")
    return folder


@pytest.mark.parametrize("place", ["volume", "volume/data", "", "two words"])
def test_a_mounted_volume_in_a_checkpoint_is_not_emptied(
    place: str, flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 36: files of a mounted volume were copied, then removed across the mount.

    Linux tells of mounts of the same file system, too, and of single files.
    """
    mounts = tmp_path / "mountinfo"
    where = str(flow / place).replace(" ", "\\040")
    mounts.write_text(
        f"23 1 8:1 / / rw - ext4 /dev/sda rw\n99 23 8:1 /x {where} rw - ext4 /dev/sda\n"
    )
    monkeypatch.setattr(atomic, "MOUNTS", mounts)
    before = content(tmp_path)
    with pytest.raises(OSError, match=r"mounted|mount point") as caught:
        nfaug.load("builtin:rgb32").save(flow, overwrite=True)
    assert str(flow / place) in str(caught.value)
    assert content(tmp_path) == before


def test_what_a_killed_process_left_may_hold_a_mount(
    flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 36: the old folder, put aside before a kill, is removed by the next save."""
    aside = tmp_path / ".flow.old"
    (aside / "volume").mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"99 23 8:1 /x {aside}/volume rw - ext4 /dev/sda\n")
    monkeypatch.setattr(atomic, "MOUNTS", mounts)
    with pytest.raises(OSError, match="mounted"):
        nfaug.load("builtin:rgb32").save(flow, overwrite=True)
    assert (aside / "volume").is_dir()


def test_mounts_of_this_machine_are_listed() -> None:
    """Break 36: the root is mounted everywhere; without the list nothing else is known."""
    assert (Path("/") in atomic.mount_points()) == atomic.MOUNTS.exists()


def test_what_links_point_to_stays(flow: Path, tmp_path: Path) -> None:
    """Break 6: discarding a cache followed links out of it; a checkpoint is the nearest today."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    (flow / "folder").symlink_to(outside)
    (flow / "link").symlink_to(outside / "file")
    (flow / "gaussians.safetensors").symlink_to(outside / "file")
    nfaug.load("builtin:rgb32").save(flow, overwrite=True)
    assert content(outside) == {"file": b"precious"}
    assert (flow / "folder").readlink() == outside
    assert (flow / "link").readlink() == outside / "file"
    assert not (flow / "gaussians.safetensors").is_symlink()


def test_a_state_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """Break 6: old states of a run are removed, and what a link among them points to is not."""
    outside = tmp_path / "outside"
    state = tmp_path / "run" / "state"
    outside.mkdir()
    state.mkdir(parents=True)
    (outside / "file").write_text("precious")
    (state / "step-000000001").symlink_to(outside)
    snapshots = Snapshots(tmp_path / "run")
    snapshots.save(Snapshot({"losses": torch.zeros(3)}, {"optimizer": {"steps": 9}}))
    snapshots.clear()
    assert content(outside) == {"file": b"precious"}


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can have more than 1 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITES: dict[str, Callable[[Path], object]] = {
    "new": lambda folder: nfaug.load("builtin:rgb32").save(folder / "new"),
    "overwrite": lambda folder: nfaug.load("builtin:rgb32").save(folder / "flow", overwrite=True),
    "file": lambda folder: write_bytes(folder / "flow" / "README.md", b"x" * 2000),
    "state": lambda folder: Snapshots(folder / "flow").save(
        Snapshot({"losses": torch.zeros(2000)}, {"optimizer": {"steps": 9}})
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
def test_a_full_disk_leaves_no_part_of_a_file(
    write: Callable[[Path], object], flow: Path, tmp_path: Path, full_disk: None
) -> None:
    """Break 28: a disk that fills up left partial files."""
    before = content(tmp_path)
    with pytest.raises(OSError, match=r"[Ff]ile too|cannot be written"):
        write(tmp_path)
    assert content(tmp_path) == before


def test_a_full_disk_stops_a_pull(pushed: FakeHub, flow: Path, tmp_path: Path) -> None:
    """Break 28: the copy of a flow in the cache is whole, or is not there."""
    pull(REPO)
    before = content(flow)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError, match=r"[Ff]ile too"):
            pull(REPO, out=flow, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert content(flow) == before
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".flow")]


def test_output_onto_a_full_disk_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Break 28: a command whose output could not be written exited with 0."""
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:  # closing it fails again
        monkeypatch.setattr(sys, "stdout", full)
        code = main(["info", "builtin:pixels"])
    assert code == 2
    assert "No space" in capsys.readouterr().err


def test_a_rank_without_a_group_does_not_open_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 24: RANK=1, left over in the environment, skipped the lock."""

    def save() -> Path:
        return nfaug.load("builtin:pixels").save(tmp_path / "out")

    monkeypatch.setenv("RANK", "1")
    # A thread may lock again what it holds, so the second writer is another thread.
    with lock_output(tmp_path / "out"), ThreadPoolExecutor(1) as other:
        error = other.submit(save).exception()
    assert isinstance(error, OutputInUseError)
    assert str(os.getpid()) in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("level", ["[", '{"a":'])
def test_deep_json_is_one_error(level: str) -> None:
    """Break 29: JSON that nests deeper than Python reads."""
    close = {"[": "]", '{"a":': "}"}[level]
    for deep in (level * 100_000, level * 100_000 + "1" + close * 100_000):
        with pytest.raises(ValueError, match="too deep"):
            parse_json(deep.encode())


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs the folder /proc of Linux")
def test_a_place_for_no_files_is_not_in_use() -> None:
    """Break 122: `--out /proc/x` was "in use by another process"."""
    with pytest.raises(OSError, match="/proc/") as raised, lock_output(Path("/proc/x")):
        pass
    assert not isinstance(raised.value, OutputInUseError)
