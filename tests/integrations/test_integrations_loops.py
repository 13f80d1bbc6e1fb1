"""The examples of other people's loops, run on a tiny folder with the libraries themselves."""

from __future__ import annotations

import ast
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from tools.libraries import needs

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LIBRARIES = {
    "lightning_module.py": ["lightning"],
    "hf_trainer.py": ["transformers"],
    "hf_datasets.py": ["datasets", "transformers"],
}


# Lightning's own: what it calls of torch and what it would advise for a real run.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval")
@pytest.mark.parametrize(
    ("example", "data", "options"),
    [
        ("torchvision_loop.py", "", "--batch-size 6 --workers 0 --device cpu"),
        ("lightning_module.py", "train", "--batch-size 6 --workers 0"),
        ("hf_trainer.py", "train", "--batch-size 6 --out out"),
        ("hf_datasets.py", "", "--where collator --out out"),
        ("hf_datasets.py", "", "--where transform --out out"),
    ],
)
def test_examples(
    example: str,
    data: str,
    options: str,
    folder: Path,
    flow_dir: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All augment the training images alone, half of them, in whole batches."""
    if example in LIBRARIES:
        needs(*LIBRARIES[example])
    shutil.copytree(folder, tmp_path / "data")
    if example == "hf_datasets.py":
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        (tmp_path / "data/val").rename(tmp_path / "data/test")  # as `datasets` names it
    words = [
        example,
        tmp_path / "data" / data,
        "--checkpoint",
        flow_dir,
        "--img-size",
        32,
        "--epochs",
        2,
    ]
    monkeypatch.chdir(tmp_path)  # what a trainer writes unasked must not lie in the checkout
    monkeypatch.setattr(sys, "argv", [*map(str, words), *options.split()])
    runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    stats = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= stats.pop("accuracy", 0) <= 1
    assert stats["seen"] == 24, "twelve images an epoch in training, none in evaluation"
    assert sum(stats.values()) == 24 + 12
