"""One writer for each output, with real processes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from forked import run_python
from nfa_tools import batch_of
from nfa_tools import checkpoint as parts

import nfaug
from nfaug.bank import make_bank
from nfaug.io.atomic import INNER_LOCK, check_output, replace_directory
from nfaug.io.lock import OutputInUseError, lock_output

HOLD = """
import sys
from pathlib import Path
from nfaug.io.lock import lock_output
with lock_output(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def holder(out: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of `out`."""
    command = [sys.executable, "-c", HOLD, str(out)]
    child = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def test_the_second_process_fails_at_once_and_names_the_first(
    holder: subprocess.Popen[str], out: Path
) -> None:
    for _ in range(2):  # a failed attempt leaves the name of the holder
        with pytest.raises(OutputInUseError, match=rf"{holder.pid}.*{socket.gethostname()}"):
            lock_output(out).__enter__()
    with pytest.raises(OutputInUseError, match=str(holder.pid)):
        nfaug.load("builtin:rgb32").save(out)
    assert not out.exists()


def test_other_ranks_lock_only_what_is_their_own(
    holder: subprocess.Popen[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with lock_output(out):
        pass
    with pytest.raises(OutputInUseError, match=str(holder.pid)):
        lock_output(out, every_rank=True).__enter__()


def test_the_lock_of_a_killed_process_is_taken_over(
    holder: subprocess.Popen[str], out: Path
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    nfaug.load("builtin:rgb32").save(out)
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]


@pytest.mark.skipif(
    tuple(map(int, filelock.__version__.split(".")[:3])) < (4, 2, 12),
    reason="older releases of filelock, the last for Python 3.10, take such a lock over",
)
@pytest.mark.filterwarnings("ignore:flock")
def test_a_file_system_without_locks(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host and process are compared instead."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    start = f"import errno, fcntl\ndef flock(*_): raise OSError({errno.ENOSYS}, 'no locks')\n"
    command = [sys.executable, "-c", f"{start}fcntl.flock = flock\n{HOLD}", str(out)]
    monkeypatch.setattr(fcntl, "flock", flock)
    child = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(OutputInUseError, match=rf"{child.pid}.*{socket.gethostname()}"):
        lock_output(out).__enter__()
    child.kill()
    child.communicate()
    with lock_output(out):
        pass
    assert not list(out.parent.iterdir())


def test_a_thread_may_lock_an_output_twice_and_nothing_is_left(tmp_path: Path) -> None:
    with lock_output(tmp_path / "deep" / "out"), lock_output(tmp_path / "deep" / "out"):
        check_output(tmp_path / "deep" / "out", overwrite=False)
    assert not list(tmp_path.iterdir())


def test_a_lock_inside_the_folder_survives_its_replacement(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with lock_output(out):
        check_output(out, overwrite=False)
        with replace_directory(out) as staged:
            (staged / "new").write_text("")
        assert sorted(entry.name for entry in out.iterdir()) == [INNER_LOCK, "new"]
    assert [entry.name for entry in out.iterdir()] == ["new"]


def test_only_the_main_process_of_torchrun_locks(
    holder: subprocess.Popen[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    nfaug.load("builtin:rgb32").save(out)
    assert (out / "config.json").exists()


class Slow(torch.utils.data.TensorDataset):
    """Images, of which the last waits for a second bank in the same folder."""

    second: list[str]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        if index == len(self) - 1 and self.second is not None:
            self.result, self.second = run_python(self.second), None
        return super().__getitem__(index)


SECOND = """
import sys
sys.path.insert(0, sys.argv[2])
from nfa_tools import batch_of, checkpoint
import torch
from nfaug.bank import make_bank
data = torch.utils.data.TensorDataset(*batch_of(24))
make_bank(checkpoint(), data, sys.argv[1], overwrite=True, progress=False)
"""


def test_a_second_bank_in_the_same_folder_loses_nothing(out: Path, tmp_path: Path) -> None:
    images, labels = batch_of(24)
    data = Slow(images, labels)
    data.second = ["-c", SECOND, str(out), str(Path(__file__).parent.parent)]
    bank = make_bank(parts(), data, out, progress=False)
    assert data.result.returncode == 1
    assert str(os.getpid()) in data.result.stderr
    calm = torch.utils.data.TensorDataset(images, labels)
    alone = make_bank(parts(), calm, tmp_path / "alone", progress=False)
    assert np.array_equal(bank.variants, alone.variants)
    assert np.array_equal(bank.applied, alone.applied)
