"""Run the blocks of the documentation as they are written.

    python scripts/run_documentation.py --train-py ../pytorch-image-models/train.py
    python scripts/run_documentation.py docs/how-to/banks.md README.md

Each page gets a folder with what its reader has: two classes of 60 photographs in `my-images`, some
others beside it, and `my-nfa` or `trained-nfa`, if the page uses them without making them. Its
blocks run in order, the Python ones in one process, each line of a bash block in a process of its
own. Nothing is added to a command, so that all pages take some hours on two cores;
`tests/test_documentation.py` runs the same blocks with options that make them small. `NOT_RUN` says
what is left out, and why.

Prints a line for each page, what failed, and the counts; exits with 1 if a block failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOT_RUN = {
    r"owner/|madebyollin|--download|nfaug list$|--recipe photos": "needs the Hub or a download",
    r"^nfaug explore": "a server, which runs until it is stopped",
    r"^(make|pip|git|sudo|apt-get|cd)\b|completion bash": "installs, or is a target that CI runs",
    r"benchmarks/": "a benchmark, or needs a GPU",
    r"--model resnet50": "trains on ImageNet for days",
}


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of Python and bash."""
    found = re.findall(r"^ *```(bash|python)\n(.*?)^ *```$", page.read_text("utf-8"), re.M | re.S)
    return [(language, textwrap.dedent(text)) for language, text in found]


def make_images(folder: Path, page: Path) -> None:
    """Folders of photographs, two classes in each."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    names = {"my-images": 60, "my-photos": 60, "my-test-images": 30, "my-spectrograms": 60}
    if "reference" in page.parts:  # timm.md makes its own
        names |= {"my-data/train": 60, "my-data/validation": 30}
    photographs = dict(zip(["temple", "flower"], load_sample_images().images, strict=True))
    for name, count in names.items():
        for label, photograph in photographs.items():
            (folder / name / label).mkdir(parents=True)
            for number in range(count):
                left, top = random.integers(640 - 128), random.integers(427 - 128)
                crop = Image.fromarray(photograph).crop((left, top, left + 128, top + 128))
                crop.resize((64, 64)).save(folder / name / label / f"{number}.png")


def make_inputs(folder: Path, page: Path, train_py: Path | None) -> None:
    """What the reader of a page has."""
    import timm
    from safetensors.torch import save_file

    sys.path.insert(0, str(ROOT / "tests"))
    import test_documentation as documentation

    make_images(folder, page)
    state = timm.create_model("resnet18").state_dict()
    weights = {name: each.contiguous() for name, each in state.items()}
    save_file(weights, folder / "model.safetensors")
    text = page.read_text("utf-8")
    if "my-taesd" in text:
        documentation.make_autoencoders(folder)
    if "released.ckpt" in text:
        documentation.make_released(folder / "released.ckpt", classes=10)
    if train_py is not None:
        shutil.copy(train_py, folder / "train.py")
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "nfaug").symlink_to(ROOT)
    for name in ("examples", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    code = "".join(text for _, text in blocks_of(page))
    for name, options in (("my-nfa", "pixels"), ("trained-nfa", "rgb32 --gaussians data")):
        used = re.search(rf"(--out )?{name}\b", code)
        if used and not used[1]:
            run(f"nfaug fit --checkpoint builtin:{options} --data my-images --out {name}", folder)


def run(line: str, folder: Path) -> str:
    """Run a line of bash; what it printed if it failed, or nothing."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return "" if done.returncode == 0 else f"exit status {done.returncode}: {done.stdout[-1500:]}"


def run_page(page: Path, train_py: Path | None) -> dict[str, Any]:
    """Run the blocks of a page in this process and folder, and count them."""
    folder = Path.cwd()
    make_inputs(folder, page, train_py)
    result: dict[str, Any] = {"python": 0, "lines": 0, "not run": [], "failed": []}
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for language, text in blocks_of(page):
        if language == "python":
            result["python"] += 1
            try:
                exec(compile(text, str(page), "exec"), namespace)
            except Exception:
                result["failed"].append(f"{text[:200]}\n{traceback.format_exc()[-1500:]}")
            continue
        for line in text.replace("\\\n", " ").splitlines():
            line = re.sub(r"(^|\s)#.*", "", line).strip()
            if not line:
                continue
            reasons = [why for what, why in NOT_RUN.items() if re.search(what, line)]
            if "train.py" in line and train_py is None:
                reasons.append("needs --train-py")
            if reasons:
                result["not run"].append(f"{line} ({reasons[0]})")
                continue
            result["lines"] += 1
            if failed := run(line, folder):
                result["failed"].append(f"{line}\n{failed}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, help="Markdown files (default: all)")
    parser.add_argument("--train-py", type=Path, help="timm's own train.py")
    parser.add_argument("--page", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    train_py = args.train_py and args.train_py.resolve()
    if args.page:
        print(json.dumps(run_page(args.page, train_py)))
        return
    docs = [path for path in (ROOT / "docs").rglob("*.md") if "generated" not in path.parts]
    pages = args.pages or [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(docs)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    totals = {"python": 0, "lines": 0, "not run": 0, "failed": 0}
    for page in [page.resolve() for page in pages]:
        if not blocks_of(page):
            continue
        began = time.monotonic()
        words = [sys.executable, str(Path(__file__).resolve()), "--page", str(page)]
        if train_py is not None:
            words += ["--train-py", str(train_py)]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                words, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment
            )
        if done.returncode:
            result = {
                "python": 0,
                "lines": 0,
                "not run": [],
                "failed": ["the page's process ended"],
            }
        else:
            result = json.loads(done.stdout.splitlines()[-1])
        counts = {
            name: len(found) if isinstance(found, list) else found for name, found in result.items()
        }
        totals = {name: totals[name] + counts[name] for name in totals}
        seconds = time.monotonic() - began
        print(f"{page.relative_to(ROOT)}: {counts}, {seconds:.0f} s", flush=True)
        for what in ("not run", "failed"):
            for each in result[what]:
                print(textwrap.indent(f"{what}: {each}", "    "), flush=True)
    run_as_written = f"{totals['python']} blocks of Python and {totals['lines']} lines of bash"
    print(
        f"{run_as_written} were run, {totals['failed']} failed; {totals['not run']} were not run."
    )
    sys.exit(bool(totals["failed"]))


if __name__ == "__main__":
    main()
