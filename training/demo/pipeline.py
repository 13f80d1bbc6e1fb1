"""The demo's steps: train a flow of digits, fit, draw, compare classifiers, report."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfaug.augment.preview import preview_grid
from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.data.images import LabelledImages, split_per_class, to_tensors
from nfaug.data.open import open_dataset
from nfaug.fitting import fit
from nfaug.io.atomic import write_text

from ..config import DataConfig, OptimConfig, PCAConfig, PriorConfig, TrainConfig
from ..pictures import figure_image, run_figures
from ..trainer import train
from .comparison import ARMS, compare
from .photographs import photographs
from .report import gains, gains_figure, report

__all__ = ["DemoSettings", "run_demo"]

_PHOTOGRAPH = 96  # side of the colour images, in pixels


@dataclass(frozen=True)
class DemoSettings:
    """The size of the demo.

    Attributes:
        labels_per_class: Numbers of labelled images to compare.
        seeds: Repetitions, each with its own labelled images and classifiers.
        flow_steps: Optimiser steps of the flow.
        classifier_steps: Optimiser steps of a classifier.
        variants: Variants of each labelled image.
        probability: Share of each batch that NFA replaces.
    """

    labels_per_class: tuple[int, ...] = (5, 20)
    seeds: int = 10
    flow_steps: int = 120
    classifier_steps: int = 300
    variants: int = 20
    probability: float = 0.5

    @classmethod
    def quick(cls) -> DemoSettings:
        """A run of under a minute, too small for its table to mean anything."""
        return cls(labels_per_class=(5,), seeds=2, flow_steps=30, classifier_steps=30, variants=4)


def run_demo(
    out: Path, settings: DemoSettings | None = None, *, progress: bool = True
) -> dict[str, Any]:
    """Write a trained checkpoint, pictures and `report.md` into `out`; return the figures."""
    settings = settings or DemoSettings()
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    fitted = fit("builtin:rgb32", photographs(32), rank=32, progress=False)
    colour = preview_grid(fitted, photographs(_PHOTOGRAPH), cell=_PHOTOGRAPH)
    colour.save(out / "colour.png")

    digits = open_dataset("digits", split="train")
    test = to_tensors(open_dataset("digits", split="test"), progress=False)
    trained = train(digits, _flow_config(settings, len(digits)), progress=progress)
    flow = fit(trained.checkpoint, digits, rank=32, progress=False)
    flow.save(out / "flow", overwrite=True)
    preview_grid(flow, digits).save(out / "grid.png")
    for name, figure in run_figures(trained, digits).items():
        figure_image(figure).save(out / f"{name}.png")

    scores = {}
    for number in settings.labels_per_class:
        scores[number] = [
            _compare(flow, digits, test, settings, number, seed, progress)
            for seed in range(settings.seeds)
        ]
    figure_image(gains_figure(scores)).save(out / "gains.png")
    result = {
        "out": str(out),
        "seconds": round(time.monotonic() - started, 1),
        "flow": dict(trained.checkpoint.config.metrics),
        "accuracy": {
            str(number): {arm: sum(s[arm] for s in found) / len(found) for arm in ARMS}
            for number, found in scores.items()
        },
        "gain": {
            str(number): {arm: asdict(gain) for arm, gain in gains(found).items()}
            for number, found in scores.items()
        },
    }
    text = report(
        result,
        scores,
        train_size=len(digits),
        test_size=len(test[1]),
        p=settings.probability,
        steps=settings.classifier_steps,
    )
    write_text(out / "report.md", text)
    return result


def _flow_config(settings: DemoSettings, images: int) -> TrainConfig:
    """A flow of unlabelled images: a single gaussian for all."""
    return TrainConfig(
        epochs=max(1, settings.flow_steps * 64 // images),
        batch_size=64,
        seed=0,
        eval_every=10**6,
        dataset=DataConfig(val_fraction=0.0),
        optim=OptimConfig(warmup_steps=20),
        prior=PriorConfig(kind="single"),
        pca=PCAConfig(memory=False),
    )


def _compare(
    flow: Checkpoint,
    digits: LabelledImages,
    test: tuple[Any, Any],
    settings: DemoSettings,
    number: int,
    seed: int,
    progress: bool,
) -> dict[str, float]:
    few, _ = split_per_class(digits, number, seed)
    return compare(
        {"flow": flow, "pixels": "builtin:pixels"},
        few,
        test,
        steps=settings.classifier_steps,
        p=settings.probability,
        variants=settings.variants,
        seed=seed,
        progress=f"{number} labels per class, seed {seed}" if progress else None,
    )
