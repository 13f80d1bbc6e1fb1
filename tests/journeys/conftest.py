"""Folders of images and a fitted flow, made as a user makes them, and a way to run scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.forked import run_python
from tools.nfa import write_images

SCRIPTS = Path(__file__).parent / "scripts"
Run = Callable[..., Any]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a script of this folder, or a command of Python; returns the JSON that it prints last."""
    home = tmp_path_factory.mktemp("home")

    def run_command(*words: object, **env: str) -> Any:
        script = SCRIPTS / str(words[0])
        command = (script, *words[1:]) if script.is_file() else words
        settings = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", **env}
        ran = run_python(command, cwd=home, env=os.environ | settings)
        assert ran.returncode == 0, ran.stderr
        assert "Traceback" not in ran.stderr
        return json.loads("{" + f"\n{ran.stdout}".rpartition("\n{")[2])

    return run_command


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of three classes of color images, 32 x 32 pixels."""
    return write_images(tmp_path_factory.mktemp("photos"), 32, train=8, val=2)


@pytest.fixture(scope="session")
def flow_dir(run: Run, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled color flow, fitted to the folder with `nfaug fit`."""
    out = tmp_path_factory.mktemp("fitted") / "flow"
    words = ["--checkpoint", "builtin:rgb32", "--data", folder / "train", "--out", out, "--rank", 5]
    assert run("-m", "nfaug", "fit", *words, "--json")["images"] == 24
    return out
