"""Settings of Sphinx. `make docs` builds the site into build/site."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import latex2mathml.converter
from docutils import nodes

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "scripts")]

from generate import site_links, unbroken, write_parts  # noqa: E402
from notebooks import project_links  # noqa: E402

project = "nfaug"
author = "The nfaug contributors"
copyright = f"2026, {author}"
release = metadata.version("nfaug")

# The addresses of the repository and of the site are in [project.urls] and nowhere else.
links = project_links()
html_baseurl = links.get("Documentation", "")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["generated", "inventories"]  # included by pages
smartquotes = False  # it makes a dash of the two hyphens of an option
default_role = "py:obj"  # `Flow` in a docstring is a link if there is such a name

myst_enable_extensions = ["deflist", "dollarmath", "fieldlist", "substitution"]
myst_heading_anchors = 3

# A list of the names that docstrings use, since a build reads nothing from the network.
intersphinx_mapping = {
    "torch": ("https://docs.pytorch.org/docs/stable/", "inventories/torch.txt"),
}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"nfaug {release}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["nfaug.css"]
html_copy_source = False
html_show_sphinx = False
if "Source" in links:
    html_theme_options = {
        "source_repository": links["Source"],
        "source_branch": "main",
        "source_directory": "docs/",
    }


def keep_formulas(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Show the indented formulas of a docstring as they are in the code, line by line.

    A formula is an indented block after an empty line; the entries of `Args:` follow without one.
    """
    made = ["", ""]
    formula = False
    for line in lines:
        if line[:1].strip():
            formula = False
        after_text = made[-2][:1].strip() and not made[-1].strip()
        if after_text and line.startswith("    ") and not line.strip().startswith(">>>"):
            formula = True
            made += [".. code-block:: text", ""]
        made.append(line if formula else escaped(line))
    lines[:] = made[2:]


def escaped(line: str) -> str:
    """Markdown's view of a line: bars are no substitutions, and options keep their two hyphens."""
    parts = line.replace("|", r"\|").split("`")
    parts[::2] = [re.sub(r"(?<!\S)--[a-z][\w-]*", r"``\g<0>``", part) for part in parts[::2]]
    return "`".join(parts)


def skip_fields(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, whose class says what they are."""
    return True if (obj.__doc__ or "").startswith("Alias for field number") else None


def math_inline(self: Any, node: nodes.math) -> None:
    self.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def math_block(self: Any, node: nodes.math_block) -> None:
    formula = latex2mathml.converter.convert(node.astext(), display="block")
    self.body.append(f'<div class="math">{formula}</div>\n')
    raise nodes.SkipNode


_REPOSITORY = re.compile("<!-- repository -->.*?<!-- /repository -->\n", re.DOTALL)
_SHEET = r"""```{figure} \2
:target: ../_images/\2
:figclass: sheet
:alt: \1
```"""


def read_page(app: Any, document: str, source: list[str]) -> None:
    """A page is also a file of the repository, where directives are not read.

    `<!-- site ... -->` holds what only the site shows, and `<!-- repository -->` stands before what
    it does not, up to `<!-- /repository -->`. On the site, names of Python link to their entry, and
    sheets of variants to their own size.
    """
    text = _REPOSITORY.sub("", source[0])
    text = re.sub(r"^<!-- site\n(.*?)^-->$", r"\1", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\[`(nfaug(?:\.\w+)+)`\]\([\w/.-]*\.md\)", r"{py:obj}`\1`", text)
    text = re.sub(r"^!\[(.+)\]\((sheet-\w+\.jpg)\)$", _SHEET, text, flags=re.MULTILINE)
    source[0] = unbroken(site_links(text, (HERE / document).parent))


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (math_inline, None), (math_block, None))
    app.connect("builder-inited", lambda app: write_parts(HERE / "generated"))
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)  # before napoleon
