"""Topics of `nfaug help` besides the commands: a function each, which returns the text."""

from __future__ import annotations

import shutil
import textwrap

from ..data.kinds import DATA_KINDS
from ..io.documentation import documentation

__all__ = ["data"]


def data() -> str:
    """What --data takes, with an example of each kind."""
    width = max(40, shutil.get_terminal_size().columns - 2)
    lines = ["--data takes any of these. The names of files and folders are examples.", ""]
    for kind in DATA_KINDS:
        lines.append(f"  --data {kind.example}")
        text = textwrap.fill(kind.text, width - 6, break_on_hyphens=False)
        lines.append(textwrap.indent(text, " " * 6))
    lines += ["", "Example:", "  nfaug compare --data my-images --per-class 10"]
    lines += ["", "Documentation:", f"  {documentation('reference/data-formats')}"]
    return "\n".join(lines)
