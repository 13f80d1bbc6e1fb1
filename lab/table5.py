"""The paper's Table 5 in the small: a classifier from scratch, with a flow of its own images.

    python lab/table5.py --data cifar10-train-50000.tar --pilot
    python lab/table5.py --data cifar10-train-50000.tar --passes N --stage A
    python lab/table5.py --data cifar10-train-50000.tar --judge

lab/results/table5/README.md has the protocol. For each draw of --labels images of each class a flow
is trained by the fixed point, with the authors' schedule and rule, on 0.9 of them; the rest gives
its NF-Acc. Classifiers are trained on all of them from random weights, one seed a draw, and tested
on --test-images others of each class. Stage A has no augmentation but NFA, B the standard set, C
the literal reading, pixels, flips and crops alone, a Swin, and builtin:rgb32, which is tested on
--test-data, whose images it has not seen.

--pilot trains without an augmentation on another draw for more and more passes. --judge trains a
network on the images that no draw has, and asks it for the labels of variants: how many keep
theirs, by the way of mixing, and what becomes of the images. --out keeps flows,
cells and the state of a training, and the same command goes on. --results gets a CSV file of cells
for each network and base, and flows.csv.
"""

import argparse
import csv
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import backbones  # registers the networks  # noqa: F401
import torch
from backbones import size_of_noise
from safetensors.torch import load_file, save_file
from sets import gains_table, keep
from torch import Tensor, nn
from torchvision.transforms import v2

import nfaug
from nfaug.compare.cells import Cells
from nfaug.compare.classifier import BATCH, Classifier
from nfaug.compare.config import CompareConfig
from nfaug.compare.transforms import transform_of
from nfaug.compare.work import bank_of, draw_batch, fitted
from nfaug.data.batches import decode
from nfaug.data.images import Images
from nfaug.io.atomic import write_text
from nfaug.training import train
from nfaug.training.config import recipe_config

SIDE = 32
NOTHING, FLOW, NOISE = "nothing", "NFA with the flow", "noise on latents"
LITERAL, PIXELS, RGB32 = "NFA, one weight up to 1", "NFA in pixels", "NFA with builtin:rgb32"
FLOW_IMAGES = 200_000  # that a flow sees, again and again
JUDGE_PASSES = 15  # of the network that labels variants
MIXINGS: dict[str, dict[str, Any]] = {
    "axes, strength 0.5": {"mix": "axis", "strength": 0.5},
    "axes, strength 1": {"mix": "axis", "strength": 1.0},
    "axes, strength 1.5": {"mix": "axis", "strength": 1.5},
    "one weight, strength 0.5": {"mix": "pair", "strength": 0.5},
    "one weight, strength 1": {"mix": "pair", "strength": 1.0},
    "one weight, strength 1.5": {"mix": "pair", "strength": 1.5},
}
PILOT_DRAW = 1000  # no other draw has this seed
STANDS_STILL = 0.5  # points that another length gains at least, or training stands still
OUTCOMES = ("applied", "far", "no_partner", "gated", "fell_back", "not_finite")
SAVED = 500  # steps between two states of a training

Draw = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Table:
    """The methods of a network over a base: none, flips (and crops), or standard."""

    stage: str
    network: str
    base: str
    methods: tuple[str, ...]
    seen: bool = False  # by builtin:rgb32, so that --test-data judges

    @property
    def name(self) -> str:
        return f"{self.network}-{self.base}{'-rgb32' if self.seen else ''}"


TABLES = (
    Table("A", "resnet18_small", "none", (NOTHING, FLOW, NOISE)),
    Table("B", "resnet18_small", "standard", (NOTHING, FLOW)),
    Table("C", "resnet18_small", "none", (LITERAL, PIXELS)),
    Table("C", "resnet18_small", "flips", (NOTHING, FLOW, LITERAL, PIXELS)),
    Table("C", "swin_small", "none", (NOTHING, FLOW, NOISE)),
    Table("C", "resnet18_small", "none", (NOTHING, RGB32), seen=True),
)


