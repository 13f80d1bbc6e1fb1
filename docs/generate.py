"""Parts of the documentation that are made from the code: tables, commands, and pictures.

Each part is a file in docs/generated/, which a page includes. They are made at every build.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nbformat
from huggingface_hub import ModelCard
from notebooks import FOLDER, colab_link, source_url

from nfaug import load
from nfaug.checkpoint.resolve import builtin_names
from nfaug.cli import COMMANDS
from nfaug.data.preprocess import as_size
from nfaug.flows.config import FlowConfig
from nfaug.training.config import recipe_config, recipes

__all__ = ["PARTS", "moved_links", "write_parts"]

RESULTS = (
    *(f"where/{name}" for name in ("cells", "clothes", "signs", "speech", "imbalance", "hardest")),
    *("autoencoder", "gaussians_full", "settings_full", "training_overhead"),
    *("fixed_point_divergence", "study", "README"),
)

ROOT = Path(__file__).resolve().parent.parent


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


def commands() -> str:
    """The help of every command."""
    os.environ["COLUMNS"] = "88"  # the width of argparse's help
    parts = []
    for verb, summary in COMMANDS.items():
        parser: Any = importlib.import_module(f"nfaug.commands.{verb}").parser()
        help_text = parser.format_help().rstrip().replace(" \b", "")  # printed over a blank
        parts.append(f"## nfaug {verb}\n\n{summary.capitalize()}.\n\n```text\n{help_text}\n```\n")
    return "\n".join(parts)


def notebooks() -> str:
    """The first cell of each notebook, with links to download it and, if possible, to Colab."""
    parts = []
    for name in ("quickstart", "finetune_on_your_folder", "train_and_share"):
        file = f"{name}.ipynb"
        colab = colab_link(source_url(), file)
        links = [f"[Download](../examples/notebooks/{file})"]
        links += [f"[open in Colab]({colab})"] if colab else []
        title, text, *_ = nbformat.read(FOLDER / file, as_version=4).cells[0].source.split("\n\n")
        parts.append(f"#{title}\n\n{text}\n\n{', '.join(links)}.\n")
    return "\n".join(parts)


def moved_links(text: str) -> str:
    """Point links to files outside of docs/ at the pages of the site that hold them."""
    for file, page in {
        r"CONTRIBUTING\.md": "contributing",
        r"CHANGELOG\.md": "changelog",
        r"benchmarks/README\.md": "benchmarks",
    }.items():
        text = re.sub(rf"\]\((\.\./)?{file}", f"](/{page}.md", text)
    return re.sub(r"\]\((?:\.\./)?(?:benchmarks/)?results/(?:where/)?(\w+)\.md", _result, text)


def _result(match: re.Match[str]) -> str:
    """A link to a page of results: to its place on the site, if it is there."""
    shown = {name.rpartition("/")[2] for name in RESULTS}
    return f"](#results-{match[1]}" if match[1] in shown else "](/results.md"


def copied(*names: str) -> Callable[[], str]:
    """Documents from outside of docs/."""
    return lambda: "\n\n".join(moved_links((ROOT / name).read_text("utf-8")) for name in names)


def results() -> str:
    """The pages of results, each with a target for links."""
    pages = []
    for name in RESULTS:
        text = (ROOT / "benchmarks" / "results" / f"{name}.md").read_text("utf-8")
        text = re.sub(r"\]\((?:\.\./)?(\w+)\.md", _result, moved_links(text))
        pages.append(f"(results-{name.rpartition('/')[2]})=\n\n{text}")
    return "\n\n".join(pages)


PARTS: dict[str, Callable[[], str]] = {
    "flows": flows,
    "costs": costs,
    "commands": commands,
    "notebooks": notebooks,
    "changelog": copied("CHANGELOG.md"),
    "contributing": copied("CONTRIBUTING.md"),
    "benchmarks": copied("benchmarks/README.md"),
    "results": results,
}


def write_parts(folder: Path) -> None:
    """Write each part to `folder`, as NAME.md; run the code of the pictures, which draws there."""
    folder.mkdir(exist_ok=True)
    page = (ROOT / "docs" / "settings-in-pictures.md").read_text(encoding="utf-8")
    before = os.getcwd()
    os.chdir(folder)
    try:
        exec("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)), {})
    finally:
        os.chdir(before)
    for name, make in PARTS.items():
        (folder / f"{name}.md").write_text(make(), encoding="utf-8")
