"""Parts of the documentation that are made from the code: tables, commands, and pictures.

Each part is a file in docs/generated/, which a page includes. They are made at every build.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from huggingface_hub import ModelCard
from notebooks import source_url

from nfaug import load
from nfaug.checkpoint.resolve import builtin_names
from nfaug.commands import COMMANDS, GROUPS
from nfaug.flows.config import FlowConfig
from nfaug.io.numbers import as_size
from nfaug.training.config import recipe_config, recipes

__all__ = ["PARTS", "options_of", "site_links", "unbroken", "write_parts"]

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Files outside of docs/ that are pages of the site.
PAGES = {"CONTRIBUTING.md": "/project/contributing.md", "CHANGELOG.md": "/project/changelog.md"}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s]+)\)")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def shape(channels: int, size: Sequence[int]) -> str:
    return f"{channels}\u00a0x\u00a0{size[0]}\u00a0x\u00a0{size[1]}"  # on one line


def number(value: float | None, digits: str = ".3g") -> str:
    return "-" if value is None else f"{value:{digits}}"


def flows() -> str:
    """The bundled flows. Figures and license come from their cards, the shape from the weights."""
    rows = []
    for name in builtin_names():
        folder = ROOT / "src/nfaug" / "builtin" / name.removeprefix("builtin:")
        card = ModelCard.load(folder / "README.md").data
        results = {r.metric_name: r.metric_value for r in card.eval_results or ()}
        checkpoint = load(name)
        flow, training = checkpoint.config.flow, checkpoint.config.training
        identity = flow.parameter_count == 0
        bytes_ = sum(file.stat().st_size for file in folder.iterdir())
        rows.append(
            [
                f"`{name}`",
                "any" if identity else shape(flow.channels, flow.image_size),
                training.get("data", "none"),
                f"{flow.parameter_count / 1e6:.2f} M",
                f"{bytes_ / 1e6:.1f} MB",
                number(None if identity else flow.flop / 1e9),
                number(results.get("bits/dim"), ".2f"),
                number(results.get("NF-Acc"), ".1%"),
                card.license,
            ]
        )
    header = ["flow", "images", "trained on", "parameters", "size", "GFLOP", "bits/dim", "NF-Acc"]
    return table([*header, "license"], rows)


def costs() -> str:
    """What a flow of each recipe costs."""
    rows = []
    for name in recipes():
        config = recipe_config(name)
        if config.autoencoder is not None:  # on latents, whose shape an autoencoder decides
            continue
        size = as_size(config.dataset.image_size)
        flow = FlowConfig(config.dataset.channels or 3, size, config.flow)
        rows.append(
            [
                f"`{name}`",
                shape(flow.channels, flow.image_size),
                f"{flow.parameter_count / 1e6:.2f} M",
                number(flow.flop / 1e9),
            ]
        )
    return table(["recipe", "input", "parameters", "GFLOP"], rows)


def command(verb: str) -> str:
    """The help of a command: its usage, its description, and a list of options."""
    parser: Any = importlib.import_module(f"nfaug.commands.{verb}").parser()
    with mock.patch.dict(os.environ, COLUMNS="88"):
        usage = parser.format_usage().rstrip()
    with mock.patch.dict(os.environ, COLUMNS="10000"):  # one line for each option
        help_text = parser.format_help().replace(" \b", "")  # printed over a blank
    _, _, text = help_text.partition("\n\n")
    return f"```text\n{usage}\n```\n\n" + "\n".join(options_of(text))


def all_commands() -> str:
    """The commands in groups, with links to their pages."""
    rows = []
    for group, members in GROUPS.items():
        for verb, summary in members.items():
            rows.append([f"[`{verb}`]({verb}.md)", summary, group])
    return table(["command", "what it does", "group"], rows)


def options_of(text: str) -> Iterator[str]:
    """The paragraphs of a help text as Markdown: options and their texts become a list.

    An option stands two columns from the left. Its text follows, or is the next line, 24 columns
    from the left. A line that ends in a colon is the title of the options below it. Examples and
    addresses are left out: the page has its own.
    """
    blocks = re.split(r"\n\n+", text.strip("\n"))
    for block in blocks:
        lines = block.splitlines()
        if re.match(r"(Examples?|Documentation):$", lines[0]):
            continue
        has_options = any(re.match(r"  (-|\S+  +\S)", line) for line in lines[1:])
        if not has_options:
            indented = all(line.startswith(" ") for line in lines)
            yield f"```text\n{block}\n```\n" if indented else f"{literal(' '.join(lines))}\n"
            continue
        yield f"## {literal(lines[0].rstrip(':').capitalize())}\n"
        for line in lines[1:]:
            option = re.match(r"  (\S.*?)(?:  +(.*))?$", line)
            if option is None:
                yield f": {literal(line.strip())}\n"
                continue
            yield f"`{option[1]}`"
            if option[2]:
                yield f": {literal(option[2])}\n"


def literal(text: str) -> str:
    """Markdown that shows a text as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", text)


