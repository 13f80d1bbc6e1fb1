"""Breaks of the commands: options, settings files, and what they print."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.commands import Ran, run_main

import nfaug
from nfaug.run.device import pick_device

TRAIN = ("train", "--data", "digits", "--out", "o")
ESCAPE = "\x1b[2J"
HARMLESS = "\N{REPLACEMENT CHARACTER}[2J"


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    return partial(run_main, capsys)


CLASSES = [
    "optim: helper.X",
    "optim: {class_path: helper.X}",
    "flow: {class_path: helper.X, init_args: {steps: [1]}}",
    "prior: {class_path: helper.X}",
    "prior: {fixed_point: helper.X}",
    "optim: !!python/name:helper.X",
]


@pytest.mark.parametrize(
    "words",
    [
        *[("-c", text) for text in CLASSES],
        ("--config=settings.yaml",),
        ("--resume", "."),
        ("--optim", "helper.X"),
        ("--prior.fixed-point=helper.X",),
        ("--augmentation", "{class_path: helper.X}"),
    ],
    ids=" ".join,
)
def test_settings_that_name_a_class(
    words: tuple[str, ...],
    command: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Break 35: the module of the class was imported, from the current folder for example."""
    (tmp_path / "helper.py").write_text("open('imported', 'w').close()\nclass X: pass\n")
    for name in ("settings.yaml", "train.yaml"):  # the second is that of a run
        (tmp_path / name).write_text("{data: digits, optim: {class_path: helper.X}}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    importlib.invalidate_caches()
    ran = command(*(TRAIN[:1] if "--resume" in words else TRAIN), *words)
    assert not (tmp_path / "imported").exists()
    assert ran.code == 2
    assert "helper.X" in ran.err
    assert ran.err.count("\n") == 1


MULTIPLIED = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
)


