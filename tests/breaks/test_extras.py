"""Breaks of libraries that are not installed, and of what nfaug says to install them."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nfaug.io.extras import EXTRAS, optional_imports, require

ROOT = Path(__file__).resolve().parents[2]

# Statements, and the libraries that are hidden from each. In a process of their own, since modules
# that are imported already would be found.
HIDDEN = """
import contextlib, io, json, sys
from importlib.machinery import PathFinder

import torch
import nfaug.training
from nfaug import open_dataset
from nfaug.cli import main

images = [(torch.full((1, 8, 8), i, dtype=torch.uint8), i % 2) for i in range(8)]


class Finder(PathFinder):
    hidden = None

    @classmethod
    def find_spec(cls, name, *options):
        return None if name == cls.hidden else super().find_spec(name, *options)


sys.meta_path[sys.meta_path.index(PathFinder)] = Finder


@contextlib.contextmanager
def hide(library):
    names = [name for name in sys.modules if name.split(".")[0] == library]
    loaded = {name: sys.modules.pop(name) for name in names}
    Finder.hidden = library
    yield
    sys.modules.update(loaded)


def outcome(statement):
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            result = eval(statement) if statement.startswith("main(") else exec(statement)
    except BaseException as error:
        return [type(error).__name__, str(error)]
    return [result, stderr.getvalue()]


for library, statement in json.loads(sys.stdin.read()):
    with hide(library):
        print(json.dumps([library, statement, outcome(statement)]), flush=True)
