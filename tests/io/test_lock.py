"""One writer for each output, with real processes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tools.forked import run_python

import nfaug
from nfaug.io.lock import OutputInUseError, lock_output

HOLD = """
import sys
import time
from pathlib import Path
from nfaug.io.lock import lock_output
with lock_output(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lock") / "out"


@pytest.fixture(scope="module")
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


def test_only_a_group_of_processes_has_a_main_one(
    holder: subprocess.Popen[str], out: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; import torch.distributed as dist\n"
        "from nfaug.io.lock import OutputInUseError, lock_output\n"
        "rank, out = int(sys.argv[1]), Path(sys.argv[3])\n"
        "store = dist.FileStore(sys.argv[2], 2)\n"
        "dist.init_process_group('gloo', store=store, rank=rank, world_size=2)\n"
        "for every in (False, True):\n"
        "    try:\n"
        "        with lock_output(out, every_rank=every): print('free')\n"
        "    except OutputInUseError: print('held')\n"
        "dist.barrier(); dist.destroy_process_group()\n"
    )
    words = [["-c", code, rank, tmp_path / "store", out] for rank in ("0", "1")]
    with ThreadPoolExecutor() as group:
        found = [child.stdout.split() for child in group.map(run_python, words)]
    assert found == [["held", "held"], ["free", "held"]]


def test_a_thread_may_lock_an_output_twice_and_nothing_is_left(tmp_path: Path) -> None:
    with lock_output(tmp_path / "out"), lock_output(tmp_path / "out"):
        assert [entry.name for entry in tmp_path.iterdir()] == [".out.lock"]
    assert not list(tmp_path.iterdir())


def test_workers_of_a_process_that_was_killed_do_not_hold_its_lock(tmp_path: Path) -> None:
    """They are forked, and look only every few seconds whether their parent lives.

    A fork hands the lock's file to the worker, which closes it as it starts. So the parent waits
    until the worker runs before it is killed.
    """
    code = (
        "import os, sys, time; from pathlib import Path; from nfaug.io.lock import lock_output\n"
        "parent_side, worker_side = os.pipe()\n"
        "with lock_output(Path(sys.argv[1])):\n"
        "    if os.fork() == 0:\n"
        "        os.write(worker_side, b'.')\n"
        "        time.sleep(2)\n"
        "        os._exit(0)\n"
        "    os.read(parent_side, 1)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")])
    assert killed.wait() == -signal.SIGKILL
    with lock_output(tmp_path / "out"):
        assert (tmp_path / ".out.lock").exists()