@pytest.mark.parametrize(
    ("text", "word"),
    [(MULTIPLIED, "alias"), ("optim: " + "[" * 1100 + "]" * 1100, "nest"), ("[" * 5000, "nest")],
    ids=["aliases", "nesting", "nesting without an end"],
)
def test_yaml_of_a_few_lines_that_stands_for_millions(
    text: str, word: str, command: Callable[..., Ran], tmp_path: Path
) -> None:
    """Break 29: multiplied aliases filled the memory; nesting ended in a traceback, or took 6 s."""
    (tmp_path / "settings.yaml").write_text(text)
    ran = command(*TRAIN, "-c", "settings.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert word in ran.err


@pytest.mark.parametrize("words", [["info", "FLOW"], ["info", "FLOW", "--json"], ["--help"], []])
def test_a_closed_output(
    words: list[str], command: Callable[..., Ran], tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks 14 and 54: `nfaug info FLOW >&-` ended in a traceback."""
    monkeypatch.setattr(sys, "stdout", None)
    ran = command(*[tiny_path if word == "FLOW" else word for word in words])
    sys.stdout.close()
    assert ran == (0 if words else 2, "", "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_closed_errors_are_not_printed_among_the_results(
    stream: str, command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks 14 and 54: with `2>&-` the error went to the standard output."""
    monkeypatch.setattr(sys, stream, None)
    ran = command("info", "no-such-flow")
    getattr(sys, stream).close()
    assert (ran.code, ran.out) == (2, "")
    assert ("no-such-flow" in ran.err) == (stream == "stdout")


@pytest.mark.parametrize("buffering", [1, -1], ids=["lines", "all at once"])
@pytest.mark.parametrize("words", [["info", "FLOW"], ["info", "FLOW", "--json"], ["--help"]])
def test_a_pipe_whose_reader_has_ended(
    words: list[str],
    buffering: int,
    command: Callable[..., Ran],
    tiny_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Breaks 14 and 54: `nfaug info FLOW | true` ended in a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=buffering) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        ran = command(*[tiny_path if word == "FLOW" else word for word in words])
    assert (ran.code, ran.err) == (0, "")


def test_a_pipe_that_breaks_during_the_work_is_no_success(
    command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Breaks 14 and 54: the repair hid each broken pipe, those of a lost connection included."""

    def fail(_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("nfaug.commands.info.run", fail)
    ran = command("info", "flow")
    assert ran.code == 2
    assert "Broken pipe" in ran.err


def test_terminal_escapes_in_a_checkpoint(
    tiny_path: Path, tmp_path: Path, command: Callable[..., Ran]
) -> None:
    """Break 13: a stranger's text moved the cursor, or reversed the direction of writing."""
    checkpoint = nfaug.load(tiny_path)
    checkpoint.config.training["note"] = f"{ESCAPE}gone\nü\u202e"
    checkpoint.save(tmp_path / "flow")
    ran = command("info", tmp_path / "flow")
    assert f"{HARMLESS}gone ü\N{REPLACEMENT CHARACTER}" in ran.out
    assert command("info", tmp_path / "flow", "--json").out.isascii()


def test_terminal_escapes_in_messages_and_reports(
    command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Break 13: errors and the report of a comparison repeat names from elsewhere."""
    ran = command("bank", "--checkpoint", "f", "--data", "d", "--out", "o", "--mix", ESCAPE)
    assert HARMLESS in ran.err
    assert ESCAPE not in ran.err
    monkeypatch.setattr("nfaug.commands.info.run", lambda _: f"first\n{ESCAPE}second")
    assert command("info", "flow").out == f"first\n{HARMLESS}second\n"


COMPARE = ("compare", "--data", "digits")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*COMPARE, "--minutes", "-1"), "no time limit: seeds (--seeds) decides"),
        ((*COMPARE, "--per-class", "ten"), "--per-class must be a whole number or none; got 'ten'"),
        (
            (*COMPARE, "--seeds", "0"),
            "seeds must be a whole number from 1 to 10,000; got 0",
        ),
        ((*TRAIN, "--max-minutes", "-1"), "-1"),
        ((*TRAIN, "--dataset.workers", "ten"), "must be a whole number or none; got 'ten'"),
        (
            ("bank", "--checkpoint", "f", "--data", "d", "--out", "o", "--mix", "odd"),
            "--mix must be one of axis, pair, regions; got 'odd'",
        ),
        ((*COMPARE, "--device", "tpu"), "no device 'tpu'"),
        ((*COMPARE, "--processes", "-1"), "--processes must be from 0 to 1024; got -1"),
        ((*COMPARE, "--steps", "1" + 30 * "0"), "steps must be"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_values_that_options_cannot_have(
    words: tuple[str, ...], said: str, command: Callable[..., Ran], tmp_path: Path
) -> None:
    """Break 72: they were accepted, or the message was one of Python's."""
    ran = command(*words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert "Parser key" not in ran.err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("fit --image-size 200000", "at most 16,384 pixels; got 200000 x 200000"),
        (f"fit --seed {10**30}", "--seed: must be a whole number from -9,223"),
        ("fit --seed 2.5", "--seed: must be a whole number from -9,223"),
        (f"fit --rank {10**30}", "--rank: must be a whole number from 1 to 2,147,483,647; got '1"),
        (f"fit --per-class {10**30}", "from 1 to 2,147,483,647; got '1"),
        (f"bank --variants {10**30}", "--variants: must be a whole number from 1 to"),
        ("bank --workers -1", "--workers: must be a whole number from 0 to 2,147,483,647"),
        (f"preview --seed {10**30}", "--seed: must be a whole number from"),
        ("train --image-size 200000", "at most 16,384 pixels; got 200000 x 200000"),
        ("train --dataset.image-size 200000", "at most 16,384 pixels; got 200000 x 200000"),
        (f"train --epochs {10**30}", "epochs must be a whole number from 0 to 2,147,483,647"),
        ("train --per-class -1", "--per-class: must be a whole number from 1 to"),
    ],
)
def test_numbers_that_cannot_be_meant(
    options: str, said: str, command: Callable[..., Ran], tmp_path: Path
) -> None:
    """Break 101: they were found in the middle of the work, by torch, or when memory was full."""
    name, *more = options.split()
    words = ["--data", "d", "--out", "o.png"]
    if name != "train":
        words += ["--checkpoint", "f"]
    ran = command(name, *words, *more)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("per_class: x", "--per-class: must be a whole number from 1 to"),
        ("per_class: 0", "--per-class: must be a whole number from 1 to"),
        ("image_size: x", "--image-size: an image size is"),
        ('download: "false"', "download must be true or false; got 'false'"),
        ("overwrite: 3", "overwrite must be true or false; got 3"),
        (f"lr: {'1' * 400}", "a number in the settings is too large"),
    ],
)
def test_a_settings_file_of_other_types(
    text: str, said: str, command: Callable[..., Ran], tmp_path: Path
) -> None:
    """Break 101: numbers ended in a traceback; the text "false" turned a switch on."""
    (tmp_path / "settings.yaml").write_text(text)
    ran = command(*TRAIN, "-c", "settings.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    "single", [{"seed": 10**30}, {"seed": 2.5}, {"rank": 2.5}, {"per_class": 2.5}, {"rank": True},
               {"batch_size": 10**30}, {"image_size": 200000}],
)  # fmt: skip
def test_numbers_of_a_fit_that_cannot_be_meant(single: dict[str, Any]) -> None:
    """Break 101: also in Python, where some of them were errors of torch."""
    (name,) = single
    said = "a side of an image" if name == "image_size" else f"{name} must be a whole number"
    with pytest.raises(ValueError, match=said):
        nfaug.fit("builtin:pixels", "digits", progress=False, **single)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has the device")
def test_a_device_that_this_machine_lacks() -> None:
    """Break 72: torch's message about mps filled a page."""
    with pytest.raises(ValueError, match="'mps'") as caught:
        pick_device("mps")
    assert len(str(caught.value)) < 300


def test_a_device_that_computes_nothing() -> None:
    """Break 72: `--device meta` was accepted, and the first result was an error."""
    with pytest.raises(ValueError, match="'meta'"):
        pick_device("meta")


def test_a_timm_script_with_the_naflex_loader(
    tiny_path: Path, tmp_path: Path, command: Callable[..., Ran]
) -> None:
    """Break 70: `nfaug timm ... --naflex-loader` ended in a traceback."""
    script = tmp_path / "train.py"
    script.write_text("import timm\ntimm.data.create_naflex_loader()\n")
    ran = command("timm", script, "--checkpoint", tiny_path)
    assert ran.code == 2
    _, error = ran.err.splitlines()  # after the line that NFA starts
    assert "--naflex-loader" in error
