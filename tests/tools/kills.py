"""Kill commands at random moments.

Runs in a process of its own, which forks the commands.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.forked import run_python


def killed_runs(words: list[str], out: Path, kills: int, seed: int) -> dict[str, object]:
    """Train into out/calm without and into out/killed with kills; return a summary."""
    return _call(_train, words, str(out), kills, seed)


def killed_commands(
    words: list[str], out: Path, kills: int, seed: int, discard: list[Path]
) -> dict[str, Any]:
    """Kill a command that writes `out` at random moments, then let it end.

    Each attempt begins with what the one before left, without the folders of `discard` if that one
    ended. Returns the number of kills, the number of attempts that ended first, the
    seconds that one takes, all that was printed, and after each kill the state of `out`: the
    SHA-256 of its config.json, and whether it loads; for a bank, the number of images that are
    done.
    """
    return _call(_command, words, str(out), kills, seed, list(map(str, discard)))


def _call(function: Callable[..., object], *arguments: object) -> dict[str, Any]:
    ran = run_python([__file__, function.__name__, json.dumps(arguments)])
    assert ran.returncode == 0, ran.stderr
    summary: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return {**summary, "printed": ran.stderr}


def _train(words: list[str], out: str, kills: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    began = time.monotonic()
    assert _wait(_fork(["train", *words, "--out", f"{out}/calm"])) == 0
    whole = time.monotonic() - began
    killed = f"{out}/killed"
    landed, steps = 0, []
    while landed < kills:
        landed += _kill(_resumed(words, killed), draw.uniform(0.0, 2.5 * whole / kills))
        steps.append(_newest(killed))
    assert _wait(_fork(_resumed(words, killed))) == 0
    return {"kills": landed, "seconds": whole, "steps": steps}


def _command(
    words: list[str], out: str, kills: int, seed: int, discard: list[str]
) -> dict[str, Any]:
    draw = random.Random(seed)
    began = time.monotonic()
    assert _wait(_fork([*words, "--out", f"{out}-calm"])) == 0
    whole = time.monotonic() - began
    landed, attempts, states = 0, 0, []
    while landed < kills:
        attempts += 1
        hit = _kill([*words, "--out", out], draw.uniform(0.0, whole))
        states.append(_state(Path(out)))
        landed += hit
        for folder in [] if hit else discard:
            shutil.rmtree(folder)
    assert _wait(_fork([*words, "--out", out])) == 0
    ended = attempts - landed
    return {"kills": landed, "ended": ended, "seconds": whole, "states": states}


def _kill(words: list[str], seconds: float) -> bool:
    """Kill the command after so many seconds; return whether it was still running."""
    child = _fork(words)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return _wait(child) == -signal.SIGKILL


def _resumed(words: list[str], out: str) -> list[str]:
    begun = Path(out, "train.yaml").exists()
    return ["train", "--resume", out] if begun else ["train", *words, "--out", out]


def _newest(out: str) -> int:
    return max((int(p.name[5:]) for p in Path(out, "state").glob("step-*")), default=-1)


def _state(out: Path) -> Any:
    if (out / "manifest.json").exists():
        return json.loads((out / "manifest.json").read_text())["done"]
    if not (out / "config.json").exists():
        return None
    from nfaug.checkpoint.checkpoint import load

    load(out)
    return hashlib.sha256((out / "config.json").read_bytes()).hexdigest()


def _fork(words: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    from nfaug.cli import main

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(main(words))


def _wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _main() -> None:
    function = {"_train": _train, "_command": _command}[sys.argv[1]]
    print(json.dumps(function(*json.loads(sys.argv[2]))))


if __name__ == "__main__":
    _main()
