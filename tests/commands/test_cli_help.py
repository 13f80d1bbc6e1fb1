"""What a user of the command reads: help, proposals for misspelt words, completion."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tools.commands import PHASES, Ran, run_main

from nfaug.commands import COMMANDS, TOPICS
from nfaug.data.kinds import DATA_KINDS
from nfaug.io.documentation import documentation

BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_nfaug nfaug "${!#}"
printf "%s\\n" "${COMPREPLY[@]}"
"""


@pytest.fixture
def nfaug_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    return partial(run_main, capsys)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None  # an import is an error
from nfaug.cli import main
for words in {words!r}:
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    print(words, code)
print(len(sys.modules))
"""


def test_help_and_errors_of_options_need_no_torch() -> None:
    """It takes more than a second to import."""
    helps = [[verb, "--help"] for verb in COMMANDS]
    wrong = [
        ["fit", "--checkpoint", "builtin:pixels", "--data", "x", "--out", "y", "--rank", "ten"],
        ["train", "--data", "x", "--out", "y", "--flow.steps", "ten"],
        ["train", "--data", "x", "--out", "y", "--prior.kind", "x"],
        ["compare", "--data", "x", "--sedes", "3"],
        ["compare", "--data", "x", "--p", "3"],
        ["timm", "train.py", "--checkpoint", "x", "--mix", "axes"],
        ["bank"],
    ]
    script = WITHOUT_TORCH.format(words=[*helps, *wrong])
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for words in helps:
        assert f"{words} 0" in ran.stdout
    for words in wrong:
        assert f"{words} 2" in ran.stdout, ran.stderr
    assert int(ran.stdout.split()[-1]) < 800  # modules; with torch there are more than 1,500


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_has_an_example_that_parses_and_an_address(
    verb: str, nfaug_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    ran = nfaug_command("help", verb)
    assert ran.code == 0
    assert len(ran.out.splitlines()) <= 60
    assert nfaug_command(verb, "--help").out == ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    assert f"docs/reference/commands/{verb}.md" in ran.out
    module = importlib.import_module(f"nfaug.commands.{verb}")
    parser = module.parser()
    assert f"Example:\n  {parser.example}\n" in ran.out
    nfaug, name, *words = shlex.split(parser.example.partition(" > ")[0])
    assert (nfaug, name) == ("nfaug", verb)
    parser.parse_args(getattr(module, "expand", list)(words))


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_has_no_words_of_python_and_yaml(verb: str, nfaug_command: Any) -> None:
    found = nfaug_command(verb, "--help").out
    words = ("null", "None", "True", "False", "configuration file", "flags customizes", "ARG:")
    assert [word for word in words if word in found] == []


def test_help_of_data(nfaug_command: Any) -> None:
    """One list of what --data can be, to which the options point."""
    ran = nfaug_command("help", "data")
    assert ran.code == 0
    for kind in DATA_KINDS:
        assert f"--data {kind.example}\n" in ran.out
    assert "nfaug help data" in " ".join(nfaug_command("fit", "--help").out.split())


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("trian", "train"),
        ("help fti", "fit"),
        ("--verison", "--version"),
        ("fit --rnak 3", "--rank"),
        ("train --flow.stepz 3", "--flow.steps"),
        ("train --data d --out o --recipe cifar", "cifar10"),
        ("train --data d --out o --flow.squeeze harr", "haar"),
        ("train --data d --out o --prior.kind fip", "fpi"),
        ("bank --checkpoint f --data d --out o --mix axes", "axis"),
        ("info builtin:pixel", "builtin:pixels"),
        ("info rgb23", "builtin:rgb32"),
        ("info pixels", "builtin:pixels"),
        ("info my-nfaa", "my-nfa"),
        ("compare --data digits --methods nfa,radaugment", "randaugment"),
        ("compare --data digits --methods nfa,rand", "randaugment"),
        ("compare --data digits --augment crops", "crop"),
        ("compare --data digits --augment colour", "color"),
        ("compare --data digits --network resnt18", "resnet18"),
        ("compare --data my-imges", "my-images"),
        ("compare --data digit", "digits"),
    ],
)
def test_a_proposal_for_a_misspelt_word(
    words: str, meant: str, nfaug_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("my-nfa", "my-images"):
        (tmp_path / folder).mkdir()
    ran = nfaug_command(*words.split())
    assert ran.code == 2
    said = [line for line in ran.err.splitlines() if not line.startswith(PHASES)]
    assert len(said) == 1
    assert f"did you mean {meant}?" in said[0]


@pytest.mark.parametrize(
    ("text", "word"), [("epoch: 3", "epoch"), ("flow: {low_rank_abov: 3}", "low_rank_abov")]
)
def test_a_misspelt_setting_is_named(
    text: str, word: str, nfaug_command: Any, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    ran = nfaug_command("train", "--data", "digits", "--out", tmp_path / "o", "-c", file)
    assert ran.code == 2
    assert f"'{word}'" in ran.err


@pytest.mark.parametrize("word", ["--verbose", "--p", "--zzz"])
def test_no_proposal_for_a_word_like_none(word: str, nfaug_command: Any) -> None:
    ran = nfaug_command("fit", word)
    assert word in ran.err
    assert "did you mean" not in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fit --rank", "--rank"),
        ("fit --per-class ten", "--per-class: must be a whole number from 1 .*; got 'ten'"),
        ("fit --per-class 0", "--per-class: must be a whole number from 1 .*; got '0'"),
        ("fit --rank 0", "--rank: must be a whole number from 1 .*; got '0'"),
        ("fit", "required: --checkpoint, --data, --out "),
        ("timm", "required: script, --checkpoint "),
        ("push my-nfa", "required: repo "),
        ("compare --data d --methods x", "error: --methods must name some of .*; got 'x'"),
        ("compare --data d --per-class 0", "error: --per-class must be a whole number"),
        ("compare --data d --weights w", "error: --weights needs a timm --network"),
        ("bank --strength -1 --checkpoint f --data d --out o", "error: --strength must be"),
        ("train --data d --out o --epochs -1", "error: --epochs must be"),
        ("train --data d --out o --pca.per-class 1", "error: per_class must be"),  # two options
        ("info my-nfa", "error: there is no folder 'my-nfa' here, and it is not owner/name"),
        ("fit --checkpoint f --data d --out o --on-error rise", "'rise'.*raise.*skip"),
        ("train --flow 3", "--flow: .*'3'"),
        ("train --flow helper.X", "--flow: .*'helper.X'"),
        ("train --optim.bf16 perhaps", "--optim.bf16 must be true or false; got 'perhaps'"),
        ("train -c no-such.yaml", "--config: .*no-such.yaml"),
        ("fit extra", "extra"),
        ("preview --gate high --checkpoint f --data d --out o", "or none; got 'high'"),
        ("bank --mix odd --checkpoint f --data d --out o", "one of axis, pair, regions; got 'odd'"),
        ("timm x.py --checkpoint f --model resnet18", "--model resnet18 .*follow --"),
    ],
)
def test_mistakes_in_one_line(words: str, said: str, nfaug_command: Any) -> None:
    """The option, and what it got; no classes of Python, and no advice about Python."""
    ran = nfaug_command(*words.split())
    assert (ran.code, ran.out) == (2, "")
    assert re.search(said, ran.err)
    assert ran.err.count("\n") == 1
    for strange in ("Parser key", "Union", "NoneType", "null", "<class", "allowlist"):
        assert strange not in ran.err


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("bank --data my-images --out o", "nfaug fit --checkpoint builtin:pixels --data my-images"),
        ("timm train.py", "nfaug fit --checkpoint builtin:pixels --data DATA"),
    ],
)
def test_a_checkpoint_that_must_be_fitted(words: str, command: str, nfaug_command: Any) -> None:
    """The error has the command to type, and no Python."""
    ran = nfaug_command(*words.split(), "--checkpoint", "builtin:pixels")
    assert ran.code == 2
    said = ran.err.splitlines()[-1]
    assert f"must be fitted to your classes first: {command} --out my-nfa." in said
    assert "NFAugment" not in said


def test_none_in_options_and_settings(tmp_path: Path) -> None:
    """It is null, as YAML has it, unless the option has a value of that name."""
    train = importlib.import_module("nfaug.commands.train").parser()
    words = ["--data", "d", "--out", str(tmp_path)]
    for word in ("none", "null", "None"):
        found = train.parse_args([*words, "--max-minutes", word])
        assert found.max_minutes is None
        file = tmp_path / "settings.yaml"
        file.write_text(f"max_minutes: {word}\noptim: {{recompute: none}}\n")
        found = train.parse_args(["-c", str(file), *words])
        assert found.max_minutes is None
        assert found.optim.recompute == "none"
    assert train.parse_args([*words, "--optim.recompute", "none"]).optim.recompute == "none"
    compare = importlib.import_module("nfaug.commands.compare").parser()
    for option in ("--methods", "--rows"):  # the old name
        found = compare.parse_args(["--data", "d", option, "none", "--weights", "none"])
        assert (found.methods, found.weights) == ("none", None)


def test_completion(tmp_path: Path, nfaug_command: Any) -> None:
    """Bash completes commands, options, their values, and files."""
    script = tmp_path / "completion.bash"
    script.write_text(nfaug_command("completion", "bash").out)
    (tmp_path / "my-images").mkdir()
    for words, expected in (
        (["tr"], "train"),
        (["fit", "--ra"], "--rank"),
        (["preview", "--mix", "re"], "regions"),
        (["train", "--optim.ema"], "--optim.ema-decay"),
        (["help", "da"], "data"),
        (["fit", "--data", f"{tmp_path}/my-"], f"{tmp_path}/my-images"),
    ):
        line = ["bash", "-c", BASH, "bash", script, "nfaug", *words]
        ran = subprocess.run(line, capture_output=True, text=True, check=True)
        assert ran.stdout.split() == [expected], ran.stderr
    assert nfaug_command("completion", "zsh").out.startswith("#compdef nfaug")


def test_the_address_of_the_documentation() -> None:
    """That of pyproject.toml, if it has one; until then pages are files of the repository."""
    links = importlib.metadata.metadata("nfaug").get_all("Project-URL") or ()
    addresses = dict(link.split(", ", 1) for link in links)
    address = addresses.get("Documentation", "docs").rstrip("/")
    assert documentation("index").rpartition("/")[0] == address


def test_every_topic_is_known() -> None:
    topics = importlib.import_module("nfaug.commands.topics")
    assert sorted(topics.__all__) == sorted(TOPICS)


@pytest.mark.parametrize(
    ("verb", "usual", "rare"),
    [
        ("train", "--epochs", "--flow.steps"),
        ("timm", "--mix", "--strength"),
        ("bank", "--mix", "--gate"),
        ("preview", "--mix", "--alpha"),
        ("fit", "--rank", "--on-error"),
        ("compare", "--methods", "--steps"),
    ],
)
def test_rare_options_are_in_help_all(verb: str, usual: str, rare: str, nfaug_command: Any) -> None:
    short = nfaug_command(verb, "--help").out
    whole = nfaug_command(verb, "--help-all")
    assert whole.code == 0
    assert len(short.splitlines()) < len(whole.out.splitlines())
    assert "--help-all" in short
    assert f"  {usual} " in short
    assert f"  {rare} " not in short
    assert f"  {rare} " in whole.out
    assert nfaug_command(verb, "--help").out == short, "it is hidden while it is printed"
