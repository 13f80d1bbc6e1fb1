"""Run the notebooks of examples/notebooks, and keep their outputs for a commit.

    python scripts/notebooks.py          # tidy them, and run those whose code changed
    python scripts/notebooks.py --check  # list those that are not tidy or not run, and exit with 1

A tidy notebook has no widgets, no counters and no messages of its run. Its outputs are those of its
code: its metadata hold the SHA-256 of the code that was run. Its first cell ends with a link that
opens it in Colab if `Source` of [project.urls] in pyproject.toml is a repository on GitHub, and
with none otherwise. The cell that is tagged `install` is not run.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import os
import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = [
    "FOLDER",
    "code_sha256",
    "colab_link",
    "is_run",
    "project_links",
    "run",
    "source_url",
    "tidy",
]

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "notebooks"
_LINK = re.compile(r"\n*\[Open in Colab\]\(\S*\)\s*$")
_MINUTES = 20  # that a cell may take


def project_links() -> dict[str, str]:
    """The names and addresses of [project.urls], as installed."""
    links = metadata.metadata("nfaug").get_all("Project-URL") or ()
    return dict(link.split(", ", 1) for link in links)


def source_url() -> str:
    """The address of the repository; empty if it is not set."""
    return project_links().get("Source", "")


def colab_link(source: str, name: str) -> str:
    """The address that opens a notebook in Colab, or nothing if the source is not on GitHub."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", source)
    path = f"blob/main/examples/notebooks/{name}"
    return f"https://colab.research.google.com/github/{found[1]}/{path}" if found else ""


def code_sha256(notebook: Any) -> str:
    """The SHA-256 of the code of a notebook."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\n\n".join(code).encode()).hexdigest()


def is_run(notebook: Any) -> bool:
    """Whether the outputs of a notebook are those of its code."""
    return bool(notebook.metadata.get("nfaug", {}).get("code_sha256") == code_sha256(notebook))


def run(notebook: Any) -> Any:
    """A copy with the outputs of a run in an empty folder."""
    from nbclient import NotebookClient

    made = copy.deepcopy(notebook)
    installs = [cell for cell in made.cells if "install" in cell.metadata.get("tags", ())]
    for cell in installs:
        cell.cell_type = "raw"
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(made, timeout=60 * _MINUTES, resources=resources).execute()
    for cell in installs:
        cell.cell_type = "code"
        cell.outputs, cell.execution_count = [], None
    made.metadata["nfaug"] = {"code_sha256": code_sha256(made)}
    return made


def tidy(notebook: Any, name: str, source: str) -> Any:
    """A copy without what differs between runs, with the Colab link that `source` allows."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = None
                if "image/png" in output.get("data", ()):  # one picture in two formats
                    output.data.pop("image/jpeg", None)
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
    made.metadata.pop("widgets", None)
    made.metadata["language_info"] = {"name": "python"}
    link = colab_link(source, name)
    first = made.cells[0]
    first.source = _LINK.sub("", first.source) + (f"\n\n[Open in Colab]({link})" if link else "")
    return made


def main() -> int:
    import nbformat

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    # Cells run `nfaug` from a folder of their own.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    changed = []
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        new = notebook
        if not check and not is_run(notebook):
            new = run(notebook)
        new = tidy(new, path.name, source_url())
        if new != notebook or not is_run(notebook):
            changed.append(path.name)
            if not check:
                nbformat.write(new, path)
    print("\n".join(changed))
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
