"""ResNet, Swin and EVA02, fine-tuned with a flow of their own labels.

    python lab/backbones.py --data cifar10-train-50000.tar --out runs/backbones

In the small, on CIFAR-10. Three networks are pretrained on five of its classes (25,000 images), and
fine-tuned on --labels images of each of the other five; 1,000 others of each are the test set. For
each seed a flow is trained by the fixed point on exactly the labels that the classifiers have. The
methods add to flips and translations: nothing, RandAugment, MixUp, NFA with that flow, NFA in
pixels, and noise on the flow's latents, of the size that mixing has. Classifiers and NFA are at
their defaults; a flow is that of the recipe rgb32 by the fixed point, and takes 400 passes over 250
images or 80 over 2,500, where the recipe small takes 400. --out keeps networks, flows and cells,
and the same command goes on; --results gets a CSV file of cells for each network and number of
labels, and flows.csv: how well each flow classifies the test images.
"""

import argparse
import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sets import NOTHING, gains_table, keep
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.eva import Eva
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

import nfaug
from nfaug.compare.cells import Cells
from nfaug.compare.classifier import BATCH, Classifier, default_steps
from nfaug.compare.config import CompareConfig
from nfaug.compare.transforms import transform_of
from nfaug.compare.work import bank_of, draw_batch
from nfaug.data.batches import Decoded, decode
from nfaug.data.images import Images
from nfaug.io.atomic import write_text
from nfaug.training import train
from nfaug.training.config import recipe_config
from nfaug.training.metrics import evaluate

SIDE = 32  # pixels
SAFE = ("flip", "crop")
FLOW, PIXELS, NOISE = "NFA with the flow", "NFA in pixels", "noise on latents"
METHODS = (NOTHING, "RandAugment", "MixUp", FLOW, PIXELS, NOISE)
NETWORKS = {
    "resnet18_small": "ResNet-18",
    "swin_small": "Swin",
    "eva02_small": "EVA02",
}
FLOW_IMAGES = 100_000  # that a flow sees at least, again and again
FLOW_EPOCHS = 80

_HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, SIDE, SIDE), "num_classes": 5}
default_cfgs = generate_default_cfgs(
    {
        "resnet18_small": {**_HALF, "first_conv": "conv1", "classifier": "fc"},
        "swin_small": {**_HALF, "first_conv": "patch_embed.proj", "classifier": "head.fc"},
        "eva02_small": {**_HALF, "first_conv": "patch_embed.proj", "classifier": "head"},
    }
)


class SmallResNet(ResNet):
    """A ResNet whose first convolution is 3x3 and without stride, for small images."""

    def __init__(self, block: Any, layers: Any, in_chans: int = 3, **options: Any) -> None:
        super().__init__(block, layers, in_chans=in_chans, **options)
        self.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)


@register_model
def resnet18_small(pretrained: bool = False, **options: Any) -> Any:
    """ResNet-18, three quarters as wide, for 32 pixels."""
    return build_model_with_cfg(
        SmallResNet,
        "resnet18_small",
        pretrained,
        block=BasicBlock,
        layers=(2, 2, 2, 2),
        channels=(48, 96, 192, 384),
        **options,
    )


@register_model
def swin_small(pretrained: bool = False, **options: Any) -> Any:
    """Swin for 32 pixels: patches of 2 x 2, windows of 4 x 4, three stages of 48 to 192."""
    return build_model_with_cfg(
        SwinTransformer,
        "swin_small",
        pretrained,
        img_size=SIDE,
        patch_size=2,
        window_size=4,
        embed_dim=48,
        depths=(2, 2, 2),
        num_heads=(2, 4, 8),
        **options,
    )


@register_model
def eva02_small(pretrained: bool = False, **options: Any) -> Any:
    """EVA02 for 32 pixels: patches of 4 x 4, six blocks of 96."""
    return build_model_with_cfg(
        Eva,
        "eva02_small",
        pretrained,
        img_size=SIDE,
        patch_size=4,
        embed_dim=96,
        depth=6,
        num_heads=3,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(8, 8),
        **options,
    )


