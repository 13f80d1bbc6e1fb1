"""Run Python in children that are forked from a server that has imported torch.

A new interpreter takes 1.5 s of the processor to import torch, and twice that to train. Each
process of pytest has one server, which `multiprocessing` starts at the first call.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_python"]

_SERVER = multiprocessing.get_context("forkserver")
# Without huggingface_hub, which reads its variables when it is imported.
_PRELOADED = ["ema_pytorch", "sklearn.datasets", "torch._dynamo", "nfaug.commands.train"]
_USED = ["nfaug.training.trainer", "nfaug.fitting.checkpoints", "nfaug.bank.make"]
_SERVER.set_forkserver_preload([*_PRELOADED, *_USED])


def run_python(
    words: Sequence[object], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run what `python WORDS...` runs: a script, -m MODULE or -c CODE, and their arguments."""
    settings = dict(os.environ if env is None else env), str(cwd or Path.cwd())
    with tempfile.TemporaryDirectory() as folder:
        child = _SERVER.Process(target=_run, args=([*map(str, words)], *settings, folder))
        child.start()
        child.join()
        out, err = ((Path(folder) / name).read_text(errors="replace") for name in ("out", "err"))
    assert child.exitcode is not None
    return subprocess.CompletedProcess(words, child.exitcode, out, err)


def _run(words: list[str], env: dict[str, str], cwd: str, folder: str) -> None:
    for number, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    os.chdir(cwd)
    option, rest = words[0], words[1:]
    if option == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif option == "-c":
        sys.argv = [option, *rest[1:]]
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(rest[0], "<string>", "exec"), names)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(option).resolve().parent))
        runpy.run_path(option, run_name="__main__")
