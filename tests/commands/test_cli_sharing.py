"""The verbs that share and use flows: push, pull, list, bank, timm."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.hub import FakeHub

from nfaug.bank import Bank
from nfaug.cli import main
from nfaug.commands.timm import expand
from nfaug.io.lock import lock_output

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    """Exit code, the JSON on standard output (None where there is none), and standard error."""
    capsys.readouterr()
    code = main([*words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_push_pull_and_list(
    hub: FakeHub, tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["push", str(tiny_path), "owner/digits", "--license", "mit"]
    code, planned, printed = run(capsys, *words, "--dry-run")
    assert (code, hub.repos) == (0, {})
    assert {"config.json", "model.safetensors", "pca.safetensors"} <= set(planned["files"])
    assert planned["bytes"] == sum(planned["files"].values())
    assert "license: mit" in printed
    assert "## Privacy" in printed
    code, pushed, _ = run(capsys, *words)
    assert code == 0
    assert "owner/digits" in pushed["commit"]

    out = tmp_path / "pulled"
    code, pulled, _ = run(capsys, "pull", "owner/digits", "--out", str(out))
    assert (code, pulled["out"]) == (0, str(out))
    for name in ("config.json", "model.safetensors", "pca.safetensors"):
        assert (out / name).read_bytes() == (tiny_path / name).read_bytes()
    code, _, error = run(capsys, "pull", "owner/digits", "--out", str(out))
    assert code == 2
    assert "not empty" in error
    code, _, error = run(capsys, "pull", "owner/nowhere")
    assert code == 2
    assert "owner/nowhere" in error

    code, found, _ = run(capsys, "list")
    assert code == 0
    assert found["flows"] == 1
    assert found["owner/digits"]["private"] is False


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--data", "digits"],
        ["fit", "--checkpoint", "builtin:rgb32", "--data", "digits"],
        ["bank", "--checkpoint", "builtin:rgb32", "--data", "digits", "--image-size", "8"],
        ["pull", "owner/flow"],
        ["compare", "--data", "digits"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_does_not_write_where_another_one_does(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with lock_output(out), ThreadPoolExecutor(1) as other:  # a thread holds its own locks
        code, _, error = other.submit(run, capsys, *words, "--out", str(out)).result()
    assert code == 2
    assert f"process {os.getpid()}" in error
    assert not out.exists()


def test_bank(
    tiny_path: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bank", "--checkpoint", str(tiny_path), "--data", str(tiny_folder), "--variants", "2"]
    out = tmp_path / "bank"
    code, made, _ = run(capsys, *words, "--out", str(out))
    assert code == 0
    bank = Bank(out)
    assert (made["images"], made["variants"]) == (len(bank), 2)
    assert made["applied"] == int(np.asarray(bank.applied).sum()) > 0

    code, again, _ = run(capsys, *words, "--out", str(out))
    assert (code, again["applied"]) == (0, made["applied"])
    code, _, error = run(capsys, *words, "--out", str(out), "--seed", "7")
    assert code == 2
    assert "seed" in error


def test_timm_runs_a_script(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "import torch\n"
        "from timm.data.loader import create_loader\n"
        "from PIL import Image\n"
        "class Images(torch.utils.data.Dataset):\n"
        "    transform = None\n"
        "    def __len__(self): return 12\n"
        "    def __getitem__(self, i):\n"
        "        return self.transform(Image.new('L', (8, 8), 16 * i)), i % 3\n"
        "assert sys.argv[1:] == ['--model', 'tiny', '-b=4']\n"
        "loader = create_loader(Images(), (1, 8, 8), 4, is_training=True, num_workers=0,\n"
        "    use_prefetcher=False, mean=(0.5,), std=(0.5,), no_aug=True)\n"
        "for images, labels in loader:\n"
        "    assert images.shape == (4, 1, 8, 8)\n"
    )
    words = ["timm", str(script), "--checkpoint", str(tiny_path), "--p", "1.0", "--json"]
    words += ["--noise", "0.5", "--gate", "none", "--partners", "batch"]
    capsys.readouterr()
    assert main([*words, "--", "--model", "tiny", "-b=4"]) == 0
    out, error = capsys.readouterr()
    stats = json.loads(out)
    assert stats["seen"] == stats["applied"] == 12, "noise needs no partner"
    assert error.count("NFA") == 1, "it starts; counts are printed once"
    words.remove("--json")
    assert main([*words, "--", "--model", "tiny", "-b=4"]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("NFA: of 12 images applied 12,")
    assert (out + error).count("images applied") == 1, "counts are printed once"


def test_timm_without_its_script(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "timm", "nowhere.py", "--checkpoint", str(tiny_path))
    assert code == 2
    assert "nowhere.py" in error
    assert "Traceback" not in error


def test_timm_takes_an_autoencoder(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It reaches the reader of the flow, which knows whether the flow has one."""
    words = ["timm", "train.py", "--checkpoint", str(tiny_path), "--autoencoder", "some/vae"]
    code, _, error = run(capsys, *words)
    assert code == 2
    assert "autoencoder" in error


def test_timm_shows_where_a_script_failed(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("width = int('wide')\n")
    with pytest.raises(SystemExit) as ended:
        main(["timm", str(script), "--checkpoint", str(tiny_path)])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert f'File "{script}", line 1' in error
    assert error.splitlines()[-1].startswith("ValueError: invalid literal")
    assert "nfaug timm: error" not in error


def test_timm_without_the_dashes(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["timm", "train.py", "--checkpoint", str(tiny_path), "--p=1.0"]
    for option in ("--model", "-b"):
        with pytest.raises(SystemExit, match="2"):
            main([*words, option, "7"])
        error = capsys.readouterr().err
        assert option in error
        assert "follow --," in error
    with pytest.raises(SystemExit, match="2"):
        main(["info", "builtin:rgb32", "--model"])
    assert "follow" not in capsys.readouterr().err


def test_words_after_the_dashes_are_the_scripts_own() -> None:
    words = expand(["t.py", "--checkpoint", "f", "--", "--lr", "1", "-b", "--", "x"])
    assert words == [
        "t.py", "--checkpoint", "f", "--script-arg=--lr", "--script-arg=1", "--script-arg=-b",
        "--script-arg=--", "--script-arg=x",
    ]  # fmt: skip