def opened(args: argparse.Namespace) -> tuple[Images, Images, Images]:
    """The images of the classes to pretrain on, the pool of labelled ones, and the test images."""
    stored = nfaug.open_dataset(args.data, image_size=SIDE, channels=3)
    images = decode(stored, progress=False)
    labels = stored.targets
    parts = []
    for start in (0, 1):  # every other class
        rows = labels % 2 == start
        part = TensorDataset(images[rows], labels[rows] // 2)
        parts.append(nfaug.open_dataset(part, classes=stored.classes[start::2], progress=False))
    test, pool = parts[1].split(per_class=args.test_images, seed=0)
    most = int(pool.targets.bincount().min())
    if max(args.labels) > most:
        raise SystemExit(f"--labels: {most} images of each class are not test images")
    return parts[0], pool, test


def pretrained(args: argparse.Namespace, network: str, images: Images) -> Path:
    """The file of a network's weights, trained on these images."""
    file: Path = args.out / "networks" / f"{network}.safetensors"
    if file.exists():
        return file
    pixels = decode(images, progress=False)
    labels = images.targets
    steps = math.ceil(args.pretraining_epochs * len(labels) / BATCH)
    config = CompareConfig(network=network, steps=steps, device="cpu")
    torch.manual_seed(0)
    classifier = Classifier(config, (3, SIDE, SIDE), len(images.classes), seed=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    hours = pretrain(classifier, pixels, labels, steps, file.with_suffix(".state"))
    print(f"{network}: pretrained in {hours:.2f} hours of a core", flush=True)
    unfinished = file.with_suffix(".part")
    state = {name: tensor.contiguous() for name, tensor in classifier.model.state_dict().items()}
    save_file(state, unfinished)
    unfinished.replace(file)
    return file


def pretrain(
    classifier: Classifier, pixels: Tensor, labels: Tensor, steps: int, file: Path
) -> float:
    """Train a network, with a state in `file` that the same command goes on from.

    The settings are those of `Classifier.train`, but for rows that are drawn with replacement.

    Returns:
        Hours of a core.
    """
    optimizer = torch.optim.AdamW(
        classifier.model.parameters(), classifier.config.learning_rate, weight_decay=0.05
    )
    peak = classifier.config.learning_rate
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps)
    parts = {"model": classifier.model, "optimizer": optimizer, "schedule": schedule}
    first, hours = 0, 0.0
    if file.exists():
        state = torch.load(file, weights_only=True)
        first, hours = state["step"], state["hours"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    transform = transform_of(SAFE, "", (SIDE, SIDE))
    started = time.process_time()
    classifier.model.train()
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(step)
        torch.manual_seed(step)
        rows = torch.randint(len(labels), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(
            classifier._logits(transform(pixels[rows])), labels[rows]
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            spent = hours + (time.process_time() - started) / 3600
            state = {name: part.state_dict() for name, part in parts.items()}
            unfinished = file.with_suffix(".part-state")
            torch.save({"step": step + 1, "hours": spent, **state}, unfinished)
            unfinished.replace(file)
            print(f"step {step + 1} of {steps}, loss {loss:.3f}", flush=True)
    return hours + (time.process_time() - started) / 3600


def flow_of(args: argparse.Namespace, few: Images, seed: int) -> Path:
    """The checkpoint of a flow that is trained by the fixed point on the labelled images."""
    labels = len(few) // len(few.classes)
    out: Path = args.out / "flows" / f"{labels}-{seed}"
    if (out / "config.json").exists():
        return out
    recipe = recipe_config("rgb32")
    epochs = args.flow_epochs or max(FLOW_EPOCHS, FLOW_IMAGES // len(few))
    config = replace(
        recipe,
        epochs=epochs,
        seed=seed,
        checkpoint_minutes=2,
        dataset=replace(recipe.dataset, test_fraction=0.0),
        prior=replace(recipe.prior, kind="fpi", schedule="twice"),  # the default of that run
    )
    result = train(few, out, config=config, resume=True, progress=False)
    result.checkpoint.save(out, overwrite=True)
    hours = result.checkpoint.config.training["seconds"] / 3600
    print(f"flow of {len(few)} images, seed {seed}: {hours:.2f} hours", flush=True)
    return out


def size_of_noise(flow: Path) -> float:
    """The standard deviation of noise that moves latents as far as mixing does, on average.

    With w ~ U(0, 1) and the default strength s, mixing moves a coordinate along an axis of
    eigenvalue v by a mean square of s^2 E[w^2] 2 v = 2 s^2 v / 3. Noise has d coordinates.
    """
    pca = nfaug.load(flow).pca
    assert pca is not None
    moved = 2 * nfaug.MixConfig().strength ** 2 / 3 * pca.eigenvalues.sum(1).mean()
    return math.sqrt(float(moved) / pca.mean.shape[1])


def variants_of(
    method: str, flow: Path, few: Images, config: CompareConfig, seed: int
) -> Tensor | None:
    """The variants of the labelled images that a method has, the same for each network."""
    if method == FLOW:
        return bank_of(str(flow), few, config, seed)
    if method == PIXELS:
        return bank_of("builtin:pixels", few, config, seed)
    if method == NOISE:
        noise = size_of_noise(flow)
        return bank_of(str(flow), few, config, seed, strength=0.0, noise=noise)
    return None


def right_of(
    config: CompareConfig,
    method: str,
    bank: Tensor | None,
    few: Images,
    test: tuple[Tensor, Tensor],
    seed: int,
) -> Tensor:
    """Which test images a fine-tuned network gets right."""
    torch.manual_seed(seed)
    policy = "randaugment" if method == "RandAugment" else ""
    transform = transform_of(SAFE, policy, (SIDE, SIDE))
    mixup = v2.MixUp(num_classes=len(few.classes))
    images = decode(few, progress=False)
    labels = few.targets

    def draw(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch, targets = draw_batch(images, labels, bank, config.p, transform, rows)
        if method == "MixUp":
            return mixup(batch.float(), targets)  # type: ignore[no-any-return]
        return batch, targets

    classifier = Classifier(config, images.shape[1:], len(few.classes), seed)
    classifier.train(draw, len(labels))
    return classifier.right(*test)


def cells_of(args: argparse.Namespace, config: CompareConfig) -> Cells:
    """The cells of a network and a number of labels."""
    record = {
        "network": config.network,
        "labels": config.per_class,
        "steps": config.steps,
        "lr": config.learning_rate,
        "p": config.p,
        "variants": config.variants,
        "pretraining_epochs": args.pretraining_epochs,
        "flow_epochs": args.flow_epochs or "default",
    }
    folder = args.out / "cells" / f"{config.network}-{config.per_class}"
    return Cells(folder, record, 5 * args.test_images)


def measured_flows(folder: Path, test: Images) -> str:
    """A CSV table of the flows that were trained: figures on the test images, and seconds."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("labels", "seed", "nf_acc", "bits_per_dim", "seconds"))
    images = Decoded(decode(test, progress=False), test.targets)
    for flow in sorted(path for path in folder.iterdir() if (path / "config.json").exists()):
        checkpoint = nfaug.load(flow)
        assert checkpoint.gaussians is not None
        figures = evaluate(checkpoint.flow, checkpoint.gaussians, images)
        labels, seed = flow.name.split("-")
        shown = (f"{figures[name]:.4f}" for name in ("nf_acc", "bits_per_dim"))
        table.writerow((labels, seed, *shown, checkpoint.config.training["seconds"]))
    return text.getvalue()


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the 50,000 training images")
    parser.add_argument("--labels", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--test-images", type=int, default=1000, help="test images of each class")
    parser.add_argument("--steps", type=int, help="of fine-tuning (default: that of nfaug compare)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--pretraining-epochs", type=float, default=14)
    parser.add_argument("--flow-epochs", type=int, help="default: 400 for 250 images, 80 for 2,500")
    parser.add_argument("--only-networks", action="store_true", help="pretrain, and stop")
    parser.add_argument("--out", type=Path, default=Path("runs/backbones"))
    parser.add_argument("--results", type=Path, default=Path("lab/results/backbones"))
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    pretraining, pool, tested = opened(args)
    weights = {network: pretrained(args, network, pretraining) for network in args.networks}
    if args.only_networks:
        return
    test = decode(tested, progress=False), tested.targets
    found: dict[tuple[str, int], Cells] = {}
    configs: dict[tuple[str, int], CompareConfig] = {}
    for network in args.networks:
        for labels in args.labels:
            config = CompareConfig(
                network=network, weights=str(weights[network]), per_class=labels, device="cpu"
            )
            steps = args.steps or default_steps(config, labels * len(pool.classes))
            config = replace(config, steps=steps)
            configs[network, labels] = config
            found[network, labels] = cells_of(args, config)
    for seed in range(args.seeds):
        for labels in args.labels:
            few, _ = pool.split(per_class=labels, seed=seed)
            flow = flow_of(args, few, seed)
            for method in METHODS:
                missing = [
                    name for name in args.networks if (method, seed) not in found[name, labels]
                ]
                if not missing:
                    continue
                started = time.monotonic()
                bank = variants_of(method, flow, few, configs[missing[0], labels], seed)
                shared = (time.monotonic() - started) / len(missing)  # seconds
                for network in missing:
                    started = time.monotonic()
                    right = right_of(
                        configs[network, labels], method, bank, few, test, seed
                    ).numpy()
                    seconds = shared + time.monotonic() - started
                    found[network, labels].add(method, seed, right, seconds)
                    print(
                        f"{network}, {labels}, {method}, {seed}: {100 * right.mean():.1f}%",
                        flush=True,
                    )
            keep(args.results, found)
    measured = measured_flows(args.out / "flows", tested)
    write_text(args.results / "flows.csv", measured)
    for (network, labels), cells in found.items():
        title = f"{NETWORKS[network]}, {labels} labels a class"
        print("\n".join(gains_table(title, cells, METHODS, NOTHING, NOISE)), end="\n\n")


if __name__ == "__main__":
    main()
