"""How many kernels does a GPU launch, and how often does it wait? Counted on a CPU, by path.

    git worktree add --detach ../base 059f3f7
    python benchmarks/gpu/launches.py ../base

A call of `NFAugment` and a training step run on a GPU that is pretended on the CPU
(`tests/tools/device.py`), so that the code takes a GPU's path. A launch is an operation that
computes; a convolution with bias counts as two, views and empty tensors as none. An upload is a
copy from the CPU; one that is not `non_blocking` waits, as does whatever reads a value back. None
of these depends on the batch. With another checkout its counts stand beside these. In a training
step the clipping and the optimizer count tensor by tensor, and one wait, where a GPU has groups.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from tools.device import Pretended, pretended_gpu

_EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_METADATA = _EMPTY | {"_unsafe_view", "resize_", "set_", "is_same_size", "scalar_tensor"}
_READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal"}
_MAKERS = (torch.tensor, torch.as_tensor)


class Launches(TorchFunctionMode):
    """A context inside of `pretended_gpu` that counts what the GPU is given to do.

    Attributes:
        operations: Launches by the name of the operation.
        uploads: Copies to the GPU.
        waits: Copies and reads for which the host waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: collections.Counter[str] = collections.Counter()
        self.uploads = 0
        self.waits = 0
        self._on_gpu = False  # whether the call that is running computes there
        self._dispatched = _Dispatched(self)

    @property
    def counts(self) -> dict[str, int]:
        launches = sum(self.operations.values())
        return {"launches": launches, "uploads": self.uploads, "waits": self.waits}

    def __enter__(self) -> Launches:
        self._dispatched.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._dispatched.__exit__(*exception)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        was_there = any(isinstance(each, Pretended) for each in _leaves([args, options]))
        goal = options.get("device")
        makes = goal is not None and torch.device(goal).type == "cuda"
        moves = func in (Tensor.to, Tensor.cuda, *_MAKERS) and not was_there
        self._on_gpu = (was_there and func is not Tensor.cpu) or (makes and not moves)
        try:
            result = func(*args, **options)
        finally:
            self._on_gpu = False
        is_there = isinstance(result, Pretended)
        if moves and is_there:
            self.uploads += 1
            self.waits += not options.get("non_blocking", False)
        left = func in (Tensor.to, Tensor.cpu) and not is_there
        if was_there and (left or func is Tensor.tolist):
            self.waits += 1
        return result

    def note(self, operation: Any, inputs: Any) -> None:
        """Count an operation that is dispatched."""
        name = operation._schema.name.removeprefix("aten::")
        if not self._on_gpu or operation.is_view or name in _METADATA:
            return
        if name in _READS:
            self.waits += 1
        if name == "_local_scalar_dense":
            return  # a copy
        self.operations[name] += 1
        if name == "convolution" and inputs[2] is not None:
            self.operations["bias of a convolution"] += 1


class _Dispatched(TorchDispatchMode):
    """Tells `Launches` of the operations below the calls from Python."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self.launches = launches

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.launches.note(func, args)
        return func(*args, **(kwargs or {}))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def pictures(count: int, size: int, classes: int) -> tuple[Tensor, Tensor]:
    """Random images (uint8) and labels."""
    coarse = torch.rand(count, 3, max(2, size // 8), max(2, size // 8))
    images = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return images.mul(255).to(torch.uint8), torch.arange(count) % classes


def count_call(checkpoint: Any, size: int, *, floating: bool, **options: Any) -> Launches:
    """The counts of a call of `NFAugment` after the first batches, whose values are checked."""
    import nfaug

    nfa = nfaug.NFAugment(checkpoint, **{"p": 0.5, "mean": 0.4, "std": 0.3, **options})
    images, labels = pictures(16, size, nfa.num_classes)
    if floating:
        images = (images / 255 - 0.4) / 0.3
    with pretended_gpu() as gpu, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the classes of a bundled flow
        images = images.to(gpu)
        labels = labels.to(gpu)
        for _ in range(9):
            nfa(images, labels)
        with Launches() as launches:
            nfa(images, labels)
    return launches


def count_flow(flow: Any) -> Launches:
    """The counts of encode and decode alone."""
    frozen = flow.freeze()
    with pretended_gpu() as gpu, torch.no_grad():
        frozen.to(gpu)
        images = pictures(16, 32, 10)[0].to(gpu)
        for _ in range(2):  # the first call brings weights into the order of the device
            with Launches() as launches:
                latents = getattr(frozen, "latents", lambda x: frozen.encode(x)[0])
                frozen.decode(latents(images), quantize=False)
    return launches


def count_step(backbone: Any) -> Launches:
    """The counts of the second step of a training run."""
    from nfaug.training import TrainConfig, train
    from nfaug.training.loop import Loop

    step = Loop._step
    found: list[Launches] = []

    def counted(loop: Loop, shard: Any) -> bool:
        with Launches() as launches:
            stop = step(loop, shard)
        found.append(launches)
        return stop

    images, labels = pictures(32, 32, 2)
    config = TrainConfig(epochs=1, batch_size=16, device="cuda", flow=backbone)
    with pretended_gpu(), mock.patch.object(Loop, "_step", counted):
        train(TensorDataset(images, labels), config=config, progress=False)
    return found[1]


def paths() -> dict[str, Callable[[], Launches]]:
    """What is counted, by name."""
    import nfaug

    rgb32 = nfaug.load("builtin:rgb32")
    pixels = nfaug.load("builtin:pixels")
    backbone = rgb32.flow.config.backbone

    def of_100_classes() -> Any:
        return nfaug.fit(rgb32, TensorDataset(*pictures(300, 32, 100)), rank=2, progress=False)

    def of_pixels() -> Any:
        return nfaug.fit(pixels, TensorDataset(*pictures(30, 32, 10)), rank=2, progress=False)

    return {
        "rgb32, uint8, 32 px": lambda: count_call(rgb32, 32, floating=False),
        "of these encode and decode": lambda: count_flow(rgb32.flow),
        "rgb32, floats, 224 px": lambda: count_call(rgb32, 224, floating=True),
        "the same, 100 classes": lambda: count_call(of_100_classes(), 224, floating=True),
        "the same, by region": lambda: count_call(rgb32, 224, floating=True, mix="regions"),
        "pixels, uint8, 32 px": lambda: count_call(of_pixels(), 32, floating=False),
        "pixels, floats, 224 px": lambda: count_call(of_pixels(), 224, floating=True),
        "a training step of rgb32": lambda: count_step(backbone),
    }


def table(checkout: Path) -> dict[str, dict[str, int]]:
    """The counts of another checkout, in a process of its own."""
    source = checkout / "src"
    ran = subprocess.run(
        [sys.executable, __file__, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(source if source.is_dir() else checkout)},
    )
    return json.loads(ran.stdout)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, nargs="?", help="another checkout")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--operations", type=int, default=0, help="name the most frequent, so many")
    options = parser.parse_args(words)
    torch.manual_seed(0)
    found = {name: count() for name, count in paths().items()}
    if options.json:
        print(json.dumps({name: launches.counts for name, launches in found.items()}))
        return
    before = {} if options.base is None else table(options.base.resolve())
    print("| path | launches | uploads | waits | launches before | uploads | waits |")
    print("|---|---|---|---|---|---|---|")
    for name, launches in found.items():
        cells = [*launches.counts.values(), *before.get(name, {}).values()]
        print(f"| {name} | {' | '.join(map(str, cells))}{' |' * (7 - len(cells))}")
        for operation, count in launches.operations.most_common(options.operations):
            print(f"    {count:6} {operation}")


if __name__ == "__main__":
    main()
