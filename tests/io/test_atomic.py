from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nfaug.io import atomic
from nfaug.io.atomic import replace_directory, write_bytes, write_text


def content(path: Path) -> dict[str, str]:
    """Every file below a directory, hidden ones too."""
    return {
        str(file.relative_to(path)): file.read_text()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def fill(path: Path, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_a_new_directory(tmp_path: Path) -> None:
    with replace_directory(tmp_path / "deep" / "new") as staged:
        fill(staged, config="1")
        fill(staged / "sub", file="2")
        assert not (tmp_path / "deep" / "new").exists()
    assert content(tmp_path) == {"deep/new/config": "1", "deep/new/sub/file": "2"}


def test_others_are_carried_over(tmp_path: Path) -> None:
    old = fill(tmp_path / "old", config="old", weights="old", memory="old", readme="mine")
    fill(old / "pictures", own="mine", grid="old")
    (old / "link").symlink_to("nowhere")
    with replace_directory(old, drop=frozenset({"memory", "never"})) as staged:
        fill(staged, config="new", weights="new")
        fill(staged / "pictures", grid="new")
        assert (old / "config").read_text() == "old"
    assert content(tmp_path) == {
        "old/config": "new",
        "old/weights": "new",
        "old/readme": "mine",
        "old/pictures/own": "mine",
        "old/pictures/grid": "new",
    }
    assert (old / "link").readlink() == Path("nowhere")


def test_a_dropped_name_that_is_written_stays(tmp_path: Path) -> None:
    old = fill(tmp_path / "old", memory="old")
    with replace_directory(old, drop=frozenset({"memory"})) as staged:
        fill(staged, memory="new")
    assert content(old) == {"memory": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_everything_as_it_was(
    tmp_path: Path, error: type[BaseException], existing: bool
) -> None:
    path = tmp_path / "flow"
    if existing:
        fill(path, config="old")

    def save() -> None:
        with replace_directory(path) as staged:
            fill(staged, config="new")
            raise error

    with pytest.raises(error):
        save()
    assert content(tmp_path) == ({"flow/config": "old"} if existing else {})
    assert len(list(tmp_path.iterdir())) == existing


@pytest.mark.parametrize("failing", ["_fsync", "_exchange", "_carry_over"])
def test_a_full_disk_leaves_the_old_one(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    fill(tmp_path / "flow", config="old", readme="mine")
    monkeypatch.setattr(atomic, failing, fail)
    with (
        pytest.raises(OSError, match="space"),
        replace_directory(tmp_path / "flow") as staged,
    ):
        fill(staged, config="new")
    assert content(tmp_path) == {"flow/config": "old", "flow/readme": "mine"}


# The module alone: importing the package would take a second.
SAVER = """
import runpy, signal, sys, time
from pathlib import Path

replace_directory = runpy.run_path(sys.argv[2])["replace_directory"]
signal.signal(signal.SIGINT, signal.default_int_handler)
with replace_directory(Path(sys.argv[1])) as staged:
    (staged / "config").write_text("new")
    print("half", flush=True)
    time.sleep(60)
    (staged / "weights").write_text("new")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_leaves_the_old_one(tmp_path: Path, number: signal.Signals) -> None:
    fill(tmp_path / "flow", config="old", weights="old")
    child = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path / "flow"), str(atomic.__file__)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        child.send_signal(number)
        assert child.wait(30) != 0
    assert content(tmp_path / "flow") == {"config": "old", "weights": "old"}
    left = [path.name for path in tmp_path.iterdir() if path.name != "flow"]
    assert len(left) == (number == signal.SIGKILL), "only a kill leaves something, and beside it"
    with replace_directory(tmp_path / "flow") as staged:
        fill(staged, config="newer")
    assert content(tmp_path / "flow") == {"config": "newer", "weights": "old"}


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    """Two files that always say the same, while another thread replaces them."""
    flow = fill(tmp_path / "flow", config="0", weights="0")

    def replace() -> None:
        for number in range(1, 60):
            with replace_directory(flow) as staged:
                fill(staged, config=str(number), weights=str(number))

    writer = threading.Thread(target=replace)
    writer.start()
    seen = set()
    while writer.is_alive():
        # One directory, held open: what a reader sees that resolved the path once.
        folder = os.open(flow, os.O_RDONLY)
        try:
            pair = [_read_at(folder, name) for name in ("config", "weights")]
        finally:
            os.close(folder)
        assert None in pair or pair[0] == pair[1]
        seen.add(pair[0])
    writer.join()
    assert len(seen) > 2
    assert content(flow) == {"config": "59", "weights": "59"}
    assert len(list(tmp_path.iterdir())) == 1


def _read_at(folder: int, name: str) -> str | None:
    """None where the directory was replaced and removed in the meantime."""
    try:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor) as file:
        return file.read()


def test_without_the_kernel_s_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(atomic.ctypes, "CDLL", absent)
    fill(tmp_path / "flow", config="old", readme="mine")
    with replace_directory(tmp_path / "flow") as staged:
        fill(staged, config="new")
    assert content(tmp_path) == {"flow/config": "new", "flow/readme": "mine"}


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "real", config="old", readme="mine")
    (tmp_path / "flow").symlink_to("real")
    with replace_directory(tmp_path / "flow") as staged:
        fill(staged, config="new")
    assert (tmp_path / "flow").is_symlink()
    assert content(tmp_path / "real") == {"config": "new", "readme": "mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow", "real"]


@pytest.mark.parametrize("why", ["working directory", "mount point", "parent not writable", "busy"])
def test_a_directory_that_cannot_be_renamed(
    tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell stands in it, or a container's volume: its files are replaced, the config last."""
    flow = fill(tmp_path / "flow", config="old", weights="old", memory="old", readme="mine")
    fill(flow / "sub", own="mine", grid="old")
    before = flow.stat().st_ino
    mkdir = Path.mkdir

    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        if path.parent == tmp_path and path.name.startswith("."):
            raise PermissionError(13, "Permission denied")
        mkdir(path, *args, **kwargs)  # type: ignore[arg-type]

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    if why == "working directory":
        monkeypatch.chdir(flow)
    elif why == "mount point":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == flow)
    elif why == "busy":
        monkeypatch.setattr(atomic, "_exchange", busy)
    else:
        monkeypatch.setattr(Path, "mkdir", refuse)
    order = []
    replace = Path.replace

    def watched(path: Path, target: Path) -> Path:
        order.append(target.name)
        assert not (flow / "config").exists()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    with replace_directory(flow, drop=frozenset({"memory"}), last="config") as staged:
        fill(staged, config="new", weights="new")
        fill(staged / "sub", grid="new")
    assert order[-1] == "config"
    expected = {"config": "new", "weights": "new", "readme": "mine"}
    assert content(flow) == expected | {"sub/own": "mine", "sub/grid": "new"}
    assert flow.stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["flow"]


def test_modes(tmp_path: Path) -> None:
    """A new directory is as public as the process's umask says, an old one as it was."""

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    before = os.umask(0o027)
    try:
        with replace_directory(tmp_path / "flow") as staged:
            write_text(staged / "config", "1")
        assert (mode(tmp_path / "flow"), mode(tmp_path / "flow" / "config")) == (0o750, 0o640)
        (tmp_path / "flow").chmod(0o775)
        with replace_directory(tmp_path / "flow") as staged:
            write_text(staged / "config", "2")
        assert mode(tmp_path / "flow") == 0o775
    finally:
        os.umask(before)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.md"
    write_text(path, "grün")
    assert path.read_bytes() == "grün".encode()
    write_bytes(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="space"):
        write_bytes(path, b"\x02")
    assert path.read_bytes() == b"\x00\x01"
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]
