"""Breaks on a machine with a GPU, which is pretended here (`tools.device`)."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tools.device import pretended_gpu, waiting_is_an_error
from tools.nfa import NAMES, TensorImages, batch_of, checkpoint, tiny_flow
from torch import Tensor

import nfaug
from nfaug.compare import CompareConfig
from nfaug.compare.work import bank_of


def test_a_mix_of_devices_is_refused() -> None:
    """Breaks 73 to 76: the GPU that is pretended, like a real one, allows no such call."""
    with pretended_gpu() as gpu:
        there = torch.ones(3).to(gpu)
        made = torch.zeros(3, device="cuda")
        with pytest.raises(RuntimeError, match="one device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="one device"):
            torch.cat([made, torch.ones(1)])
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, device=gpu, generator=torch.Generator("cpu"))
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=torch.Generator(gpu))
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        drawn = torch.rand(3, device=gpu, generator=torch.Generator(gpu))
        assert drawn.device == gpu
        allowed = there[torch.tensor([0])] + made[:1] + torch.tensor(1.0)
        assert allowed.device == gpu
        assert type(allowed.cpu()) is Tensor
        here = torch.zeros(3)
        here[:2] = there[:2]
        assert here.tolist() == [1, 1, 0]
        with pytest.raises(RuntimeError, match="one device"):
            here[torch.tensor([0, 1])] = there[:2]


@pytest.mark.parametrize("mix", ["axis", "regions"])
@pytest.mark.parametrize("partners", ["batch", "memory"])
@pytest.mark.parametrize("floating", [False, True])
def test_a_call_with_labels_on_the_cpu(mix: Any, partners: Any, floating: bool) -> None:
    """Break 73: images on the GPU, and labels on the CPU, where some loops leave them."""
    images, labels = batch_of(12)
    if floating:
        images = images / 255
    nfa = nfaug.NFAugment(
        checkpoint(), p=[0.2, 0.5, 1.0], mix=mix, partners=partners, noise=0.1, mean=0.0, std=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    draws = nfa.draw(labels)
    expected, _ = nfa.replay(images, labels, draws)
    with pretended_gpu() as gpu:
        for given in (labels, labels.to(gpu)):
            new, same = nfa.replay(images.to(gpu), given, draws)
            assert new.device == gpu
            assert same is given
            assert nfa(images.to(gpu), given)[0].device == gpu, "with draws of its own"
        found = new.cpu()
    assert nfa.stats()["seen"] == 5 * 12
    assert torch.allclose(found.float(), expected.float(), atol=1e-4)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_variants_with_labels_on_the_cpu(on_gpu: bool) -> None:
    """Break 73: images on the GPU and labels on the CPU were an error in `variants`."""
    images, labels = batch_of(12)
    nfa = nfaug.NFAugment(checkpoint(), p=1.0)
    expected = next(nfa.variants(images, labels, [torch.Generator().manual_seed(0)]))
    with pretended_gpu() as gpu:
        given = labels.to(gpu) if on_gpu else labels
        made = nfa.variants(images.to(gpu), given, [torch.Generator().manual_seed(0)])
        found = next(made)
        assert found.device == gpu
        assert torch.equal(found.cpu(), expected)


def test_variants_of_a_comparison() -> None:
    """Break 73: `nfaug compare` failed on every machine with a GPU."""
    data = TensorImages(*batch_of(12), NAMES)
    expected = bank_of("builtin:pixels", data, CompareConfig(variants=2, device="cpu"), seed=0)
    with pretended_gpu():
        found = bank_of("builtin:pixels", data, CompareConfig(variants=2, device="cuda"), seed=0)
    assert found.shape == (12, 2, 3, 8, 8)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_a_fit_with_the_flow_on_the_gpu() -> None:
    """Break 74: gaussians and axes were returned on the CPU, where the flow was not."""
    images, labels = batch_of(24)
    data = TensorImages(images, labels, NAMES)
    expected = nfaug.fit(tiny_flow(), data, rank=2, gaussians=True, progress=False)
    with pretended_gpu() as gpu:
        flow = copy.deepcopy(tiny_flow()).to(gpu)
        fitted = nfaug.fit(flow, data, rank=2, gaussians=True, progress=False)
        assert fitted.flow is flow
        for part in (fitted.flow, fitted.gaussians, fitted.pca):
            assert part is not None
            assert {tensor.device for tensor in part.state_dict().values()} == {gpu}
        assert fitted.sample(2, "cat").device == gpu
        assert nfaug.NFAugment(fitted)(images.to(gpu), labels)[0].device == gpu
        found = fitted.to("cpu").gaussians
    assert found is not None
    assert expected.gaussians is not None
    assert torch.allclose(found.means, expected.gaussians.means, atol=1e-5)


def test_a_gpu_named_without_its_number() -> None:
    """Break 75: "cuda" and "cuda:0" were two devices, with a copy of the flow for each."""
    engine = nfaug.NFAugment(checkpoint()).engine
    with pretended_gpu():
        flow, pca = engine.on(torch.device("cuda"))
        same_flow, same_pca = engine.on(torch.device("cuda:0"))
    assert same_flow is flow
    assert same_pca is pca


def test_the_first_use_of_the_mode_that_finds_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break 76: torch warns that the mode is a prototype, and an error left the mode on."""
    modes = ["default"]

    def set_mode(mode: str) -> None:
        modes.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with waiting_is_an_error():
        assert modes[-1] == "error"
    assert modes[-1] == "default"
