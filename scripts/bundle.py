"""Turn a run directory of `nfaug train` into a bundled flow.

    nfaug train --recipe fashion-mnist --data DATA --out RUN
    python scripts/bundle.py RUN fashion-mnist --data DATA --license mit --terms "..."

writes src/nfaug/builtin/NAME: weights, class gaussians, and the leading axes of each class, fitted
in one pass over --data; no partner memory, no image, and no file above 3 MB. A flow that was
trained under class gaussians keeps them; another one gets gaussians fitted to the data. The figures
on the card are measured on --test-split.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import nfaug
from nfaug import Checkpoint, open_dataset
from nfaug.checkpoint.resolve import BUILTIN
from nfaug.data.batches import in_memory
from nfaug.data.images import Images
from nfaug.hub.card import make_card
from nfaug.training.metrics import evaluate

MOST_BYTES = 3_000_000
BUILTINS = Path(__file__).resolve().parent.parent / "src/nfaug/builtin"


def bundled(
    run: Checkpoint,
    dataset: Images,
    *,
    rank: int,
    per_class: int,
    name: str | None = None,
) -> Checkpoint:
    """Return the flow of the run with statistics of the data, without any single image."""
    keeps = run.gaussians is not None and run.config.classes == tuple(dataset.classes)
    fitted = nfaug.fit(
        run.flow, dataset, gaussians=not keeps, rank=rank, per_class=per_class, memory=False
    )
    training = dict(run.config.training)
    if name is not None:
        training["data"] = name
        training.pop("init", None)  # a folder that nobody else has
    config = replace(
        fitted.config,
        training=training,
        gaussians=run.config.gaussians if keeps else fitted.config.gaussians,
    )
    return Checkpoint(run.flow, config, run.gaussians if keeps else fitted.gaussians, fitted.pca)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a directory that nfaug train wrote")
    parser.add_argument("name", help=f"the name after {BUILTIN!r}")
    parser.add_argument("--data", required=True, help="the images that the flow was trained on")
    parser.add_argument(
        "--data-name", help="what the card calls these images; the name of the file by default"
    )
    parser.add_argument("--test-data", help="test images that are not a split of --data")
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--test-name", default="test images", help="what the card calls them")
    parser.add_argument("--rank", type=int, default=16, help="axes per class")
    parser.add_argument(
        "--per-class", type=int, default=1000, help="maximum number of images per class"
    )
    parser.add_argument(
        *("--license", "--licence"), default="apache-2.0", help="the Hub's identifier"
    )
    parser.add_argument("--terms", required=True, help="what the data are, and their terms of use")
    parser.add_argument("--out", type=Path, help=f"directory instead of {BUILTINS}/NAME")
    return parser.parse_args()


def main() -> None:
    args = parse()
    run = nfaug.load(args.run)
    shape = {"image_size": run.flow.config.image_size, "channels": run.flow.config.channels}
    made = bundled(
        run,
        open_dataset(args.data, **shape),
        rank=args.rank,
        per_class=args.per_class,
        name=args.data_name,
    )
    test = open_dataset(args.test_data or args.data, **shape,
                        split="train" if args.test_data else args.test_split)  # fmt: skip
    assert made.gaussians is not None
    figures = evaluate(
        made.flow,
        made.gaussians,
        in_memory(test, progress=True),
        round_trip=True,
        progress=True,
    )
    made.config.metrics.update(figures, on=args.test_name)
    out = args.out or BUILTINS / args.name
    made.save(out, overwrite=True)
    name = BUILTIN + args.name
    card = make_card(made.config, made.pca, name, license=args.license, about_data=args.terms)
    (out / "README.md").write_text(card, encoding="utf-8")
    for file in sorted(out.iterdir()):
        print(f"{file.stat().st_size / 1e6:6.2f} MB  {file}")
        if file.stat().st_size > MOST_BYTES:
            raise SystemExit(
                f"{file} is larger than {MOST_BYTES / 1e6:g} MB; use fewer axes (--rank)"
            )


if __name__ == "__main__":
    main()
