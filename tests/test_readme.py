"""Check the commands and code in the documentation.

Every fenced block of README.md, CONTRIBUTING.md, docs/ and benchmarks/README.md is checked:

- ```bash: a line that starts with `nfaug` must parse with the real command line; a `make` target, a
  `pip install` extra and the script or module of `python` must exist. Any other command fails.
- ```python: the block must compile, and every name that it takes from nfaug must exist.
- ```text, ```yaml and ```json blocks are not checked. Other languages fail.

A comment before a block runs it in a folder of its own:

    <!-- test: run needs=my-images:images,my-flow:flow add="--epochs 1" -->

- needs: what the folder must hold first, as NAME:KIND with a kind of `KINDS` below.
- add: options appended to every `nfaug` line of a bash block, to make it small.

`test: soak` instead of `test: run` runs the block in `make soak` only.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

import nfaug

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SHOWN = {"text", "yaml", "json"}
# Commands of other programs, which are not checked.
FOREIGN = {"cd", "git", "sudo", "apt-get"}


def make_images(path: Path) -> None:
    """An image folder: two classes of 12 RGB images, 8 x 8."""
    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(("cat", "dog")):
        (path / name).mkdir(parents=True)
        for index in range(12):
            level = torch.randint(96, (8, 8, 3), generator=generator) + 96 * label
            Image.fromarray(level.byte().numpy()).save(path / name / f"{index}.png")


def make_flow(path: Path) -> None:
    """A checkpoint for those images."""
    make_images(path.with_suffix(".images"))
    dataset = str(path.with_suffix(".images"))
    nfaug.fit("builtin:pixels", dataset, rank=4, progress=False).save(path)


KINDS: dict[str, Callable[[Path], None]] = {
    "images": make_images,
    "flow": make_flow,
}


@dataclass(frozen=True)
class Block:
    """One fenced block of a document and the options of the comment before it."""

    document: str
    line: int
    language: str
    text: str
    mode: str = "parse"  # or "run" or "soak"
    options: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    def commands(self) -> list[str]:
        """The lines of a bash block; a backslash at the end joins two."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


FENCE = re.compile(
    r"(?:^<!-- test: (?P<mark>.*) -->\n\s*)?^(?P<indent> *)```(?P<language>\w+)\n"
    r"(?P<text>(?:.*\n)*?) *```$",
    re.M,
)


def read_blocks(text: str, document: str) -> Iterator[Block]:
    """All fenced blocks of a Markdown text.

    Raises:
        ValueError: If a comment is not a valid mark, no block follows a mark, or a block is open.
    """
    found = list(FENCE.finditer(text))
    marked = sum(block["mark"] is not None for block in found)
    if text.count("```") != 2 * len(found) or text.count("<!-- test:") != marked:
        raise ValueError(f"{document}: a block is left open, or no block follows a mark")
    for block in found:
        mode, *words = shlex.split(block["mark"] or "parse")
        options = dict(word.split("=", 1) for word in words)
        if mode not in ("parse", "run", "soak") or not options.keys() <= {"needs", "add"}:
            raise ValueError(f"{document}: not a mark of tests/test_readme.py: {block['mark']}")
        line = text.count("\n", 0, block.start("indent")) + 1
        content = textwrap.dedent(block["text"])
        yield Block(document, line, block["language"], content, mode, options)


