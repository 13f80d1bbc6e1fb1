"""Type checkers follow an editable install of mode strict, whose .pth file names a real folder."""

from __future__ import annotations

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
BUILD = "from setuptools.build_meta import build_editable as b; b('.', {'editable_mode': 'strict'})"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a new environment with nothing but `pip install -e . -C editable_mode=strict` of nfaug."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("nfaug", "training", "hub"):
        shutil.copytree(ROOT / name, clone / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
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
