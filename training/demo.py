"""The demo on scikit-learn's handwritten digits: train, fit, draw, compare classifiers, report."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..augment.preview import preview_grid
from ..augment.transform import NFAugment
from ..data.images import LabelledImages, split_per_class, to_tensors
from ..data.open import open_dataset
from ..gaussians.fixed_point.solver import FixedPointConfig
from ..io.atomic import write_text
from .config import DataConfig, OptimConfig, PCAConfig, PriorConfig, TrainConfig
from .evaluation.classifier import accuracy, resnet18, train_classifier
from .run.pictures import figure_image, run_figures
from .trainer import train

__all__ = ["DemoSettings", "run_demo"]


@dataclass(frozen=True)
class DemoSettings:
    """The size of the demo.

    Attributes:
        labels_per_class: Training-set sizes to compare.
        seeds: Repetitions, each with its own images, flow and classifiers.
        flow_steps: Optimiser steps per flow.
        classifier_steps: Optimiser steps per classifier.
        image_size: Height and width of the classifier's input.
        probability: Share of each batch that NFA replaces.
    """

    labels_per_class: tuple[int, ...] = (10, 50)
    seeds: int = 3
    flow_steps: int = 120
    classifier_steps: int = 50
    image_size: int = 8
    probability: float = 0.5

    @classmethod
    def quick(cls) -> DemoSettings:
        """A run of under a minute, too small for its table to mean anything."""
        return cls(labels_per_class=(10,), seeds=2, flow_steps=30, classifier_steps=8)


def run_demo(
    out: Path, settings: DemoSettings | None = None, *, progress: bool = True
) -> dict[str, Any]:
    """Write a trained checkpoint, pictures and `report.md` into `out`; return the figures."""
    settings = settings or DemoSettings()
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    digits = open_dataset("digits", split="train")
    test_images, test_labels = to_tensors(open_dataset("digits", split="test"), progress=False)

    whole = train(digits, _flow_config(settings, len(digits), seed=0), progress=progress)
    whole.checkpoint.save(out / "flow", overwrite=True)
    preview_grid(whole.checkpoint, digits).save(out / "grid.png")
    for name, figure in run_figures(whole, digits, weights=(1.0, 70.0)).items():
        figure_image(figure).save(out / f"{name}.png")

    accuracies = {}
    for number in settings.labels_per_class:
        scores = []
        for seed in range(settings.seeds):
            chosen, _ = split_per_class(digits, number, seed)
            scores.append(_compare(chosen, test_images, test_labels, settings, seed, progress))
        accuracies[str(number)] = _summary(scores)
    result = {
        "out": str(out),
        "seconds": round(time.monotonic() - started, 1),
        "flow": dict(whole.checkpoint.config.metrics),
        "accuracy": accuracies,
    }
    write_text(out / "report.md", _report(result, settings, len(digits), len(test_labels)))
    return result


def _flow_config(settings: DemoSettings, images: int, *, seed: int) -> TrainConfig:
    batch = min(64, images)
    return TrainConfig(
        epochs=max(1, settings.flow_steps * batch // images),
        batch_size=batch,
        seed=seed,
        eval_every=10**6,
        dataset=DataConfig(val_fraction=0.05 if images > 1000 else 0.0),
        optim=OptimConfig(warmup_steps=20),
        prior=PriorConfig(fixed_point=FixedPointConfig(kld_weight=70.0)),
        pca=PCAConfig(rank=min(32, images // 10 - 1)),
    )


def _compare(
    chosen: LabelledImages,
    test_images: Tensor,
    test_labels: Tensor,
    settings: DemoSettings,
    seed: int,
    progress: bool,
) -> dict[str, float]:
    """Accuracy without and with NFA, and the gain; the flow sees only the chosen images."""
    images, labels = to_tensors(chosen, progress=False)
    flow = train(chosen, _flow_config(settings, len(chosen), seed=seed), progress=progress)
    nfa = NFAugment(
        flow.checkpoint,
        p=settings.probability,
        generator=torch.Generator().manual_seed(seed),
    )
    scores = {}
    for arm, augment in {"none": None, "nfa": nfa}.items():
        model = resnet18(images.shape[1], len(chosen.classes), seed=seed)
        train_classifier(
            model,
            images,
            labels,
            steps=settings.classifier_steps,
            augment=augment,
            size=settings.image_size,
            seed=seed,
            progress=f"resnet18, {len(images)} images, {arm}" if progress else None,
        )
        scores[arm] = 100 * accuracy(model, test_images, test_labels, size=settings.image_size)
    return scores | {"gain": scores["nfa"] - scores["none"]}


def _summary(scores: list[dict[str, float]]) -> dict[str, float]:
    summary: dict[str, float] = {}
    for arm in ("none", "nfa", "gain"):
        values = [score[arm] for score in scores]
        summary[f"{arm}_mean"] = statistics.fmean(values)
        summary[f"{arm}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return summary


def _report(result: dict[str, Any], settings: DemoSettings, train_size: int, tests: int) -> str:
    table = "\n".join(
        f"| {number} | {s['none_mean']:.1f} ± {s['none_std']:.1f} "
        f"| {s['nfa_mean']:.1f} ± {s['nfa_std']:.1f} "
        f"| {s['gain_mean']:+.1f} ± {s['gain_std']:.1f} |"
        for number, s in result["accuracy"].items()
    )
    return f"""# NFA on handwritten digits

scikit-learn's digits: {train_size} training and {tests} test images, 8 x 8, 10 classes. \
Took {result["seconds"]:.0f} s.

## Does it help here?

Test accuracy of timm's ResNet-18 in per cent (random weights, {settings.classifier_steps} steps), \
mean and standard deviation over {settings.seeds} seeds. Each row's flow, gaussians, axes and \
memory use only that row's labelled images. Both arms start from the same weights and see the \
same batches; the test images are used once per arm and seed. \
The demo does not compare with other augmentations.

| labels per class | without | with NFA (p = {settings.probability}) | difference |
|---|---|---|---|
{table}

## What the flow does

A flow trained on all {train_size} training images: originals, their reconstructions, and variants \
mixed with other images of the same class.

![originals, reconstructions and variants](grid.png)

Bits per dimension during training:

![loss](loss.png)

Its latents before training, and samples of the class gaussians: estimated from the data, and \
after the fixed point with a small and a large weight (t-SNE, as in the paper's Figure 1):

![latents and gaussians](latents.png)

Pairwise divergence of the gaussians:

![pairwise KL](kl.png)

Convergence of the fixed point:

![residual against iteration](convergence.png)

The checkpoint is in `flow/`: try `nfaug info flow`.
"""
