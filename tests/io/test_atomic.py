from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nfaug.io import atomic
from nfaug.io.atomic import check_output, replace_directory, write_bytes, write_text


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
    old.chmod(0o775)
    with replace_directory(old, drop=frozenset({"memory", "weights", "never"})) as staged:
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
    assert old.stat().st_mode & 0o777 == 0o775


@pytest.mark.parametrize("failing", ["block", "os.fsync", "shutil.copymode"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_leaves_everything_as_it_was(
    tmp_path: Path, failing: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    fill(tmp_path / "flow", config="old", readme="mine")
    if failing != "block":
        monkeypatch.setattr(failing, fail)

    def replace() -> None:
        with replace_directory(tmp_path / "flow") as staged:
            fill(staged, config="new")
            if failing == "block":
                fail()

    with pytest.raises(error):
        replace()
    assert content(tmp_path) == {"flow/config": "old", "flow/readme": "mine"}


# The module alone: importing the package would take a second.
SAVER = """
import runpy, sys, time
from pathlib import Path

module = runpy.run_path(sys.argv[2])
rename = Path.rename
def renamed(path, target):
    rename(path, target)
    print("half", flush=True)
    time.sleep(60)
if sys.argv[3] == "between":
    Path.rename = renamed
with module["replace_directory"](Path(sys.argv[1])) as staged:
    (staged / "config").write_text("new")
    if sys.argv[3] == "block":
        print("half", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("moment", ["block", "between"])
def test_a_killed_process_leaves_the_old_one(tmp_path: Path, moment: str) -> None:
    """Between the two renames it lies aside, and the next writer puts it back."""
    fill(tmp_path / "flow", config="old", weights="old")
    command = [sys.executable, "-c", SAVER, str(tmp_path / "flow"), str(atomic.__file__), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half\n"
        child.send_signal(signal.SIGKILL)
    old = tmp_path / ("flow" if moment == "block" else ".flow.old")
    assert content(old) == {"config": "old", "weights": "old"}
    with replace_directory(tmp_path / "flow") as staged:
        fill(staged, config="newer")
    assert content(tmp_path / "flow") == {"config": "newer", "weights": "old"}


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "real", config="old", readme="mine")
    (tmp_path / "flow").symlink_to("real")
    with replace_directory(tmp_path / "flow") as staged:
        fill(staged, config="new")
    assert (tmp_path / "flow").is_symlink()
    assert content(tmp_path / "real") == {"config": "new", "readme": "mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow", "real"]


def test_what_cannot_be_replaced_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill(tmp_path / "here" / "below"))
    for path, why in ((Path(".."), "current directory"), (Path("/proc"), "mount point")):
        with pytest.raises(OSError, match=why):
            check_output(path, overwrite=True)
        with pytest.raises(OSError, match=why), replace_directory(path):
            pytest.fail("no work is done")


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.md"
    write_text(path, "grün")
    assert path.read_bytes() == "grün".encode()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="space"):
        write_bytes(path, b"\x02")
    assert path.read_bytes() == "grün".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]
