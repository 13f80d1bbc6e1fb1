"""pyproject.toml, the files of CI and the check of the wheel agree."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nfaug

ROOT = Path(__file__).resolve().parent.parent
TOOLS = {
    "build",
    "hypothesis",
    "import-linter",
    "mypy",
    "playwright",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "setuptools",
}


def lower_bounds() -> dict[str, str]:
    """Lowest version of each dependency that nfaug's users install."""
    found = {}
    for requirement in importlib.metadata.requires("nfaug") or []:
        match = re.match(r"([\w-]+)(?:\[\w+\])?(?:[^;]*>=([\w.]+))?", requirement)
        assert match, requirement
        name = match[1].lower()
        if name != "nfaug" and name not in TOOLS and not name.startswith("types-"):
            assert match[2], f"{requirement} has no lower bound"
            found[name] = match[2]
    return found


def test_ci_tests_the_lower_bounds() -> None:
    lines = (ROOT / ".ci/oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    bounds = lower_bounds()
    assert pinned.keys() == bounds.keys()
    for name, version in pinned.items():
        # 2.4.* is the first series of >=2.4.
        prefix = version.removesuffix(".*")
        assert bounds[name] == prefix or f"{prefix}.".startswith(f"{bounds[name]}."), name


def test_torch_has_no_upper_bound() -> None:
    requirements = importlib.metadata.requires("nfaug") or []
    bounded = [r for r in requirements if re.match(r"torch(vision)?\b", r) and "<" in r]
    assert not bounded


def test_installed_version_is_the_package_version() -> None:
    assert importlib.metadata.version("nfaug") == nfaug.__version__


def test_the_type_marker_is_there() -> None:
    assert (Path(nfaug.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    ("expected", "found", "problems"),
    [
        ({"nfaug/a.py"}, {"nfaug/a.py"}, []),
        (
            {"nfaug/a.py", "nfaug/training/recipes/digits.yaml"},
            {"nfaug/a.py", "nfaug/b.py"},
            [
                "in git, not in the wheel: nfaug/training/recipes/digits.yaml",
                "in the wheel, not in git: nfaug/b.py",
            ],
        ),
    ],
)
def test_wheel_comparison_shows_both_differences(
    expected: set[str], found: set[str], problems: list[str]
) -> None:
    spec = importlib.util.spec_from_file_location("wheel_script", ROOT / "scripts/wheel.py")
    assert spec is not None
    assert spec.loader is not None
    wheel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wheel)
    assert wheel.compare(expected, found) == problems


def test_examples_use_public_names() -> None:
    public = {"nfaug", "nfaug.bank", "nfaug.hub", "nfaug.training"}
    for path in sorted((ROOT / "examples").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        used = set(re.findall(r"^\s*(?:from|import) (nfaug[\w.]*)", text, re.M))
        private = {name for name in used - public if not name.startswith("nfaug.integrations.")}
        assert not private, path.name
        assert len(text.splitlines()) < 100, path.name


def test_extras_are_installed_by_name_where_nfaug_is_installed() -> None:
    """README: before a release, too. Without an index, pip looks at what is installed alone."""
    words = ["-m", "pip", "install", "--no-index", "--dry-run", "nfaug[kornia]"]
    ran = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "kornia" in ran.stdout
