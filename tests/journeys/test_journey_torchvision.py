"""torchvision's loop, with NFA in workers of every start method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def test_workers_of_every_start_method(
    run: Callable[..., Any], folder: Path, flow_dir: Path
) -> None:
    methods = torch.multiprocessing.get_all_start_methods()
    changed = run("torchvision_loop.py", folder / "train", flow_dir, *methods)
    assert "spawn" in methods
    assert changed == dict.fromkeys(methods, 24)
