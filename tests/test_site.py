"""The parts of the site that docs/generate.py makes, and what every page keeps to."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from nfaug.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "generated" not in path.parts)
HELP = """Fit it: *once*, with --out.

options:
  -h, --help            show this and exit
  --checkpoint CHECKPOINT
                        a folder, or [owner/name] (default: none)

Settings of it:
  --p P                 a number

Example:
  nfaug fit --p 1
"""


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    """docs/generate.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("generate")


def test_each_command_has_a_page() -> None:
    pages = {path.stem for path in (DOCS / "reference" / "commands").glob("*.md")}
    assert set(COMMANDS) <= pages
    index = (DOCS / "reference" / "commands" / "index.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"\n{command}\n" in index
        text = (DOCS / "reference" / "commands" / f"{command}.md").read_text(encoding="utf-8")
        assert f"generated/commands/{command}.md" in text


def test_the_index_has_all_commands(generate: ModuleType) -> None:
    page = generate.all_commands()
    assert all(f"[`{command}`]({command}.md)" in page for command in COMMANDS)


def test_options_become_a_list(generate: ModuleType) -> None:
    shown = "\n".join(generate.options_of(HELP))
    assert r"Fit it: \*once\*, with --out." in shown
    assert "## Options\n" in shown
    assert "## Settings of it\n" in shown
    assert "nfaug fit" not in shown
    assert "`-h, --help`\n: show this and exit" in shown
    assert "`--checkpoint CHECKPOINT`\n: a folder, or \\[owner/name\\]" in shown


def test_no_option_of_a_command_is_lost(generate: ModuleType) -> None:
    for verb in COMMANDS:
        parser = importlib.import_module(f"nfaug.commands.{verb}").parser()
        page = generate.command(verb)
        for option in re.findall(r"^  (--?[\w.-]+)", parser.format_help(), re.M):
            assert re.search(rf"^`{option}\b", page, re.M), f"nfaug {verb} {option}"


def test_links_out_of_the_folder_lead_somewhere(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[a](../../CONTRIBUTING.md#release) [b](../../examples/finetune_timm.py) [c](tune.md)"
    monkeypatch.setattr(generate, "source_url", lambda: "")
    without = generate.site_links(text, DOCS / "how-to")
    assert without.startswith("[a](/project/contributing.md#release) ")
    assert "{download}`b </../examples/finetune_timm.py>`" in without
    assert without.endswith(" [c](tune.md)")
    page = generate.site_links("[d](docs/how-to/tune.md#p)", ROOT)
    assert page == "[d](/how-to/tune.md#p)"
    monkeypatch.setattr(generate, "source_url", lambda: "https://example.org/name")
    linked = generate.site_links(text, DOCS / "how-to")
    assert "[b](https://example.org/name/blob/main/examples/finetune_timm.py)" in linked
    assert "git clone https://example.org/name\ncd name" in generate.source()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_words_of_the_glossary(path: Path) -> None:
    """One word for one thing: see docs/explanation/glossary.md."""
    text = path.read_text(encoding="utf-8")
    for word in ("my-flow", "data set", "grey", "colour", "normalis", "labels a class", "per cent"):
        assert word not in text.lower(), word


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_pages_of_the_repository_show_no_directives(path: Path) -> None:
    """GitHub shows directives and roles as they are written; comments are for the site alone."""
    shown = re.sub(r"^<!-- site\n.*?^-->$", "", path.read_text("utf-8"), flags=re.M | re.S)
    assert not re.search(r"^[`:]{3,}\{|\{[\w:]+\}`", shown, re.M)
    assert len(re.sub("^#.*$|<!--.*?-->", "", shown, flags=re.M).split()) > 0, "text beside titles"
    assert not re.search(r":\n*\Z|:\n\n+(?=#)", shown), "what follows is shown"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {DOCS / "index.md"}
    for path in PAGES:
        for block in re.findall(
            r"^```\{toctree\}\n(.*?)^```", path.read_text("utf-8"), re.M | re.S
        ):
            names = [line for line in block.split() if re.fullmatch(r"[\w/-]+", line)]
            listed |= {path.parent / f"{name}.md" for name in names}
    assert set(PAGES) <= listed
