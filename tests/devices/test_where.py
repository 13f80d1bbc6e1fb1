"""Where work is done when there is a GPU, which is pretended here."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tools.device import pretended_gpu
from tools.nfa import NAMES, TensorImages, batch_of, images_of, tiny_flow

import nfaug
from nfaug.augment import engine
from nfaug.compare import CompareConfig, compare, work
from nfaug.compare.classifier import Classifier
from nfaug.integrations.torchvision import NFACollate

COMPARE = CompareConfig(per_class=4, seeds=3, steps=2, variants=2, methods="none,nfa", device="cpu")


def data(count: int = 24) -> TensorImages:
    labels = torch.arange(count) % 3
    return TensorImages(images_of(labels), labels, NAMES)


def test_a_comparison_fits_where_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = work.fit
    fitted_on = []

    def noted(base: Any, *arguments: Any, **options: Any) -> Any:
        fitted_on.append(base.flow.device.type)
        return fit(base, *arguments, **options)

    monkeypatch.setattr(work, "fit", noted)
    here = work.bank_of("builtin:pixels", data(), COMPARE, seed=0)
    with pretended_gpu() as gpu:
        config = dataclasses.replace(COMPARE, device=str(gpu))
        there = work.bank_of("builtin:pixels", data(), config, seed=0)
    assert fitted_on == ["cpu", "cuda"]
    assert (here.int() - there.int()).abs().max() <= 1


def test_a_comparison_does_not_go_on_with_another_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Classifier.train
    left = itertools.count(3, -1)

    def stopped(*arguments: Any) -> None:
        if next(left) == 0:
            raise KeyboardInterrupt
        train(*arguments)

    images = data(72)
    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            compare(images, tmp_path, config=COMPARE, progress=False)
    with pretended_gpu() as gpu:
        config = dataclasses.replace(COMPARE, device=str(gpu))
        with pytest.raises(ValueError, match="device was 'cpu' and is 'cuda'"):
            compare(images, tmp_path, config=config, progress=False)
    assert compare(images, tmp_path, config=COMPARE, progress=False).seeds == [0, 1, 2]


def test_a_loader_worker_does_not_reach_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a forked process, torch cannot read what is on a GPU."""

    def refuse(*_: Any) -> Any:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

    samples = [(image, int(label)) for image, label in zip(*batch_of(12), strict=True)]
    fitted = nfaug.fit(copy.deepcopy(tiny_flow()), data(), rank=2, progress=False)
    with pretended_gpu() as gpu:
        placed = fitted.to(gpu)
        nfa = nfaug.NFAugment(placed, p=1.0)
        collate = NFACollate(nfa)
        late = nfaug.NFAugment(placed, p=1.0)
    monkeypatch.setattr(engine, "_on_device", refuse)  # from here on as in the worker
    new, _ = collate(samples)
    assert new.device.type == "cpu"
    assert nfa.stats()["applied"] > 0
    with pytest.raises(RuntimeError, match="forked"):
        late(torch.stack([image for image, _ in samples]), [label for _, label in samples])
