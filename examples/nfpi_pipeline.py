"""From labelled images to a flow on the Hub, and to a timm model that is trained with it.

    python examples/nfpi_pipeline.py --data IMAGES --test-data OTHERS --out runs/line

Seven commands, which are printed as they run, each with its seconds: train a flow under class
Gaussians that the fixed point finds; measure it; push it; pull it by its name, and fit it; draw
what it does; and train a timm model without a flow, with NFA in pixels and with NFA of this flow.
With --repo OWNER/NAME the flow travels over the Hugging Face Hub (log in with `hf auth login`), and
without it, the push is only checked. Other options are those of `nfaug train`, but --per-class: the
flow sees all labels of --data, and the timm model so many of each class. A gain says what a flow of
many labels gives to a classifier of few.

The paper's flow of CIFAR-10, and EVA02, on a GPU. The flow costs 36 GFLOP for an image, and 500
epochs are 25 million images: 250 hours at 1 TFLOP/s, 6 at 40 (computed, not measured). The timm
model takes two hours more. EVA02 needs images of 224 pixels, and weights:

    hf download timm/eva02_tiny_patch14_224.mim_in22k model.safetensors --local-dir eva02
    python examples/nfpi_pipeline.py --data torch/cifar10 --test-data torch/cifar10 --download \\
        --recipe cifar10 --repo OWNER/cifar10-nfpi --model eva02_tiny_patch14_224 \\
        --weights eva02/model.safetensors --image-size 224 --per-class 50 \\
        --out runs/cifar10
"""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path

from nfaug.cli import main as nfaug


def parse() -> tuple[argparse.Namespace, list[str]]:
    # Not abbreviated: --seed is an option of nfaug train.
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", required=True, help="what nfaug.open_dataset takes")
    parser.add_argument("--test-data", required=True, help="test images, or their splits")
    parser.add_argument("--data-dir", help="where named datasets are stored")
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--recipe", default="small", help="of the flow: a name or a file")
    parser.add_argument("--repo", help="owner/name on the Hub")
    parser.add_argument("--model", default="resnet18", help="the name of a timm model")
    parser.add_argument("--weights", help="pretrained weights of the timm model, .safetensors")
    parser.add_argument("--image-size", help="pixels for the timm model")
    parser.add_argument("--per-class", type=int, default=50, help="labelled images for the model")
    parser.add_argument("--augment", default="flip,crop", help="what keeps the class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of the timm model's training")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    return parser.parse_known_args()


def options(**values: object) -> list[str]:
    """--name value for each value that is given."""
    words = []
    for name, value in values.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def commands(args: argparse.Namespace, of_training: list[str]) -> list[list[str]]:
    """What is run: the words of each command after `nfaug`."""
    flow = args.out / "flow"
    fitted = args.out / "fitted"
    source = args.repo or flow
    reading = options(data_dir=args.data_dir) + ["--download"] * args.download
    data = ["--data", args.data, *reading]
    test = ["--data", args.test_data, *reading]
    learn = ["train", "--recipe", args.recipe, *data, "--prior.kind", "fpi", "--out", flow]
    push = ["push", flow, args.repo or "OWNER/NAME", "--no-memory"]
    classifier = options(
        network=args.model,
        weights=args.weights,
        image_size=args.image_size,
        per_class=args.per_class,
        augment=args.augment,
        seeds=args.seeds,
        steps=args.steps,
    )
    compare = ["compare", *data, "--test-data", args.test_data, "--checkpoint", fitted]
    compare += ["--methods", "none,nfa", *classifier, "--out", args.out / "compare"]
    found = [
        [*learn, *of_training],
        ["eval", "--checkpoint", flow, *test],
        push if args.repo else [*push, "--dry-run"],
        ["fit", "--checkpoint", source, *data, "--out", fitted],
        ["info", fitted],
        ["preview", "--checkpoint", fitted, *data, "--out", args.out / "sheet.png"],
        compare,
    ]
    return [[str(word) for word in command] for command in found]


def main() -> None:
    args, of_training = parse()
    args.out.mkdir(parents=True)
    seconds = {}
    for words in commands(args, of_training):
        print(f"\n$ nfaug {shlex.join(words)}", flush=True)
        started = time.monotonic()
        if nfaug(words) != 0:
            raise SystemExit(f"nfaug {words[0]} failed")
        seconds[words[0]] = time.monotonic() - started
    print("\n" + ", ".join(f"{verb} {taken:.0f} s" for verb, taken in seconds.items()))


if __name__ == "__main__":
    main()
