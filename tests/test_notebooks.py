"""The notebooks run at a tiny size, and are committed with the outputs of their code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tools.libraries import needs

nbformat = needs("nbformat")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
# What the tests put in the cell that is tagged `parameters`.
TINY = {
    "quickstart": "COUNT, SIZE, EPOCHS = 8, 48, 1",
    "finetune_on_your_folder": (
        "DATA, CHECKPOINT, WEIGHTS = None, 'builtin:pixels', None\n"
        "SIZE, EPOCHS, SEEDS, P = 32, 1, 1, 0.5"
    ),
    "train_and_share": "DATA, EPOCHS, WIDTH, REPO = 'digits', 1, 8, None",
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts/notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tagged(notebook: Any, tag: str) -> Any:
    (cell,) = (cell for cell in notebook.cells if tag in cell.metadata.get("tags", ()))
    return cell


# Jupyter's client and kernel warn about their own calls.
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = needs("nbclient", "ipykernel").NotebookClient
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.remove(tagged(notebook, "install"))
    tagged(notebook, "parameters").source = TINY[path.stem]
    client(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", ()) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_the_outputs_of_its_code(path: Path, script: ModuleType) -> None:
    """`python scripts/notebooks.py` runs one that has not."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert script.tidy(notebook, path.name, script.source_url()) == notebook
    assert script.is_run(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", ()) for output in outputs)
    assert path.stat().st_size < 2**20, "a notebook of more than 1 MiB"
    tagged(notebook, "parameters").source += "\nEPOCHS = 1"
    assert not script.is_run(notebook)


def test_colab_links_come_from_the_source_address(script: ModuleType) -> None:
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    linked = script.tidy(notebook, "a.ipynb", "https://github.com/owner/name")
    link = (
        "https://colab.research.google.com/github/owner/name/blob/main/examples/notebooks/a.ipynb"
    )
    assert linked.cells[0].source.endswith(f"({link})")
    assert script.tidy(linked, "a.ipynb", "https://github.com/owner/name") == linked
    assert script.tidy(linked, "a.ipynb", "") == notebook
