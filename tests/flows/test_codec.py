from __future__ import annotations

import math

import pytest
import torch

from nfaug.flows import codec

LEVELS = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def test_levels_become_the_formula() -> None:
    v = codec.to_flow(LEVELS)
    assert v.dtype == torch.float32
    assert torch.equal(v.flatten(), (torch.arange(256) + 0.5) / 128 - 1)
    assert v.abs().max() < 1


@pytest.mark.parametrize("noise", [None, 0.01, 0.5, 0.99])
def test_every_level_comes_back(noise: float | None) -> None:
    assert torch.equal(codec.from_flow(codec.to_flow(LEVELS, noise)), LEVELS)


def test_half_a_level_of_error_is_forgiven() -> None:
    v = codec.to_flow(LEVELS)
    for error in (-0.0038, 0.0038):  # half a level is 0.0039
        assert torch.equal(codec.from_flow(v + error), LEVELS)


def test_unquantised_images_lie_in_the_unit_interval() -> None:
    images = codec.from_flow(codec.to_flow(LEVELS), quantize=False)
    assert torch.allclose(images, LEVELS / 255, atol=1e-6)
    assert codec.from_flow(torch.tensor([-3.0, 3.0]), quantize=False).tolist() == [0, 1]


def test_values_outside_are_clamped_and_nan_is_black() -> None:
    v = torch.tensor([-9.0, 9.0, torch.nan, torch.inf, -torch.inf])
    assert codec.from_flow(v).tolist() == [0, 255, 0, 255, 0]


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_floating_point_gray_levels(given: torch.dtype, result: torch.dtype) -> None:
    v = codec.to_flow(torch.tensor([0.0, 7.0, 255.0], dtype=given))
    assert v.dtype == result
    assert codec.from_flow(v).tolist() == [0, 7, 255]


def test_noise_tensor_is_added_per_value() -> None:
    noise = torch.rand(LEVELS.shape, generator=torch.Generator().manual_seed(0))
    v = codec.to_flow(LEVELS, noise)
    assert torch.allclose((v + 1) * 128, LEVELS + noise, atol=1e-4)


def test_bits_per_dim_of_a_uniform_density_are_eight() -> None:
    """Uniform over [-1, 1)^d has density 2^-d; those of padding are shared among the image."""
    whole = codec.PixelCodec(3, (2, 2), (2, 2))
    assert whole.bits_per_dim(torch.tensor([12 * math.log(2)])).item() == pytest.approx(8)
    padded = codec.PixelCodec(1, (3, 4), (4, 4))
    bits = padded.bits_per_dim(torch.tensor([16 * math.log(2)])).item()
    assert bits == pytest.approx(8 * 16 / 12)


@pytest.mark.parametrize("size", [(28, 28), (31, 29), (32, 32), (1, 32)])
def test_padding_is_undone(size: tuple[int, int]) -> None:
    images = torch.randint(1, 256, (2, 3, *size), dtype=torch.uint8)
    padded = codec.pad(images, (32, 32))
    assert padded.shape == (2, 3, 32, 32)
    assert padded.long().sum() == images.long().sum()  # the margin is black
    assert torch.equal(codec.crop(padded, size), images)
