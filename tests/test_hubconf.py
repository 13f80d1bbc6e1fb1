"""hubconf.py, as torch.hub runs it in a checkout that is not installed."""

from __future__ import annotations

import doctest
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = f"""
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.modules["torchvision"] = None  # not one of its dependencies
import torch
nfa = torch.hub.load({str(ROOT)!r}, "nfa", source="local", p=0.5)
print(nfa(torch.zeros(4, 3, 32, 32), torch.arange(4))[0].shape)
print(sys.modules["nfaug"].__file__)
"""


def test_it_runs_without_an_installation(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    shape, file = ran.stdout.splitlines()
    assert shape == "torch.Size([4, 3, 32, 32])"
    assert Path(file).resolve() == ROOT / "src/nfaug" / "__init__.py"


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    assert doctest.testmod(module) == (0, 4)


def test_settings_arrive() -> None:
    nfa = torch.hub.load(str(ROOT), "nfa", source="local", p=0.25, strength=1.0)
    assert (nfa.p, nfa.config.strength) == (0.25, 1.0)
