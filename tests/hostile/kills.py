"""SIGKILL at any moment of a fit, a bank, a training and a pull, in turn.

After a kill `--out` is missing, the flow before or the whole new one, or a bank or a run that the
same command continues to the result of a calm run, bit for bit. A fit continues with the classes
that are finished, which lie beside `--out`, and removes them. `pull` reads a cache.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants
from tools.nfa import NAMES, write_images

import nfaug
from nfaug.bank import Bank

from .checkpoints import make
from .commands import command_words, start_command

__all__ = ["case", "prepare"]

WHOLE = ("fit", "pull")  # these write all at once
CLASSES = 40  # of the data of a fit


def prepare(folder: Path) -> None:
    """Make two flows, data, and a cache of the Hub that holds the first flow."""
    make(folder)
    write_images(folder / "data", 8, train=8)
    for number in range(CLASSES):
        shutil.copytree(
            folder / "data" / "train" / NAMES[number % 3], folder / "many" / f"{number}"
        )
    constants.HF_HUB_CACHE = str(folder / "hub")
    constants.HF_HUB_OFFLINE = True
    cached = folder / "hub" / "models--owner--flow"
    commit = "0" * 40
    shutil.copytree(folder / "one", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)


def case(folder: Path, number: int) -> str:
    """Kill a command at a random moment, look at what it left, and run it again."""
    rng = random.Random(number)
    words = command_words(folder / "data", folder / "one")
    name = [*words][number % len(words)]
    out = folder / "out"
    finished = folder / ".out.fit"
    expected, seconds = calm(folder, name)
    while True:
        shutil.rmtree(out, ignore_errors=True)
        if name in WHOLE and rng.random() < 0.5:
            shutil.copytree(folder / "two", out)
        child = start(folder, name)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if status := os.waitpid(child, 0)[1]:  # else it had ended
            break
    assert status == signal.SIGKILL, "it failed"
    if (out / "config.json").exists() or (name in WHOLE and out.exists()):
        nfaug.load(out)
    if name == "bank" and out.exists() and result(out) != expected:
        with suppress(ValueError):  # it says that it is not complete
            raise AssertionError(f"a part is read: {Bank(out)}")
    share = len(list(finished.glob("[0-9]*.safetensors"))) / CLASSES
    assert os.waitpid(start(folder, name), 0)[1] == 0, "it does not go on"
    assert result(out) == expected, "another result"
    assert not finished.exists(), "finished classes are left"
    if name == "fit":
        fourth = min(3, int(4 * share))
        name = f"fit: {25 * fourth} to {25 * fourth + 25}% of classes finished"
    return f"{name}: killed, then the same to the bit"


@functools.cache
def calm(folder: Path, name: str) -> tuple[dict[str, str], float]:
    """The result of a run that nothing disturbs, and its seconds."""
    began = time.monotonic()
    shutil.rmtree(folder / "out", ignore_errors=True)
    assert os.waitpid(start(folder, name), 0)[1] == 0
    return result(folder / "out"), time.monotonic() - began


def start(folder: Path, name: str) -> int:
    """Start the command, or continue its run."""
    out = folder / "out"
    if (out / "train.yaml").exists():
        return start_command(["train", f"--resume={out}"])
    data = folder / ("many" if name == "fit" else "data")
    words = command_words(data, folder / "one")[name]
    return start_command([*words, f"--out={out}"])


def result(out: Path) -> dict[str, str]:
    """The hashes of the files that a command wrote, but for those that hold the time."""
    files = [file for file in sorted(out.iterdir()) if file.suffix in (".safetensors", ".npy")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
