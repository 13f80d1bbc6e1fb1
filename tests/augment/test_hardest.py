"""The variant with the largest loss under the classifier."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nfaug


class Brightness(nn.Module):
    """Logit of class 0: the mean of the image; of class 1: 0."""

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        value = x.mean((1, 2, 3))
        return torch.stack([value, torch.zeros_like(value)], 1)


def images() -> Tensor:
    values = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.3, 0.3, 0.3]])
    return values[:, :, None, None, None].expand(-1, -1, 3, 2, 2).clone()


def test_the_largest_loss_is_taken() -> None:
    found = nfaug.hardest(Brightness(), images(), torch.tensor([0, 1, 0]))
    assert torch.equal(found, images()[torch.arange(3), torch.tensor([0, 1, 0])])
    soft = F.one_hot(torch.tensor([0, 1, 0]), 2).float()
    assert torch.equal(nfaug.hardest(Brightness(), images(), soft), found)


def test_the_model_does_not_change() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 2)
    ).train()
    model[1].eval()  # frozen by its user
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = torch.tensor([0, 1, 0])
    found = nfaug.hardest(model, images(), labels)
    assert torch.equal(nfaug.hardest(model, images(), labels), found), "no dropout"
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not found.requires_grad


def test_modes_return_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(99, 2)).train()
    with pytest.raises(RuntimeError, match="shapes"):
        nfaug.hardest(model, images(), torch.zeros(3, dtype=torch.long))
    assert model.training


@pytest.mark.parametrize("shape", [(3, 3, 2, 2), (2, 3, 3, 2, 2)])
def test_shapes_are_checked(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="m, C"):
        nfaug.hardest(Brightness(), torch.zeros(shape), torch.zeros(3, dtype=torch.long))


def test_labels_of_every_integer_type() -> None:
    images, labels = torch.rand(6, 3, 3, 8, 8), torch.arange(6) % 3
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    found = nfaug.hardest(model, images, labels)
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(nfaug.hardest(model, images, labels.to(dtype)), found)
