"""Commands say which device they compute on; the Python API does not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.commands import run_main
from tools.nfa import NAMES, TensorImages, batch_of, tiny_flow

import nfaug
from nfaug.commands.common import place

TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). "
    "Please update your GPU driver by downloading and installing a new version from the URL: "
    "http://www.nvidia.com/Download/index.aspx"
)
COMMANDS: dict[str, list[str]] = {
    "fit": ["--data", "DATA", "--out", "OUT", "--rank", "2"],
    "bank": ["--data", "DATA", "--out", "OUT", "--variants", "1"],
    "eval": ["--data", "DATA", "--split", "train"],
    "sample": ["--out", "OUT.png", "--per-class", "1"],
    "preview": ["--data", "DATA", "--out", "OUT.png", "--variants", "1"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_it_once(
    name: str, tiny_path: Path, tiny_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    words = []
    for word in COMMANDS[name]:
        words.append(word.replace("DATA", str(tiny_folder)).replace("OUT", str(tmp_path / "out")))
    ran = run_main(capsys, name, "--checkpoint", tiny_path, *words, "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    assert ran.err.splitlines().count("computing on the CPU") == 1
    assert ran.json, "the figures alone are on standard output"


@pytest.mark.filterwarnings("ignore:.*advice needs")
def test_training_and_comparing_say_it(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    tiny = ["--flow.steps", "[1]", "--flow.blocks", "[1]", "--flow.width", "[4]", "--epochs", "1"]
    tiny += ["--pictures-every", "0", "--tensorboard=false", "--device", "cpu"]
    out = tmp_path / "flow"
    ran = run_main(capsys, "train", "--data", tiny_folder, "--out", out, *tiny)
    assert ran.code == 0, ran.err
    assert ran.err.splitlines().count("computing on the CPU") == 1
    words = ["--per-class", "2", "--seeds", "1", "--steps", "1", "--methods", "none"]
    words += ["--processes", "1", "--device", "cpu", "--out", str(tmp_path / "compared")]
    ran = run_main(capsys, "compare", "--data", tiny_folder, *words)
    assert ran.code == 0, ran.err
    assert ran.err.splitlines().count("computing on the CPU") == 1


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert place("auto", 3).line == "computing on cuda:1, NVIDIA H100"
    assert place("cpu").line == "computing on the CPU"


def test_a_driver_that_is_too_old_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Torch warns once, when it is first asked; another warning stays one."""

    def is_available() -> bool:
        warnings.warn(TOO_OLD, stacklevel=2)
        warnings.warn("something else", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    with pytest.warns(UserWarning, match="something else") as caught:
        found = place("auto")
    assert len(caught) == 1
    found.say()
    assert capsys.readouterr().err == (
        "computing on the CPU; torch cannot use the GPU: The NVIDIA driver on your system is too "
        "old (found version 11040)\n"
    )
    assert found.device.type == "cpu"


def test_other_processes_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    place("cpu").say()
    assert capsys.readouterr().err == ""


def test_the_python_api_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = batch_of(24)
    nfa = nfaug.NFAugment(
        nfaug.fit(tiny_flow(), TensorImages(images, labels, NAMES), rank=2, progress=False)
    )
    nfa(images, labels)
    assert capsys.readouterr() == ("", "")
