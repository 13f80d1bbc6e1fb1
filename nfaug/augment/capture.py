"""CUDA graphs of NFAugment: the kernels of a batch, recorded once for each shape and replayed.

A small flow launches thousands of short kernels for a batch, and the host is then slower than the
GPU. A replayed graph costs one launch. The number of augmented images is padded to a multiple of 8,
so that batches of nearly equal size share a graph.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .engine import Engine
from .params import NFAParams
from .pixels import Normalization
from .settings import MixSettings

__all__ = ["CapturedEngine", "padded"]

_MULTIPLE = 8
_MOST = 16  # graphs, each of which holds the memory of a batch
_WARM_UP = 3  # runs before a capture, in which libraries choose their kernels
_ROWS = ("index", "chosen", "partner", "fallback", "from_memory", "paired", "weights", "noise")

Result = tuple[Tensor, dict[str, Tensor]]


class Inputs(NamedTuple):
    """The tensors that a batch gives to the engine; every one has a row for each image."""

    images: Tensor
    labels: Tensor
    usable: Tensor
    draws: tuple[Tensor, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self[:3], *self.draws)


class Recorded(NamedTuple):
    """A graph with the tensors that it reads and writes."""

    graph: Any
    inputs: Inputs
    result: Result
    normalization: Normalization  # its tensors of mean and std


def padded(inputs: Inputs, multiple: int = _MULTIPLE) -> Inputs:
    """The inputs with rows added up to a multiple; added images are neither chosen nor usable."""
    count = len(inputs.labels)
    more = -count % multiple
    if not more:
        return inputs
    grown = [torch.cat([x, x[:1].expand(more, *x.shape[1:])]) for x in inputs.tensors()]
    images, labels, usable, *draws = grown
    usable[count:] = False
    draws[_ROWS.index("chosen")][count:] = False
    return Inputs(images, labels, usable, tuple(draws))


class CapturedEngine:
    """`Engine.encode` and `Engine.mix` in one call, as a CUDA graph where that is possible.

    A shape is captured when it comes for the second time, once for each `gate` and `keep`. Other
    devices, more than 16 graphs, and GPUs or settings that cannot be captured (with a warning) run
    as without graphs.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._graphs: dict[Hashable, Recorded | None] = {}
        self._failed = False

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        usable: Tensor,
        params: NFAParams,
        normalization: Normalization,
        settings: MixSettings,
    ) -> Result:
        """New images and outcomes of the images `params.index`; see `Engine.mix`."""

        def compute(inputs: Inputs, needed: Tensor | None = None) -> Result:
            rows: dict[str, Any] = dict(zip(_ROWS, inputs.draws, strict=True))
            draws = dataclasses.replace(params, **rows)
            encoded = self.engine.encode(
                inputs.images, inputs.labels, normalization, settings, needed
            )
            return self.engine.mix(encoded, inputs.usable, draws, normalization, settings)

        inputs = Inputs(images, labels, usable, tuple(getattr(params, name) for name in _ROWS))
        if not self._captures(images):
            return compute(inputs, params.needed())
        count, inputs = len(images), padded(inputs)
        # Of the settings, `encode` and `mix` read these alone: a schedule of p or strength would
        # otherwise need new graphs at each step.
        key = (
            images.device, settings.gate, settings.keep, normalization.mean, normalization.std,
            params.memory,
            *((x.shape, x.dtype, x.stride()) for x in inputs.tensors()),
        )  # fmt: skip
        if key not in self._graphs:
            if len(self._graphs) < _MOST:
                self._graphs[key] = None  # to be captured at the next call
            new, found = compute(inputs)
        else:
            recorded = self._graphs[key] or self._record(key, compute, inputs, normalization)
            if recorded is None:
                new, found = compute(inputs)
            else:
                for held, given in zip(recorded.inputs.tensors(), inputs.tensors(), strict=True):
                    held.copy_(given)
                recorded.graph.replay()
                new, found = recorded.result
        return new[:count], {name: mask[:count] for name, mask in found.items()}

    def _captures(self, images: Tensor) -> bool:
        cuda = images.device.type == "cuda" and not self._failed
        return cuda and not torch.cuda.is_current_stream_capturing()

    # Outside inference mode: a graph that is recorded there could be replayed nowhere else.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _record(
        self,
        key: Hashable,
        compute: Callable[[Inputs], Result],
        inputs: Inputs,
        normalization: Normalization,
    ) -> Recorded | None:
        device = inputs.images.device
        try:
            images, labels, usable, *draws = (x.clone() for x in inputs.tensors())
            held = Inputs(images, labels, usable, tuple(draws))
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    compute(held)
            torch.cuda.current_stream(device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # By default, calls of other threads end a capture, such as those of a data loader that
            # pins its memory.
            recording = torch.cuda.graph(graph, capture_error_mode="thread_local")
            with torch.cuda.device(device), recording:
                result = compute(held)
        except RuntimeError as error:
            self._failed = True
            self._graphs.clear()
            warnings.warn(f"NFAugment runs without CUDA graphs: {error}", stacklevel=2)
            return None
        self._graphs[key] = Recorded(graph, held, result, normalization)
        return self._graphs[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"engine": self.engine, "_graphs": {}, "_failed": False}
