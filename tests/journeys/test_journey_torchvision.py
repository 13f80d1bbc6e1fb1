"""torchvision's loop, with NFA in spawned workers, which import the script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_loop_with_spawned_workers(run: Callable[..., Any], folder: Path, flow_dir: Path) -> None:
    assert run("torchvision_loop.py", folder / "train", flow_dir, "spawn") == {"spawn": 24}
