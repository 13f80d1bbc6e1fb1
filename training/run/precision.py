"""A warning about bfloat16 on CPUs that do not know the type."""

from __future__ import annotations

import warnings

import torch

__all__ = ["has_fast_bf16", "warn_about_bf16"]


def has_fast_bf16() -> bool:
    """Whether convolutions in bfloat16 are fast on this CPU: oneDNN has them.

    Elsewhere, PyTorch falls back to a convolution that takes many times as long as float32's.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # torch has no public name for it


def warn_about_bf16() -> None:
    """Warn if training in bfloat16 is slower than in float32 on this CPU."""
    if not has_fast_bf16():
        warnings.warn(
            "this CPU has no fast convolutions in bfloat16, so training with optim.bf16 takes "
            "several times as long as in float32 (six times where it was measured): set "
            "optim.bf16 to false",
            RuntimeWarning,
            stacklevel=3,
        )
