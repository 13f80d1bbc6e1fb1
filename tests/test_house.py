"""The tree, the registries and the tests follow CONTRIBUTING.md. Layers: `make imports`."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from nfaug.classes.priors import PRIORS, Prior, PriorConfig
from nfaug.flows.backbone import Backbone
from nfaug.flows.config import BACKBONES

ROOT = Path(__file__).resolve().parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGES = sorted({path.parent for path in (ROOT / "src/nfaug").rglob("*.py")})
MOST_MODULES = 14
BREAKS = 76  # that were found so far
NO_INPUT = {53}  # sentences of `nfaug compare` that mislead
MOST_FILES = {  # that one opens for a task of "How do I..."
    "backbone": 2, "mixing setting": 2, "integration": 1, "prior": 2, "data source": 2,
}  # fmt: skip


def tasks() -> dict[str, str]:
    """The sections of "How do I...", by the name of what is added."""
    section = CONTRIBUTING.partition("## How do I...")[2].partition("\n## ")[0]
    parts = re.split(r"^\*\*Add an? (.+?)\*\*", section, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def paths(text: str) -> list[str]:
    """The files and folders of this repository in backticks."""
    return re.findall(r"`([\w.]+/[\w./-]*)`", text)


def test_only_entry_points_lie_outside_of_packages() -> None:
    allowed = {"__init__", "__main__", "cli", "fitting"}
    assert {path.stem for path in (ROOT / "src/nfaug").glob("*.py")} <= allowed


def test_packages_are_small_and_documented() -> None:
    for package in PACKAGES:
        modules = [path for path in package.glob("*.py") if path.stem != "__init__"]
        assert len(modules) <= MOST_MODULES or package.name == "commands"
        text = (package / "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), package


def test_entries_of_the_registries_can_be_chosen_by_name() -> None:
    for name, backbone in BACKBONES.items():
        assert issubclass(backbone, Backbone)
        assert backbone.name == name
        assert Path(inspect.getfile(backbone)).parent == ROOT / "src/nfaug/flows"
    for kind, prior in PRIORS.items():
        assert isinstance(prior, Prior)
        assert PriorConfig(kind=kind).entry is prior


def test_each_task_opens_few_files_and_they_exist() -> None:
    assert tasks().keys() == MOST_FILES.keys()
    for name, text in tasks().items():
        files = paths(text)
        assert 0 < len(set(files)) <= MOST_FILES[name], name
        for file in files:
            path = ROOT / file
            assert path.exists() or (path.stem == "NAME" and path.parent.is_dir()), file


def test_paths_in_contributing_exist() -> None:
    found = [path for path in paths(CONTRIBUTING) if "NAME" not in path]
    assert [path for path in found if not (ROOT / path).exists()] == []
    table = CONTRIBUTING.partition("| package | contents |")[2].partition("\n\n")[0]
    rooms = {path.rstrip("/") for path in paths(table)}
    assert {
        str(path.relative_to(ROOT)) for path in PACKAGES if path.parent == ROOT / "src/nfaug"
    } <= rooms


def test_every_break_has_a_test() -> None:
    """A docstring that starts with "Break 32" or "Breaks 7 and 32" says what a test holds."""
    held: set[int] = set()
    for path in (ROOT / "tests/breaks").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                first = (ast.get_docstring(node) or "").partition(":")[0]
                assert first.startswith("Break"), f"{path.name}: {node.name}"
                held |= {int(number) for number in re.findall(r"\d+", first)}
    assert held == {*range(1, BREAKS + 1)} - NO_INPUT


def patterns(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each string that a test gives to `match=`, or lists in `parametrize`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "match":
            yield from strings(node.value)
        if not isinstance(node, ast.FunctionDef):
            continue
        matched = {
            word.value.id
            for word in ast.walk(node)
            if isinstance(word, ast.keyword) and word.arg == "match"
            if isinstance(word.value, ast.Name)
        }
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("parametrize"):
                yield from listed(call, matched)


def strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.lineno, part.value


def listed(call: ast.Call, matched: set[str]) -> Iterator[tuple[int, str]]:
    """The values that a `parametrize` gives to the arguments `matched`."""
    names = re.findall(r"\w+", " ".join(text for _, text in strings(call.args[0])))
    rows = call.args[1].elts if isinstance(call.args[1], ast.List | ast.Tuple) else []
    for index, name in enumerate(names):
        for row in rows if name in matched else ():
            cells = row.args if isinstance(row, ast.Call) else getattr(row, "elts", None)
            if len(names) == 1:
                yield from strings(row)
            elif cells and index < len(cells):
                yield from strings(cells[index])


def words(pattern: str) -> list[str]:
    """The words of a pattern: parts between blanks that are letters alone."""
    return [part for part in pattern.split() if re.fullmatch(r"[A-Za-z']+[,.:;]?", part)]


def test_tests_match_tokens_and_not_sentences() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line, text in patterns(ast.parse(path.read_text(encoding="utf-8")))
        if len(words(text)) > 2
    ]
    assert long == []


def test_a_sentence_is_seen() -> None:
    tree = ast.parse(
        '@pytest.mark.parametrize(("value", "message"), [(1, "one of three"), (2, "p")])\n'
        "def test(value, message):\n"
        "    with pytest.raises(ValueError, match=message): pass\n"
        '    with pytest.raises(ValueError, match=r"must be one of"): pass\n'
    )
    found = [text for _, text in patterns(tree)]
    assert sorted(found) == ["must be one of", "one of three", "p"]
    assert [len(words(text)) for text in ("must be one of", r"\d+ of 30", "p")] == [4, 1, 1]
