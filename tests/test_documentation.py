"""Run the examples of the documentation with Sybil, and check its commands and links.

The documents are README.md, CONTRIBUTING.md, benchmarks/README.md and docs/. The blocks of one
document run in order, in one folder that holds `my-images`, this repository as `path/to/nfaug` and,
if the document names them, an autoencoder of random weights in `my-taesd` and a small flow as the
paper's code saves it in `released.ckpt`:

- ```python blocks run in one namespace.
- ```bash blocks are checked: a line that starts with `nfaug` must parse with the real command
  line; a `make` target, a `pip install` extra and the script or module of `python` must exist. A
  comment before a block also runs its `nfaug` lines and scripts, with options that make them small:

      <!-- run: --epochs 1 -->

  With NFAUG_AS_WRITTEN=1 each line runs in a process of its own, without these options, but those
  of `NOT_RUN`. NFAUG_TRAIN_PY is timm's own train.py. All pages then take hours on two cores.
  A page of `ON_THE_HUB` has a Hub in memory, and else `tests/tools/timm_train.py` as train.py.

- ```text, ```yaml, ```json and ```bibtex blocks are only shown. Other languages fail.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sybil import Document, Example, Region, Sybil
from sybil.parsers.abstract.lexers import LexerCollection
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer
from tools.commands import check_options
from tools.hub import served
from tools.libraries import OPTIONAL, needs
from tools.released import DIM, released

import nfaug.cli

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "lab" / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "generated" not in path.parts),
]
LANGUAGES = {"bash", "python", "text", "yaml", "json", "bibtex"}
# Commands of other programs, which are not checked.
FOREIGN = {"cd", "git", "sudo", "apt-get", "pip"}
AS_WRITTEN = bool(os.environ.get("NFAUG_AS_WRITTEN"))
# What needs the Hub, runs until it is stopped, installs, needs a GPU, or trains for days.
ON_THE_HUB = ("start-to-end.md",)
NOT_RUN = re.compile(
    "owner/(?!clothes-flow)|madebyollin|--download|nfaug list$|--recipe photos|examples/space"
    "|completion bash"
    r"|^(make|pip|git|sudo|apt-get|cd)\b|benchmarks/|--model (resnet50|eva02_base)|--recipe cifar10"
    "|timm train.py (?!.*--device cpu)"
)


def make_images(path: Path, count: int = 32, seed: int = 0) -> None:
    """An image folder: two classes of so many RGB images, 8 x 8."""
    generator = torch.Generator().manual_seed(seed)
    for label, name in enumerate(("cat", "dog")):
        (path / name).mkdir(parents=True)
        for index in range(count):
            level = torch.randint(96, (8, 8, 3), generator=generator) + 96 * label
            Image.fromarray(level.byte().numpy()).save(path / name / f"{index}.png")


def make_autoencoders(folder: Path) -> None:
    """The files my-taesd and my-vae, as diffusers writes them."""
    diffusers = needs("diffusers")
    narrow: Any = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    diffusers.AutoencoderTiny(**narrow).save_pretrained(folder / "my-taesd")
    narrow = {"block_out_channels": (4,) * 4, "norm_num_groups": 2}
    narrow["down_block_types"] = ("DownEncoderBlock2D",) * 4
    narrow["up_block_types"] = ("UpDecoderBlock2D",) * 4
    diffusers.AutoencoderKL(**narrow).save_pretrained(folder / "my-vae")


def make_released(path: Path, classes: int = 2) -> None:
    """A pickle with a flow for 16 x 16 images and Gaussians of some classes."""
    state = released("attention16")
    for label in range(classes):
        state[f"flow.mu_arr.{label}"] = torch.full((DIM,), float(label))
        state[f"flow.scale_tril_arr.{label}"] = torch.ones(DIM)
    torch.save({"epoch": 500, "state_dict": state}, path)


def make_inputs(folder: Path, page: Path) -> None:
    """What the reader of a page has, for commands that run as they are written."""
    names = ["my-images", "my-photos", "my-test-images", "my-spectrograms"]
    if "reference" in page.parts or page.name == "imagenet.md":  # timm.md makes its own
        names += ["my-data/train", "my-data/validation"]
    for seed, name in enumerate(names):  # test images are others than those to train on
        make_images(folder / name, 60, seed)
    state = timm.create_model("resnet18").state_dict()
    weights = {name: each.contiguous() for name, each in state.items()}
    save_file(weights, folder / "model.safetensors")
    shutil.copy(os.environ["NFAUG_TRAIN_PY"], folder / "train.py")
    for name in ("examples", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    blocks = "".join(re.findall(r"^ *```\w+$(.*?)^ *```$", page.read_text("utf-8"), re.M | re.S))
    for name, options in (("my-nfa", "pixels"), ("trained-nfa", "rgb32 --gaussians data")):
        used = re.search(rf"(--out )?\b{name}\b", blocks)
        if used and not used[1]:
            run_line(f"nfaug fit --checkpoint builtin:{options} --data my-images --out {name}")


class RunParser:
    """Reads comments such as `<!-- run: --epochs 1 -->`."""

    def __init__(self) -> None:
        self.lexers = LexerCollection([DirectiveInHTMLCommentLexer("run", r"[^\n]*?")])

    def __call__(self, document: Document) -> Iterator[Region]:
        for region in self.lexers(document):
            region.parsed = region.lexemes["arguments"]
            region.evaluator = remember
            yield region


def remember(example: Example) -> None:
    example.namespace["run"] = shlex.split(example.parsed)


def run_bash(example: Example) -> None:
    added = example.namespace.pop("run", None)
    for line in example.parsed.replace("\\\n", " ").splitlines():
        check_command(line)
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if AS_WRITTEN:
            is_left_out = NOT_RUN.search(line.strip())
            if is_left_out:
                example.namespace["not run"].append(line.strip())
            else:
                example.namespace["run as written"].append(run_line(line))
        elif added is not None:
            run_command([*words, *added], line)


def run_line(line: str) -> str:
    """Run a line of bash as it is written, and say its seconds and the end of what it prints."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = time.monotonic()
    ran = subprocess.run(
        ["bash", "-c", line],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert ran.returncode == 0, f"{line}: {ran.stdout[-2000:]}"
    end = "\n    ".join(ran.stdout.splitlines()[-8:])
    return f"{time.monotonic() - started:.0f} s: {line.strip()}\n    {end}"


def run_command(words: list[str], line: str) -> None:
    """Run `nfaug` or a script of this repository."""
    if words[0] == "python":
        with mock.patch.object(sys, "argv", words[1:]):
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        return
    assert words[0] == "nfaug", f"only nfaug lines and scripts can be run: {line}"
    assert nfaug.cli.main(words[1:]) == 0, line


def evaluate(document: Document) -> None:
    for example in document.examples():
        example.evaluate()
    assert "run" not in document.namespace, "no bash block follows a run comment"


SYBIL = Sybil([PythonCodeBlockParser(), CodeBlockParser("bash", run_bash), RunParser()])


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


def use_hub(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a page an empty Hub, and a script that calls timm as its own train.py does."""
    hub = request.getfixturevalue("hub")
    shutil.copy(ROOT / "tests/tools/timm_train.py", folder / "train.py")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    if AS_WRITTEN:  # in other processes
        serving = served(hub)
        for name, value in serving.__enter__().items():
            monkeypatch.setenv(name, value)
        request.addfinalizer(functools.partial(serving.__exit__, None, None, None))


# The images of the tests are fewer than the default number of axes, timm leaves files open,
# Lightning warns of small loaders, and huggingface_hub 2.4 of its own call.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*'pin_memory' argument")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    text = path.read_text(encoding="utf-8")
    for name in OPTIONAL:
        if re.search(rf"^ *(?:import|from) {name}\b|nfaug\.integrations\.{name}\b", text, re.M):
            needs(name)
    languages = set(re.findall(r"^ *```(\w+)$", text, re.M))
    assert languages <= LANGUAGES
    document = SYBIL.parse(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if path.name in ON_THE_HUB:
        use_hub(request, tmp_path, monkeypatch)
    if AS_WRITTEN:
        make_inputs(tmp_path, path)
        document.namespace |= {"run as written": [], "not run": []}
    else:
        make_images(tmp_path / "my-images")
    if any("my-taesd" in str(example.parsed) for example in document.examples()):
        make_autoencoders(tmp_path)
    if "released.ckpt" in text:
        make_released(tmp_path / "released.ckpt", classes=10 if AS_WRITTEN else 2)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "nfaug").symlink_to(ROOT)
    evaluate(document)
    if AS_WRITTEN:
        with capsys.disabled():
            print(f"\n{text.count('```python')} blocks of Python in {path.name}", end="")
            for what in ("run as written", "not run"):
                print(*[f"\n{what}: {line}" for line in document.namespace[what]], end="")
    counts = re.findall(r"'applied': (\d+)", capsys.readouterr().out)
    assert "0" not in counts, "a block prints stats() of images that NFA does not change"


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


def test_no_two_pages_write_the_same_checkpoint() -> None:
    written: dict[str, str] = {}
    for path in DOCUMENTS:
        page = str(path.relative_to(ROOT))
        for block in re.findall(r"^ *```bash$(.*?)^ *```$", path.read_text("utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                name = re.search(r"nfaug (?:fit|train|pull) .*--out ([\w-]+)", line)
                if name is not None:
                    assert name[1] not in written, f"{line} in {page}, and {written[name[1]]}"
                    written[name[1]] = page
        for name in re.findall(r'\.save\("([\w-]+)"\)', path.read_text("utf-8")):
            assert written.setdefault(name, page) == page, f"{name} in {page}, and {written[name]}"
    assert len(written) > 15
