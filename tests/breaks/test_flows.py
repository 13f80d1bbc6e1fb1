"""Flows and autoencoders: exactness, derivatives, and files of strangers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from tools.autoencoder import Evil, make_autoencoder, tiny_weights
from tools.checkpoint import bounded
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

import nfaug
from nfaug.checkpoint.autoencoder import find_autoencoder, open_autoencoder
from nfaug.flows.autoencoder import AutoencoderConfig
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.matrix_exp import expm_action, phi_action
from nfaug.flows.mef_config import MefConfig

SIDE = 28  # of the images of the gray flows
WEIGHTS = "diffusion_pytorch_model.safetensors"


def photographs() -> Tensor:
    """Gray parts of a photograph, reduced as CIFAR's images are."""
    photo = torch.from_numpy(load_sample_image("china.jpg").astype(np.float32)).mean(2)
    small = torch.nn.functional.avg_pool2d(photo[None, None], 4)[0, 0]
    parts = small.unfold(0, SIDE, SIDE).unfold(1, SIDE, SIDE)
    return parts.reshape(-1, 1, SIDE, SIDE)


def noise() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (16, 1, SIDE, SIDE), generator=generator)


def extremes() -> Tensor:
    """Black, white, a chessboard, stripes, and one white pixel."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    kinds = [
        torch.zeros_like(x),
        torch.ones_like(x),
        (x + y) % 2,
        x % 2,
        y % 2,
        (x == 9) & (y == 9),
    ]
    return torch.stack([255 * kind for kind in kinds])[:, None]


@pytest.mark.parametrize("name", ["builtin:fashion-mnist", "builtin:gray28"])
@pytest.mark.parametrize("make", [photographs, noise, extremes])
def test_images_unlike_those_of_the_flow_come_back(make: Any, name: str) -> None:
    """Break 1: a flow of Fashion-MNIST changed levels of photographs, noise and extremes."""
    images = make().to(torch.uint8)
    flow = nfaug.load(name).flow
    with torch.no_grad():
        for form in (flow, flow.freeze()):
            assert torch.equal(form.decode(form.encode(images)[0]), images)


@pytest.mark.parametrize("kind", ["", "AutoencoderTiny"])
def test_an_index_of_weights_is_not_followed(kind: str, tmp_path: Path) -> None:
    """Break 25: an index beside an autoencoder named a pickle, which was loaded."""
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    index = {"metadata": {}, "weight_map": {"encoder.0.weight": "diffusion_pytorch_model.bin"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    if kind:
        (folder / "config.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(FileNotFoundError, match="has 0"):
        open_autoencoder(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("AutoencoderTiny", "num_encoder_blocks"),
        ("AutoencoderKL", "layers_per_block"),
        ("AutoencoderDC", "encoder_layers_per_block"),
    ],
)
def test_an_autoencoder_of_endless_layers_is_not_built(
    kind: str, name: str, tmp_path: Path
) -> None:
    """Break 46: 10**12 layers in the settings of an autoencoder were built one by one."""
    folder = make_autoencoder(tmp_path / "vae")
    settings = json.loads((folder / "config.json").read_text())
    settings["_class_name"] = kind
    settings[name] = [10**12] * 4
    (folder / "config.json").write_text(json.dumps(settings))
    with bounded(name):
        if kind == "AutoencoderTiny":  # whose layers follow from its weights
            assert open_autoencoder(folder).factor == 8
        else:
            with pytest.raises(ValueError, match=kind):
                open_autoencoder(folder)


def test_another_autoencoder_is_refused_before_it_is_built(tmp_path: Path) -> None:
    """Break 46: a model was built of settings and weights before their hash was compared."""
    record = AutoencoderConfig(
        "directory", "vae", "0" * 64, 3, (64, 64), (0.0,) * 4, (1.0,) * 4, 1 / 64
    )
    folder = tmp_path / "vae"
    folder.mkdir()
    weights = tiny_weights()
    weights.popitem()  # so that building it would fail
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(ValueError, match="SHA-256"):
        find_autoencoder(record, near=tmp_path)


@pytest.mark.parametrize("action", [expm_action, phi_action])
def test_second_derivatives_of_a_series(action: Any) -> None:
    """Break 49: the backward pass took its intermediate sums for constants."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 2, 2, 1, 1), (1, 2, 1, 1))
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    assert gradgradcheck(lambda m, x: action(m, x, 8), [part.requires_grad_() for part in inputs])


@pytest.mark.parametrize("recompute", ["none", "steps"])
@pytest.mark.parametrize(("low_rank_above", "heads"), [(24, 0), (2, 0), (24, 2)])
@sdpa_kernel(SDPBackend.MATH)  # torch's other kernels of attention have no second derivatives
def test_second_derivatives_of_a_flow(low_rank_above: int, heads: int, recompute: Any) -> None:
    """Break 49: a Hessian-vector product was wrong by its own size, without an error."""
    torch.manual_seed(0)
    mef = MefConfig(
        steps=(1, 1),
        blocks=(1, 1),
        width=(8, 8),
        low_rank_above=low_rank_above,
        rank=1,
        attention_heads=heads,
    )
    flow = Flow(FlowConfig(1, (4, 4), mef)).double()
    flow.configure_training(recompute=recompute)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    direction = torch.randn_like(x)

    def gradient(at: Tensor, *, differentiable: bool) -> Tensor:
        z, logdet = flow(at)
        nll = z.square().sum() / 2 - logdet.sum()
        return torch.autograd.grad(nll, at, create_graph=differentiable)[0]

    point = x.clone().requires_grad_()
    product = (gradient(point, differentiable=True) * direction).sum()
    found = torch.autograd.grad(product, point)[0]
    step = 1e-5
    ahead, behind = (
        gradient((x + sign * step * direction).requires_grad_(), differentiable=False)
        for sign in (1, -1)
    )
    torch.testing.assert_close(found, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)