def opened(args: argparse.Namespace, draw: int) -> tuple[Images, Images, tuple[Tensor, Tensor]]:
    """The labelled images of a draw, the images that it was drawn from, and the test images."""
    stored = nfaug.open_dataset(args.data, image_size=SIDE, channels=3, progress=False)
    test, pool = stored.split(per_class=args.test_images, seed=0)
    few, rest = pool.split(per_class=args.labels, seed=draw)
    return few, rest, (decode(test, progress=False), test.targets)


def flow_of(args: argparse.Namespace, few: Images, draw: int) -> Path:
    """The checkpoint of a flow that is trained by the fixed point on a draw."""
    out: Path = args.out / "flows" / str(draw)
    if (out / "config.json").exists():
        return out
    recipe = recipe_config("rgb32")
    config = replace(
        recipe,
        epochs=args.flow_epochs or math.ceil(FLOW_IMAGES / len(few)),
        seed=draw,
        checkpoint_minutes=2,
        device="cpu",
        dataset=replace(recipe.dataset, test_fraction=0.1),
        prior=replace(recipe.prior, kind="fpi", schedule="once"),
    )
    result = train(few, out, config=config, resume=True, progress=False)
    result.checkpoint.save(out, overwrite=True)
    print(f"flow of draw {draw}: {result.checkpoint.config.metrics}", flush=True)
    return out


def variants_of(
    args: argparse.Namespace, method: str, few: Images, config: CompareConfig, draw: int
) -> Tensor | None:
    """The variants of the labelled images that a method has; None for nothing."""
    if method == NOTHING:
        return None
    if method == PIXELS:
        return bank_of("builtin:pixels", few, config, draw)
    if method == RGB32:
        return bank_of("builtin:rgb32", few, config, draw)
    flow = flow_of(args, few, draw)
    if method == NOISE:
        noise = size_of_noise(flow)
        return bank_of(str(flow), few, config, draw, strength=0.0, noise=noise)
    if method == LITERAL:
        return bank_of(str(flow), few, config, draw, mix="pair", strength=1.0)
    return bank_of(str(flow), few, config, draw)


