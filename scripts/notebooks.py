"""Clean the notebooks of examples/notebooks for a commit.

    python scripts/notebooks.py          # rewrite them
    python scripts/notebooks.py --check  # list those that are not clean, and exit with 1

A clean notebook has no outputs and no counters. Its first cell ends with a link that opens it in
Colab if `Source` of [project.urls] in pyproject.toml is a repository on GitHub, and with none
otherwise.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat

__all__ = ["FOLDER", "clean", "colab_link", "project_links", "source_url"]

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "notebooks"
_LINK = re.compile(r"\n*\[Open in Colab\]\(\S*\)\s*$")


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


def clean(notebook: Any, name: str, source: str) -> Any:
    """A copy without outputs, with the Colab link that `source` allows."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
    made.metadata.pop("widgets", None)
    made.metadata["language_info"] = {"name": "python"}
    link = colab_link(source, name)
    first = made.cells[0]
    first.source = _LINK.sub("", first.source) + (f"\n\n[Open in Colab]({link})" if link else "")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    changed = []
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        cleaned = clean(notebook, path.name, source_url())
        if cleaned != notebook:
            changed.append(path.name)
            if not check:
                nbformat.write(cleaned, path)
    print("\n".join(changed))
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
