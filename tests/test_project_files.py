"""The files around the package agree with it: citation, workflows, hooks, the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import nfaug

ROOT = Path(__file__).resolve().parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_citation_is_of_this_version() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert citation["version"] == nfaug.__version__
    assert f'license = "{citation["license"]}"' in PROJECT
    assert citation["preferred-citation"]["url"] in PROJECT
    assert citation["authors"] == [{"name": "The nfaug contributors"}]


def test_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert versions[0] == "Unreleased"
    assert nfaug.__version__ in versions


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_use_what_exists_and_few_rights(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 40
        for step in job["steps"]:
            for target in re.findall(r"^make .*?([a-z-]+)$", step.get("run", ""), re.M):
                assert re.search(rf"^{target}:", MAKEFILE, re.M)
            for file in re.findall(r"\.ci/\w+|scripts/\w+\.py", step.get("run", "")):
                assert (ROOT / file).is_file()


def test_release_is_published_without_a_token() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    publish = yaml.safe_load(text)["jobs"]["publish"]
    assert publish["permissions"]["id-token"] == "write"
    assert any("pypi-publish" in step["uses"] for step in publish["steps"])
    assert "secrets." not in text


def test_hooks_use_the_versions_of_the_tests() -> None:
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    for hook in repository["hooks"]:
        for requirement in hook.get("additional_dependencies", ()):
            assert f'"{requirement}"' in PROJECT


def test_every_page_is_in_the_navigation() -> None:
    listed = set()
    for name in ("index", "more", "project", "api/index"):
        index = ROOT / "docs" / f"{name}.md"
        for tree in re.findall(r"```{toctree}\n(.*?)```", index.read_text(encoding="utf-8"), re.S):
            words = [line for line in tree.split("\n") if line and not line.startswith(":")]
            listed |= {(index.parent / f"{word}.md").resolve() for word in words}
    pages = {path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "generated"}
    assert pages - listed == {ROOT / "docs/index.md"}
    top = (ROOT / "docs/index.md").read_text(encoding="utf-8").partition("{toctree}")[2]
    assert len(re.findall(r"^[a-z].*$", top, re.M)) == 8


def test_public_modules_are_in_the_reference() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs/api").glob("*.md")]
    text = "\n".join(pages)
    for module in ("nfaug.bank", "nfaug.classes.fixed_point", "nfaug.hub", "nfaug.training"):
        assert f".. automodule:: {module}\n" in text
    for name in set(nfaug.__all__) - {"__version__"}:
        assert re.search(rf":: (nfaug\.)?{name}$", text, re.M), name
