"""Kill `nfaug train` at random moments.

Runs as a process of its own, which forks the commands: importing torch would take most of a new
interpreter's time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path


def killed_runs(words: list[str], out: Path, kills: int, seed: int) -> dict[str, object]:
    """Train into out/calm without and into out/killed with kills; return a summary."""
    command = [sys.executable, __file__, json.dumps([words, str(out), kills, seed])]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def _main() -> None:
    words, out, kills, seed = json.loads(sys.argv[1])
    # Import before the first fork.
    import ema_pytorch  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch._dynamo  # noqa: F401  # imported by optimisers

    import nfaug.commands.train
    import nfaug.training  # noqa: F401

    draw = random.Random(seed)
    began = time.monotonic()
    assert _wait(_fork(["train", *words, "--out", f"{out}/calm"])) == 0
    whole = time.monotonic() - began
    killed = f"{out}/killed"
    landed, steps = 0, []
    while landed < kills:
        child = _fork(_command(words, killed))
        time.sleep(draw.uniform(0.0, 2.5 * whole / kills))
        os.kill(child, signal.SIGKILL)
        landed += _wait(child) == -signal.SIGKILL
        steps.append(_newest(killed))
    assert _wait(_fork(_command(words, killed))) == 0
    print(json.dumps({"kills": landed, "seconds": whole, "steps": steps}))


def _command(words: list[str], out: str) -> list[str]:
    begun = Path(out, "train.yaml").exists()
    return ["train", "--resume", out] if begun else ["train", *words, "--out", out]


def _newest(out: str) -> int:
    return max((int(p.name[5:]) for p in Path(out, "state").glob("step-*")), default=-1)


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


if __name__ == "__main__":
    _main()
