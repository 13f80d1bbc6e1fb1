"""What the files of the project say about it is true: versions, paths, tests of breaks, pages."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from pathlib import Path

import yaml

import nfaug
from nfaug.classes.priors import PRIORS, PriorConfig
from nfaug.flows.config import BACKBONES

ROOT = Path(__file__).resolve().parent.parent
#: That were found.
BREAKS = {*range(1, 124)}
# 34 and 41 are about readers of parquet files and of the Hub's data, and 69 about an adapter to
# kornia, which left, as did 82, commands for timm, and 86 and 111, a search for copies that look
# alike; 53 is about sentences, and 106 to 108 about tests and benchmarks on a machine with a GPU.
NO_INPUT = {34, 41, 53, 69, 82, 86, 106, 107, 108, 111}
# What a clone is tested with, and no user installs.
TOOLS = {"build", "hypothesis", "import-linter", "mypy", "playwright", "pytest", "pytest-timeout",
         "pytest-xdist", "ruff", "setuptools", "types-pyyaml"}  # fmt: skip


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_break_has_a_test() -> None:
    """A docstring that starts with "Break 32" or "Breaks 7 and 32" says what a test holds."""
    held: set[int] = set()
    for path in (ROOT / "tests/breaks").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                first = (ast.get_docstring(node) or "").partition(":")[0]
                assert first.startswith("Break"), f"{path.name}: {node.name}"
                held |= {int(number) for number in re.findall(r"\d+", first)}
    assert held == BREAKS - NO_INPUT


def test_entries_of_the_registries_can_be_chosen_by_name() -> None:
    for name, backbone in BACKBONES.items():
        assert backbone.name == name
    for kind, prior in PRIORS.items():
        assert PriorConfig(kind=kind).entry is prior


def test_paths_in_contributing_exist() -> None:
    paths = re.findall(r"`([\w.]+/[\w./-]*)`", read("CONTRIBUTING.md"))
    assert paths
    for path in paths:
        real = Path(path).parent if "NAME" in path else Path(path)
        assert (ROOT / real).exists(), path


def test_one_version() -> None:
    assert importlib.metadata.version("nfaug") == nfaug.__version__
    assert yaml.safe_load(read("CITATION.cff"))["version"] == nfaug.__version__
    versions = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.M)
    newest, *_ = [version for version in versions if version != "Unreleased"]
    assert newest == nfaug.__version__
    assert "Unreleased" not in versions[1:]


def test_ci_tests_the_lower_bounds() -> None:
    """Of each dependency that users install."""
    bounds = {}
    for requirement in importlib.metadata.requires("nfaug") or []:
        match = re.match(r"([\w-]+)(?:\[\w+\])?(?:[^;]*>=([\w.]+))?", requirement)
        assert match, requirement
        name = match[1].lower()
        if name not in TOOLS | {"nfaug"}:
            assert match[2], f"{requirement} has no lower bound"
            bounds[name] = match[2]
    lines = read(".ci/oldest.txt").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pinned.keys() == bounds.keys()
    for name, version in pinned.items():
        # 2.4.* is the first series of >=2.4.
        prefix = version.removesuffix(".*")
        assert f"{prefix}.".startswith(f"{bounds[name]}."), name


def test_examples_use_public_names() -> None:
    public = {"nfaug", "nfaug.bank", "nfaug.cli", "nfaug.compare", "nfaug.hub", "nfaug.training"}
    for path in sorted((ROOT / "examples").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        used = set(re.findall(r"^\s*(?:from|import) (nfaug[\w.]*)", text, re.M))
        private = {name for name in used - public if not name.startswith("nfaug.integrations.")}
        assert not private, path.name


def test_public_names_are_in_the_reference() -> None:
    pages = [
        path.read_text(encoding="utf-8") for path in (ROOT / "docs/reference/python").glob("*.md")
    ]
    text = "\n".join(pages)
    for name in set(nfaug.__all__) - {"__version__"}:
        assert re.search(rf":: (nfaug\.)?{name}$", text, re.M), name


def test_releases_need_no_token() -> None:
    workflows = (ROOT / ".github/workflows").glob("*.yml")
    for path in workflows:
        text = path.read_text(encoding="utf-8")
        assert yaml.safe_load(text)["permissions"] == {"contents": "read"}, path
        assert "secrets." not in text, path
