"""After README's `pip install -e .`, type checkers see the package and scripts beside it run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parent / "scripts" / "typed.py"
MYPY = ["mypy", "--config-file=", "--ignore-missing-imports", "--python-executable"]
BUILD = "from setuptools.build_meta import build_editable as b; b('.')"
IMPORTS = """
import sys
sys.modules.update(dict.fromkeys(("torch", "numpy")))  # the environment has nfaug alone
import nfaug, nfaug.io.version
print(nfaug.__file__)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what an install needs, in a folder that is called as the package is."""
    folder = tmp_path_factory.mktemp("home") / "nfaug"
    shutil.copytree(ROOT / "src/nfaug", folder / "src/nfaug")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def interpreter(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a new environment with nothing but `pip install -e .` of nfaug."""
    subprocess.run([sys.executable, "-c", BUILD], cwd=clone, check=True, capture_output=True)
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    (site_packages,) = home.glob("lib/python*/site-packages")
    (wheel,) = clone.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
    return home / "bin" / "python"


def test_wrong_lines_are_found(interpreter: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", *MYPY, str(interpreter), str(SCRIPT)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    found = re.findall(r"typed\.py:(\d+):.*error", ran.stdout)
    lines = SCRIPT.read_text().splitlines()
    expected = [str(number) for number, line in enumerate(lines, 1) if line.endswith("# error")]
    assert found == expected, ran.stdout + ran.stderr


def test_only_nfaug_lies_on_the_path() -> None:
    """A package called training or hub would hide a folder of that name in a user's project."""
    folders = {path.name for path in (ROOT / "src").iterdir()}
    assert folders - {"nfaug.egg-info"} == {"nfaug"}


@pytest.mark.parametrize("name", ["nfaug", "training", "hub"])
def test_links_at_the_top_lead_into_the_package(name: str) -> None:
    """Git on Windows makes a text file of a link, so nothing may need one."""
    target = "src/nfaug" if name == "nfaug" else f"src/nfaug/{name}"
    link = ROOT / name
    if (ROOT / "PKG-INFO").exists():
        pytest.skip("an sdist has no links")
    written = os.readlink(link) if link.is_symlink() else link.read_text()
    assert written.strip() == target
    assert (ROOT / target / "__init__.py").is_file()


def test_a_script_beside_the_clone(interpreter: Path, clone: Path) -> None:
    """The clone itself, which lies on the path first, is no package."""
    script = clone.parent / "script.py"
    script.write_text(IMPORTS)
    alone = {**os.environ, "PYTHONPATH": ""}
    ran = subprocess.run([interpreter, script], capture_output=True, text=True, env=alone)
    assert ran.stdout.strip() == str(clone / "src/nfaug/__init__.py"), ran.stderr
