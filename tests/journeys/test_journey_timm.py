"""`nfaug timm` around timm's loaders: with and without the prefetcher, and on two processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "timm_train.py"
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)


@pytest.mark.parametrize(
    ("launcher", "options", "processes"),
    [((), (), 1), ((), ("--no-prefetcher",), 1), (TWO_PROCESSES, (), 2)],
    ids=["prefetcher", "plain", "torchrun"],
)
def test_an_unedited_script(
    run: Callable[..., Any],
    folder: Path,
    flow_dir: Path,
    tmp_path: Path,
    launcher: tuple[Any, ...],
    options: tuple[str, ...],
    processes: int,
) -> None:
    out = tmp_path / "record.json"
    words = ["timm", SCRIPT, "--nfa", flow_dir, "--nfa-prob", "1.0", "--nfa-gate", "off", "--json"]
    stats = run(
        *launcher, "-m", "nfaug", *words, "--", folder, "--out", out, "--mixup", 0.5, *options
    )
    steps = 6 // processes
    assert stats["seen"] == stats["applied"] == 4 * steps, "counts of one process"
    record = json.loads(out.read_text())
    assert record["sizes"] == [[4, 3, 32, 32]] * steps
    assert record["eval"] == 6