BLOCKS = [
    block
    for path in DOCUMENTS
    for block in read_blocks(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
]

RUNS = [
    pytest.param(block, id=str(block), marks=[pytest.mark.soak] if block.mode == "soak" else [])
    for block in BLOCKS
    if block.mode != "parse"
]


def check_command(line: str) -> None:
    """Raise an AssertionError if a line of a bash block would fail.

    `nfaug` lines go through the parser of the command itself.
    """
    words = shlex.split(line, comments=True)
    if not words:
        return
    command, arguments = words[0], words[1:]
    if command == "torchrun" and "-m" in arguments:
        command, *arguments = arguments[arguments.index("-m") + 1 :]
    if command == "nfaug":
        check_options(arguments, line)
    elif command == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = [word for word in arguments if not word.startswith("-") and "=" not in word]
        missing = [word for word in targets if not re.search(rf"^{word}:", makefile, re.M)]
        assert not missing, f"no such target in the Makefile: {missing}"
    elif command == "pip" and "install" in arguments:
        extras = re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", line)))
        known = importlib.metadata.metadata("nfaug").get_all("Provides-Extra") or []
        assert set(extras) <= set(known), f"no such extra: {line}"
    elif command == "python":
        assert script_exists(line), f"no such script: {line}"
    else:
        assert command in FOREIGN, f"unknown command: {line}"


def script_exists(line: str) -> bool:
    """Whether the script or module of a `python` line is a file of this repository."""
    words = shlex.split(line)[1:]
    if words[0] != "-m":
        return (ROOT / words[0]).is_file()
    module = ROOT / words[1].replace(".", "/")
    return module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()


def check_options(arguments: list[str], line: str) -> None:
    """Parse the arguments of `nfaug` without running anything."""
    from nfaug.cli import COMMANDS

    verb, *options = arguments or [""]
    assert verb in COMMANDS, f"nfaug has no command {verb!r}: {line}"
    module = importlib.import_module(f"nfaug.commands.{verb}")
    try:
        # `expand` replaces the name of a recipe by its file, as in nfaug.cli.main.
        words = module.expand(options) if hasattr(module, "expand") else options
        module.parser().parse_args(words)
    except (SystemExit, ValueError) as stop:
        raise AssertionError(f"nfaug does not parse: {line}") from stop


def check_by_running(words: list[str], folder: Path | None = None, script: str = "") -> None:
    # The console script is installed next to this interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        words,
        cwd=folder,
        input=script or None,
        env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"{script or words}\n{run.stdout}\n{run.stderr}"


def check_names(text: str) -> None:
    """Raise when a python block does not compile or uses a name that nfaug does not have."""
    tree = ast.parse(text)
    modules: dict[str, ModuleType] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "nfaug":
                    whole = importlib.import_module(alias.name)
                    modules[alias.asname or "nfaug"] = (
                        whole if alias.asname else sys.modules["nfaug"]
                    )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nfaug":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"no {alias.name} in {node.module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = modules.get(node.value.id)
            assert owner is None or hasattr(owner, node.attr), f"no {node.value.id}.{node.attr}"


def make_needs(block: Block, folder: Path) -> None:
    for need in filter(None, block.options.get("needs", "").split(",")):
        name, kind = need.split(":")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        KINDS[kind](folder / name)


def run_block(block: Block, folder: Path) -> None:
    make_needs(block, folder)
    if block.language == "python":
        check_by_running([sys.executable, "-"], folder, block.text)
    else:
        added = block.options.get("add", "")
        lines = [f"{line} {added}" for line in block.commands()]
        check_by_running(["bash", "-e", "-u", "-"], folder, "\n".join(lines) + "\n")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_is_right(block: Block) -> None:
    assert block.language in SHOWN | {"bash", "python"}, f"no check for {block.language!r} blocks"
    if block.language == "bash":
        for line in block.commands():
            check_command(line)
    elif block.language == "python":
        check_names(block.text)


@pytest.mark.parametrize("block", RUNS)
def test_block_runs(block: Block, tmp_path: Path) -> None:
    run_block(block, tmp_path)


@pytest.mark.parametrize("words", ["make demo", "make test", "nfaug train", "nfaug fit"])
def test_readme_has_the_command(words: str) -> None:
    blocks = [block for block in BLOCKS if block.document == "README.md" and words in block.text]
    assert blocks
    if words.startswith("nfaug"):
        assert any(block.mode != "parse" for block in blocks), f"no block with {words} is run"


def test_first_python_block_augments_a_training_loop_and_is_run() -> None:
    blocks = [block for block in BLOCKS if block.document == "README.md"]
    first = next(block for block in blocks if block.language == "python")
    assert first.mode == "run"
    assert {"fit", "NFAugment", "backward"} <= set(re.findall(r"\w+", first.text))
    install = next(block for block in blocks if "pip install" in block.text)
    assert install.line < first.line


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    local = [target.partition("#") for target in targets if not re.match(r"[a-z]+:", target)]
    missing = []
    for name, _, anchor in local:
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(f"{name}#{anchor}")
    commands = re.findall(r"`(python (?:-m )?[\w./]+)", text)
    missing += [command for command in commands if not script_exists(command)]
    assert not missing


@pytest.mark.parametrize(
    "line",
    [
        "nfaug train --data my-images --out my-flow --no-such-option 1",
        "nfaug train --data my-images --out my-flow --recipe no-such-recipe",
        "nfaug no-such-verb",
        "make no-such-target",
        'pip install "nfaug[no-such-extra]"',
        "python examples/no_such_script.py",
        "python -m benchmarks.no_such_module",
        "curl example.org",
    ],
)
def test_a_broken_command_is_seen(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(line)


@pytest.mark.parametrize(
    "text", ["from nfaug import NoSuchName", "import nfaug\nnfaug.no_such_name()"]
)
def test_a_broken_python_block_is_seen(text: str) -> None:
    with pytest.raises(AssertionError):
        check_names(text)


def test_a_block_that_fails_is_seen(tmp_path: Path) -> None:
    block = Block("README.md", 1, "python", "assert 2 == 3\n", "run")
    with pytest.raises(AssertionError, match="AssertionError"):
        run_block(block, tmp_path)


def test_blocks_are_read() -> None:
    text = "\n".join(
        [
            "<!-- a remark -->",
            '<!-- test: run needs=my-images:images add="--epochs 1" -->',
            "",
            "  ```bash",
            "  nfaug train \\",
            "    --data my-images",
            "  ```",
            "```text",
            "shown",
            "```",
        ]
    )
    first, second = read_blocks(text, "x.md")
    assert (first.language, first.mode, first.line) == ("bash", "run", 4)
    assert first.options == {"needs": "my-images:images", "add": "--epochs 1"}
    assert shlex.split(first.commands()[0]) == ["nfaug", "train", "--data", "my-images"]
    assert (second.language, second.mode, second.text) == ("text", "parse", "shown\n")


@pytest.mark.parametrize(
    "text",
    ["<!-- test: runs -->\n```bash\n```", "<!-- test: run when=never -->", "<!-- test: run -->\nx"],
)
def test_a_wrong_mark_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"x\.md"):
        list(read_blocks(text, "x.md"))