def source() -> str:
    """How to clone the repository, if its address is known."""
    url = source_url().rstrip("/")
    if not url:
        return ""
    name = url.removesuffix(".git").rpartition("/")[2]
    return f"[The repository]({url}):\n\n```bash\ngit clone {url}\ncd {name}\n```\n"


def site_links(text: str, folder: Path) -> str:
    """Point links to files outside of docs/ at the site's copy, the repository, or a download.

    Args:
        text: A document.
        folder: The folder that its links are relative to.
    """
    return LINK.sub(lambda found: _site_link(found[1], found[2], folder), text)


def _site_link(words: str, target: str, folder: Path) -> str:
    link = f"[{words}]({target})"
    name, _, anchor = target.partition("#")
    if not name or re.match(r"[a-z]+:", name) or name.startswith("/"):
        return link
    file = (folder / name).resolve()
    if not file.is_relative_to(ROOT) or (file.is_relative_to(DOCS) and folder != ROOT):
        return link
    if file.is_relative_to(DOCS):  # of a document that stands elsewhere on the site
        page = file.relative_to(DOCS).as_posix()
        return f"[{words}](/{page}{target.removeprefix(name)})"
    path = file.relative_to(ROOT).as_posix()
    if path in PAGES:
        return f"[{words}]({PAGES[path]}{'#' if anchor else ''}{anchor})"
    if source_url():
        kind = "tree" if file.is_dir() else "blob"
        return f"[{words}]({source_url().rstrip('/')}/{kind}/main/{path})"
    if file.is_dir():
        path = f"{path}/README.md"
    return f"{{download}}`{words.replace('`', '')} </../{path}>`"


def unbroken(text: str) -> str:
    """Keep a gain on one line, and a size in a table."""
    text = text.replace(" \u00b1 ", "\u00a0\u00b1\u00a0")
    sizes = re.compile(r"(?<=\d) x (?=\d)")
    lines = [sizes.sub("\u00a0x\u00a0", s) if s.startswith("|") else s for s in text.split("\n")]
    return "\n".join(lines)


def copied(name: str) -> Callable[[], str]:
    """A document from outside of docs/."""
    return lambda: site_links((ROOT / name).read_text("utf-8"), ROOT)


# Pages whose code draws and prints what they show.
RUN = ("tutorials/first-training.md", "reference/settings.md")
PARTS: dict[str, Callable[[], str]] = {
    "flows": flows,
    "costs": costs,
    "source": source,
    "changelog": copied("CHANGELOG.md"),
    "contributing": copied("CONTRIBUTING.md"),
    "commands": all_commands,
    **{f"commands/{verb}": functools.partial(command, verb) for verb in COMMANDS},
}


def write_parts(folder: Path) -> None:
    """Write each part to `folder`, as NAME.md, and what the code of `RUN` draws and prints."""
    (folder / "commands").mkdir(parents=True, exist_ok=True)
    for page in RUN:
        _run(DOCS / page, folder)
    for name, make in PARTS.items():
        (folder / f"{name}.md").write_text(make(), encoding="utf-8")


def _run(page: Path, folder: Path) -> None:
    """Run the Python of a page in an empty folder; keep its pictures and its output in `folder`."""
    code = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    before = os.getcwd()
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        try:
            with contextlib.redirect_stdout(printed):
                exec("\n".join(code), {})
        finally:
            os.chdir(before)
        for picture in Path(empty).glob("*.png"):
            shutil.copy(picture, folder)
    (folder / f"{page.stem}.txt").write_text(printed.getvalue(), encoding="utf-8")
