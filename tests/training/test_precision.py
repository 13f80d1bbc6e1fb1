"""The warning about bfloat16 on CPUs that do not know the type."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

import nfaug.training.run.precision as precision
from nfaug.data.images import TensorImages
from nfaug.training import TrainConfig, train
from nfaug.training.config import OptimConfig


@pytest.mark.parametrize(("bf16", "known"), [(True, False), (True, True), (False, False)])
def test_a_training_warns_where_bfloat16_is_slow(
    bf16: bool,
    known: bool,
    tiny_images: TensorImages,
    tiny_config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: known)
    config = replace(tiny_config, epochs=1, optim=OptimConfig(warmup_steps=2, bf16=bf16))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train(tiny_images, config, progress=False)
    about = [each for each in found if "bfloat16" in str(each.message)]
    assert len(about) == (bf16 and not known)
    assert all("optim.bf16 to false" in str(each.message) for each in about)


def test_a_torch_without_onednn_has_no_fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.has_fast_bf16()
