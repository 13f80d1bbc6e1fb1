"""Hostile settings, as options of commands and in the YAML file of a run.

A command ends with exit status 0 or 2, in one line without a traceback or a control character. No
module is imported for a name in the settings, and nothing is written outside of `--out`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants

from nfaug.cli import main

from .checkpoints import places
from .layouts import write_classes

__all__ = ["KINDS", "case", "prepare"]

WARM = 20  # cases that run before memory is limited: they import much
COMMANDS = ("train", "fit", "bank", "compare", "preview", "sample", "eval", "info", "pull")
VALUES = (
    *("", "-1", "0", "1e400", "nan", "-inf", "ten", "null", "true", "[]", "{}", "[1, [2]]"),
    *("0x10", "9" * 400, "x" * 10_000, "\x1b[31mred", "../../etc/passwd", "%s%n", "${HOME}", "~"),
    *("a: b: c", "helper.X", "{class_path: helper.X}", "os.system", "*a", "&a [*a]", "99999"),
    *("!!python/name:os.system", "-99999", "1.5", "cuda:99", "mps", "meta", "owner/name", ","),
    "builtin:nothing",
)
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 10**30, 1e308, "", "x", "helper.X", [], {}, [[]], [1, 2, 3]),
    *({"class_path": "helper.X"}, {"class_path": "helper.X", "init_args": {}}, {"x": {"y": 1}}),
    *({"__import__": "helper"}, "helper", "helper:X", ["helper.X"], "x" * 10_000, "\x1b[2J"),
)
ALIASES = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\ne: [*d, *d]\n"
TINY = ("--flow.steps=[1]", "--flow.blocks=[1]", "--flow.width=[8]", "--pca.rank=2")
EXPECTED = (0, 1, 2)


def prepare(folder: Path) -> None:
    """Make data, a flow, a run and a module that leaves a mark, and import what commands import."""
    constants.HF_HUB_OFFLINE = True
    home = folder / "home"
    write_classes(home / "data", ("cat", "dog"), 0, count=4)
    (home / "helper.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass X: pass\n")
    os.chdir(home)
    sys.path.insert(0, str(home))
    said(["fit", "--checkpoint=builtin:pixels", "--data=data", "--out=flow", "--rank=2"])
    words = ["train", "--data=data", "--out=run", "--epochs=1", "--batch-size=4", *TINY]
    said([*words, "--tensorboard=false"])
    assert (home / "run" / "train.yaml").exists()
    for number in range(WARM):
        case(folder, number)


def case(folder: Path, number: int) -> str:
    """Run a command with hostile settings."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    home = folder / "home"
    shutil.rmtree(home / "out", ignore_errors=True)
    before = files(home)
    code, text = said(kind(home, rng))
    assert "Traceback" not in text, text[-500:]
    assert code in EXPECTED, (code, text[-300:])
    odd = [c for c in text if not c.isprintable() and c not in "\n\r\t"]
    assert not odd, f"control characters: {text[-300:]!a}"
    errors = [line for line in text.splitlines() if "error" in line or line.startswith("nfaug ")]
    assert max(map(len, errors), default=0) < 5000, "a line of an error is long"
    assert not (folder / "ran").exists(), "a module was imported"
    assert "helper" not in sys.modules, "a module was imported"
    assert files(home) == before, files(home) ^ before
    return f"{kind.__name__}: exit status {code}"


def files(home: Path) -> set[Path]:
    """The files and folders outside of `--out`, but for the one that a case writes."""
    found = {path for path in home.rglob("*") if "out" not in path.relative_to(home).parts}
    return found - {home / "hostile.yaml"}


def said(words: list[str]) -> tuple[int, str]:
    """The exit status of a command, and what it prints on standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 2
    return code, errors.getvalue()


@functools.cache
def options_of(command: str) -> tuple[str, ...]:
    """The options that the help of a command names."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([command, "--help"])
    found = set(re.findall(r"--[a-z][\w.-]*\w", shown.getvalue()))
    return tuple(sorted(found - {"--help", "--out"}))


def option(home: Path, rng: random.Random) -> list[str]:
    """One or two options of a command have hostile values; its data are not there."""
    command = rng.choice(COMMANDS)
    words = [command, "--data=nowhere", "--out=out"]
    if command in ("info", "pull"):
        words = [command, "flow"]
    elif command not in ("train", "compare"):
        words.append("--checkpoint=flow")
    for _ in range(rng.choice([1, 1, 2])):
        words.append(f"{rng.choice(options_of(command))}={rng.choice(VALUES)}")
    return words


def settings(home: Path) -> Any:
    return yaml.safe_load((home / "run" / "train.yaml").read_text())


def write_settings(home: Path, text: str) -> list[str]:
    (home / "hostile.yaml").write_text(text, errors="replace")
    return ["train", "-c", "hostile.yaml", "--data=nowhere", "--out=out"]


def value(home: Path, rng: random.Random) -> list[str]:
    """A value in the settings of a run becomes one of any type, or names a class."""
    values = settings(home)
    owner, key = rng.choice(list(places(values)))
    owner[key] = rng.choice(WRONG)
    return write_settings(home, yaml.safe_dump(values))


def unknown(home: Path, rng: random.Random) -> list[str]:
    values = settings(home)
    owner, _ = rng.choice(list(places(values)))
    if isinstance(owner, dict):
        owner[rng.choice(["class_path", "init_args", "dict_kwargs", "x", "__class__", ""])] = (
            "helper.X"
        )
    return write_settings(home, yaml.safe_dump(values))


def text(home: Path, rng: random.Random) -> list[str]:
    """Characters of the settings file are others."""
    characters = list((home / "run" / "train.yaml").read_text())
    for _ in range(rng.choice([1, 1, 5, 50])):
        characters[rng.randrange(len(characters))] = rng.choice(
            "{}[]\"':,\\0-eE.&*!%@`|>\x00\x1b\n "
        )
    return write_settings(home, "".join(characters))


def structure(home: Path, rng: random.Random) -> list[str]:
    """Aliases that multiply, deep nesting, tags, and files that are no mapping."""
    kinds = [
        ALIASES, "[" * 5000, "{a: " * 5000, "!!python/object:helper.X {}", "- 1\n- 2\n", "x", "",
        "optim: !!python/name:helper.X\n", "a: 1\na: 2\n", "---\na: 1\n---\nb: 2\n", "\x00" * 100,
        "optim: &a\n  x: *a\n", "flow: {class_path: helper.X}\n", "prior: helper.X\n",
    ]  # fmt: skip
    return write_settings(home, rng.choice(kinds))


def resumed(home: Path, rng: random.Random) -> list[str]:
    """The run itself has the hostile settings."""
    values = settings(home)
    owner, key = rng.choice(list(places(values)))
    owner[key] = rng.choice(WRONG)
    out = home / "out"
    out.mkdir(exist_ok=True)
    (out / "train.yaml").write_text(yaml.safe_dump({**values, "data": "nowhere"}))
    return ["train", "--resume", "out"]


KINDS: list[Callable[[Path, random.Random], list[str]]] = [
    *(option, value, option, unknown, text, option, structure, value, option, resumed),
]