def drawn(
    images: Tensor, labels: Tensor, bank: Tensor | None, p: float, base: str, classes: int
) -> Draw:
    """A function of rows and the step that makes a batch: variants, then the base."""
    words = () if base == "none" else ("flip", "crop")
    transform = transform_of(words, "randaugment" if base == "standard" else "", (SIDE, SIDE))
    erase = v2.RandomErasing(0.25)
    mixes = (v2.CutMix(num_classes=classes), v2.MixUp(num_classes=classes))

    def draw(rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
        batch, targets = draw_batch(images, labels, bank, p, transform, rows)
        if base != "standard":
            return batch, targets
        batch = torch.stack([erase(image) for image in batch])
        mixed: tuple[Tensor, Tensor] = mixes[step % 2](batch.float(), targets)
        return mixed

    return draw


def trained(
    classifier: Classifier, draw: Draw, count: int, steps: int, seed: int, file: Path
) -> float:
    """Train a classifier, with a state in `file` that the same command goes on from.

    Every pass has an order of its own, and every step random numbers of its own, so that a training
    that goes on is the one that was not interrupted.

    Returns:
        Seconds of a core.
    """
    lr = classifier.config.learning_rate
    optimizer = torch.optim.AdamW(classifier.model.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    parts: dict[str, Any] = {"model": classifier.model, "optimizer": optimizer}
    parts["schedule"] = schedule
    first, spent = 0, 0.0
    if file.exists():
        state = torch.load(file, weights_only=True)
        first, spent = state["step"], state["seconds"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    started = time.process_time()
    classifier.model.train()
    a_pass = math.ceil(count / BATCH)
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(10**6 * seed + step // a_pass)
        order = torch.randperm(count, generator=generator)
        rows = order.split(BATCH)[step % a_pass]
        torch.manual_seed(10**6 * seed + step)
        images, targets = draw(rows, step)
        loss = nn.functional.cross_entropy(classifier._logits(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % SAVED == 0 and step + 1 < steps:
            seconds = spent + time.process_time() - started
            saved = {name: part.state_dict() for name, part in parts.items()}
            unfinished = file.with_suffix(".part")
            torch.save({"step": step + 1, "seconds": seconds, **saved}, unfinished)
            unfinished.replace(file)
    file.unlink(missing_ok=True)
    return spent + time.process_time() - started


def right_of(
    args: argparse.Namespace,
    table: Table,
    method: str,
    few: Images,
    test: tuple[Tensor, Tensor],
    draw: int,
) -> tuple[Tensor, float]:
    """Which test images a method gets right, and its seconds without those of the flow."""
    images = decode(few, progress=False)
    labels = few.targets
    classes = len(few.classes)
    steps = math.ceil(args.passes * len(labels) / BATCH)
    config = CompareConfig(network=table.network, steps=steps, device="cpu")
    if method not in (NOTHING, PIXELS, RGB32):
        flow_of(args, few, draw)
    started = time.process_time()
    bank = variants_of(args, method, few, config, draw)
    spent = time.process_time() - started
    classifier = Classifier(config, (3, SIDE, SIDE), classes, draw)
    file = args.out / "states" / f"{table.name}-{method}-{draw}.state".replace(" ", "-")
    file.parent.mkdir(parents=True, exist_ok=True)
    made = drawn(images, labels, bank, config.p, table.base, classes)
    spent += trained(classifier, made, len(labels), steps, draw, file)
    return classifier.right(*test), spent


def pilot(args: argparse.Namespace) -> None:
    """Find the number of passes, without an augmentation and on other images.

    It is the first of --pilot-passes from which the next one gains less than half a point.
    """
    few, rest, _ = opened(args, PILOT_DRAW)
    others, _ = rest.split(per_class=args.test_images, seed=PILOT_DRAW)
    test = decode(others, progress=False), others.targets
    before = -math.inf
    for passes in args.pilot_passes:
        given = argparse.Namespace(**{**vars(args), "passes": passes})
        right, seconds = right_of(given, TABLES[0], NOTHING, few, test, PILOT_DRAW)
        accuracy = 100 * float(right.float().mean())
        rate = passes * len(few) / seconds
        print(f"{passes} passes: {accuracy:.1f}%, {rate:.0f} images/s", flush=True)
        if accuracy < before + STANDS_STILL:
            return
        before = accuracy


def judge_of(args: argparse.Namespace) -> Classifier:
    """A network that is trained with flips and shifts on the images that no draw has."""
    draws = [opened(args, draw) for draw in range(args.draws)]
    few, rest, _ = draws[0]
    used = torch.cat([few.rows for few, _, _ in draws])
    others = rest.subset((~torch.isin(rest.rows, used)).nonzero().flatten())
    images = decode(others, progress=False)
    labels = others.targets
    steps = math.ceil(args.judge_passes * len(labels) / BATCH)
    config = CompareConfig(network="resnet18_small", steps=steps, device="cpu")
    classifier = Classifier(config, (3, SIDE, SIDE), len(few.classes), PILOT_DRAW)
    file = args.out / "judge.safetensors"
    if file.exists():
        classifier.model.load_state_dict(load_file(file))
        return classifier
    file.parent.mkdir(parents=True, exist_ok=True)
    made = drawn(images, labels, None, 0.0, "flips", len(few.classes))
    trained(classifier, made, len(labels), steps, PILOT_DRAW, file.with_suffix(".state"))
    state = classifier.model.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return classifier


def judge(args: argparse.Namespace) -> None:
    """Write which share of the variants keep their label, and what became of the images."""
    classifier = judge_of(args)
    _, _, test = opened(args, 0)
    print(f"the judge: {100 * classifier.right(*test).float().mean():.1f}% of the test images")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("draw", "mixing", "kept", *OUTCOMES))
    config = CompareConfig(device="cpu")
    for draw in range(args.draws):
        few, _, _ = opened(args, draw)
        images = decode(few, progress=False)
        labels = few.targets
        kept = float(classifier.right(images, labels).float().mean())
        table.writerow((draw, "the images", f"{kept:.4f}", *[0] * len(OUTCOMES)))
        flow = flow_of(args, few, draw)
        checkpoint = fitted(str(flow), few, config, draw)
        noise = {"strength": 0.0, "noise": size_of_noise(flow)}
        for name, mixing in {**MIXINGS, "noise": noise}.items():
            generator = torch.Generator().manual_seed(draw)
            nfa = nfaug.NFAugment(checkpoint, p=1.0, generator=generator, **mixing)
            variants = torch.cat([
                nfa(part, own)[0]
                for part, own in zip(images.split(250), labels.split(250), strict=True)
            ])  # fmt: skip
            kept = float(classifier.right(variants, labels).float().mean())
            counts = nfa.stats()
            table.writerow((draw, name, f"{kept:.4f}", *[counts[what] for what in OUTCOMES]))
            print(f"draw {draw}, {name}: {100 * kept:.1f}% keep their label", flush=True)
        write_text(args.results / "labels.csv", text.getvalue())


def figures_of(flows: Path) -> str:
    """A CSV table of the flows: figures on the held-out tenth of their draw, and seconds."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("draw", "nf_acc", "bits_per_dim", "on", "seconds"))
    for flow in sorted(flows.iterdir(), key=lambda path: int(path.name)):
        if (flow / "config.json").exists():
            config = nfaug.load(flow).config
            figures = config.metrics
            # Classes of fewer than 20 images hold none out.
            words = [f"{figures.get(name, math.nan):.4f}" for name in ("nf_acc", "bits_per_dim")]
            on = figures.get("on", "")
            table.writerow((flow.name, *words, on, config.training["seconds"]))
    return text.getvalue()


def train_stage(args: argparse.Namespace) -> None:
    """Train what a stage has, table by table, and print each after every draw."""
    for table in [table for table in TABLES if table.stage == args.stage]:
        if table.seen and args.test_data is None:
            continue
        for draw in range(args.draws):
            few, _, test = opened(args, draw)
            if table.seen:
                unseen = nfaug.open_dataset(args.test_data, image_size=SIDE, progress=False)
                test = decode(unseen, progress=False), unseen.targets
            record = {"passes": args.passes, "labels": args.labels, "network": table.network}
            record |= {"base": table.base, "flow_epochs": args.flow_epochs or "default"}
            cells = Cells(args.out / "cells" / table.name, record, len(test[1]))
            for method in table.methods:
                if (method, draw) in cells:
                    continue
                right, seconds = right_of(args, table, method, few, test, draw)
                cells.add(method, draw, right.numpy(), seconds)
                print(f"{table.name}, {method}, {draw}: {100 * right.float().mean():.1f}%, "
                      f"{seconds:.0f} s", flush=True)  # fmt: skip
            keep(args.results, {table.name: cells})
            print("\n".join(gains_table(table.name, cells, table.methods, NOTHING)), flush=True)
            if (args.out / "flows").exists():
                write_text(args.results / "flows.csv", figures_of(args.out / "flows"))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the 50,000 training images")
    parser.add_argument("--test-data", type=Path, help="images that builtin:rgb32 has not seen")
    parser.add_argument("--stage", choices=["A", "B", "C"], default="A")
    parser.add_argument("--passes", type=int, help="over the labelled images")
    parser.add_argument("--labels", type=int, default=250, help="labelled images of each class")
    parser.add_argument("--test-images", type=int, default=1000, help="test images of each class")
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--flow-epochs", type=int, help="default: 200,000 images in all")
    parser.add_argument("--pilot", action="store_true", help="look for the number of passes")
    parser.add_argument("--judge", action="store_true", help="ask a network for labels of variants")
    parser.add_argument("--judge-passes", type=int, default=JUDGE_PASSES)
    parser.add_argument("--pilot-passes", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--out", type=Path, default=Path("runs/table5"))
    parser.add_argument("--results", type=Path, default=Path("lab/results/table5"))
    args = parser.parse_args(words)
    print(nfaug.__file__, flush=True)
    torch.set_num_threads(1)
    if args.pilot:
        pilot(args)
        return
    if args.judge:
        judge(args)
        return
    if args.passes is None:
        parser.error("--passes is needed; the protocol has it")
    train_stage(args)


if __name__ == "__main__":
    main()