"""
COMPARE = (
    "from nfaug.compare import *; compare(images, 'no-such-folder/out', config=CompareConfig())"
)
FUNCTIONS = (
    ("albumentations", "import nfaug.integrations.albumentations"),
    ("albumentations", "nfaug.integrations.albumentations"),
    ("torchvision", "import nfaug.integrations.timm"),
    ("timm", "import nfaug.integrations.timm"),
    ("timm", "from nfaug.integrations.timm.script import run_script"),
    ("torchvision", COMPARE),
    ("scipy", COMPARE),
    ("matplotlib", COMPARE),
    ("timm", COMPARE.replace("()", "(network='resnet18')")),
    ("sklearn", COMPARE.replace("()", "(network='resnet18')")),
    ("sklearn", "open_dataset('digits')"),
    ("scipy", "open_dataset('digits')"),
    ("timm", "open_dataset('torch/cifar10')"),
    ("torchvision", "open_dataset('torch/cifar10')"),
    ("ema_pytorch", "nfaug.training.train(images)"),
    ("tensorboard", "nfaug.training.train(images, 'my-run')"),
)
COMMANDS = (
    ("ema_pytorch", "train --data my-images --out my-run"),
    ("tensorboard", "train --data my-images --out my-run"),
    ("timm", "timm train.py --checkpoint builtin:rgb32"),
    ("torchvision", "timm train.py --checkpoint builtin:rgb32"),
    ("sklearn", "preview --checkpoint builtin:pixels --data digits --out grid.png"),
    ("timm", "fit --checkpoint builtin:pixels --data torch/cifar10 --out my-nfa"),
)


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the statements read."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "my-images").symlink_to(tiny_folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[Any, Any]:
    """The type and text of the error of each function; exit code and standard error of commands."""
    commands = [(library, f"main({words.split()!r})") for library, words in COMMANDS]
    ran = subprocess.run(
        [sys.executable, "-c", HIDDEN],
        input=json.dumps([*FUNCTIONS, *commands]),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    rows = map(json.loads, ran.stdout.splitlines())
    return {(library, statement): outcome for library, statement, outcome in rows}


def line(library: str) -> str:
    """What an error about a library says."""
    command = f'pip install -e ".[{EXTRAS[library]}]"'
    return f"No module named '{library}'. In your clone of nfaug, run: {command}"


@pytest.mark.parametrize(("library", "statement"), FUNCTIONS)
def test_a_function_names_the_missing_library_and_its_extra(
    outcomes: Any, library: str, statement: str
) -> None:
    """Break 105: adapters raised bare errors, or named a package of PyPI that is not ours."""
    assert outcomes[library, statement] == ["ModuleNotFoundError", line(library)]


@pytest.mark.parametrize(("library", "words"), COMMANDS)
def test_a_command_names_the_missing_library_and_its_extra(
    outcomes: Any, library: str, words: str
) -> None:
    """Break 105: commands said `pip install 'nfaug[train]'`, a package of a stranger."""
    code, error = outcomes[library, f"main({words.split()!r})"]
    assert (code, error) == (1, f"nfaug {words.split()[0]}: {line(library)}\n")


def test_a_training_without_its_libraries_writes_nothing(outcomes: Any, folder: Path) -> None:
    """Break 105: it read all images and wrote settings before the error."""
    assert len(outcomes) == len(FUNCTIONS) + len(COMMANDS)
    assert sorted(path.name for path in folder.iterdir()) == ["my-images"]


def test_libraries_of_a_long_computation_are_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break 105: a comparison without torchvision failed in its first cell."""
    require("torchvision", "sklearn", "scipy", "matplotlib")
    for library in ("sklearn", "matplotlib"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        require("torchvision", "sklearn", "scipy", "matplotlib")
    assert (str(caught.value), caught.value.name) == (line("sklearn"), "sklearn")
    with pytest.raises(ModuleNotFoundError) as again, optional_imports():
        require("matplotlib")
    assert str(again.value) == line("matplotlib"), "not said twice"


def test_a_library_of_no_extra_is_named_alone() -> None:
    """Break 105: a command said that the extra `train` installs whatever is missing."""
    with pytest.raises(ModuleNotFoundError) as caught, optional_imports():
        importlib.import_module("no_such_library")
    assert str(caught.value) == "No module named 'no_such_library'"
    with pytest.raises(ModuleNotFoundError) as unnamed, optional_imports():
        raise ModuleNotFoundError("timm")
    assert str(unnamed.value) == "timm"


def test_every_library_of_an_extra_is_known() -> None:
    """Break 105: a library that is added to pyproject.toml is named by errors, too."""
    modules = {"scikit-learn": "sklearn", "ema-pytorch": "ema_pytorch"}
    found = {}
    for requirement in importlib.metadata.requires("nfaug") or []:
        name = re.split(r"[\[<>=~; ]", requirement)[0].lower()
        extra = re.search(r"extra == .(\w+)", requirement)
        if extra and extra[1] not in ("test", "examples", "docs", "all"):
            found[modules.get(name, name)] = extra[1]
    assert found == EXTRAS


# Of a line after `pip install`: a word that pip would look for on PyPI.
INSTALL = re.compile(r"(?:pip3?|pipx|uv) (?:install|add)\b([^#`\n]*)")
BY_NAME = re.compile(r"""(?<![\w/.+-])nfaug(?![\w/.-])(?:\[[\w,]*\])?(?!\s*@)""")
WITH_EXTRA = re.compile(r"""\bnfaug\[[\w,]+\](?!\s*@)""")


def installs_by_name(text: str) -> list[str]:
    """The places of a text that install nfaug by its name."""
    text = text.replace("\\\n", " ")
    found = [match[0] for match in INSTALL.finditer(text) if BY_NAME.search(match[1])]
    return found + WITH_EXTRA.findall(text)


def test_nothing_installs_nfaug_by_name() -> None:
    """Break 105: the name may belong to anyone on PyPI, where nfaug is not yet."""
    files = [ROOT / "README.md"]
    for folder in ("src", "docs", "examples"):
        found = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        files += [path for path in found if path.parent.suffix != ".egg-info"]
    kinds = {".md", ".py", ".yaml", ".ipynb", ".txt", ".toml", ".html"}
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in kinds}
    assert len(texts) > 200
    lines = {str(path): installs_by_name(text) for path, text in texts.items()}
    assert {path: of_path for path, of_path in lines.items() if of_path} == {}


@pytest.mark.parametrize(
    ("text", "by_name"),
    [
        ("pip install nfaug", True),
        ("pip install 'nfaug[train]'", True),
        ('python -m pip install --upgrade "nfaug>=1"', True),
        ("pip install \\\n  torch nfaug", True),
        ('Install "nfaug[albumentations]" in its place', True),
        ("uv add nfaug", True),
        ('pip install -e ".[train]"  # in your clone of nfaug', False),
        ('pip install "nfaug @ git+https://x.example/nfaug"', False),
        ("nfaug[train] @ git+URL", False),
        ("pip install -e path/to/nfaug", False),
        ("`pip install -e .` of nfaug", False),
    ],
)
def test_lines_that_install_by_name(text: str, by_name: bool) -> None:
    """Break 105: what the test above looks for."""
    assert bool(installs_by_name(text)) == by_name
