"""What the parts share: a file of results, clocks, counts, pictures and bundled flows."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import nfaug
from nfaug.augment.transform import NFAugment
from nfaug.checkpoint.checkpoint import Checkpoint, sample_images

__all__ = [
    "CLASSES",
    "MEAN",
    "STD",
    "WHOLE",
    "Card",
    "Compiled",
    "Profile",
    "normalised",
    "pictures",
    "samples",
    "searching",
    "tf32",
]

WHOLE = "the whole part"  # the case of a part's seconds, and of errors that no case of it caught
CLASSES = 10
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_QUEUED = ("cudaLaunchKernel", "cuLaunchKernel")  # what launches a kernel; both have variants


@dataclass(frozen=True)
class Profile:
    """What the host and the GPU do in a call: launches, and busy ms."""

    launches: int | None = None
    gpu_ms: float | None = None


class Compiled:
    """A compiled function, and how often it was called."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        self.calls += 1
        return self.function(*inputs, **options)


@dataclass
class Card:
    """The device that is measured, and the file of its results.

    Attributes:
        device: The GPU, or the CPU with `tiny`.
        tiny: Whether everything is small: a check that it runs, whose figures say nothing.
        results: A file of JSON lines, to which each figure is appended.
        part: Name of the part that is running.
    """

    device: torch.device
    tiny: bool
    results: Path
    part: str = ""

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def machine(self) -> str:
        """Names of the card, torch and its libraries."""
        words = ["no GPU", f"torch {torch.__version__}"]
        if self.is_gpu:
            words[0] = torch.cuda.get_device_name(self.device)
            words.append(f"CUDA {torch.version.cuda}")
            words.append(f"cuDNN {torch.backends.cudnn.version()}")
        if self.tiny:
            words.append("tiny: a check, no figures")
        return ", ".join(words)

    def note(self, case: str, **figures: Any) -> None:
        """Append figures of a case, one JSON line each; None is left out: not measured here."""
        for figure, value in figures.items():
            if value is not None:
                self._append(case=case, figure=figure.replace("_", " "), value=value)

    def _append(self, **line: Any) -> None:
        text = json.dumps({"machine": self.machine, "part": self.part, **line})
        print(text, flush=True)
        with self.results.open("a") as file:
            file.write(text + "\n")

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """A block whose error becomes a line of the results; memory is given back after it."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            reason = " ".join(str(error).split())[:200]
            self._append(case=name, error=f"{type(error).__name__}: {reason}")
        if self.is_gpu:
            torch.cuda.empty_cache()

    def sync(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def time(self, job: Callable[[], object], calls: int = 10) -> tuple[float, float]:
        """Median ms of a call, and the median ms in which the host has queued it."""
        rounds = 7
        if self.tiny:
            rounds = 1
            calls = 1
        for _ in range(1 if self.tiny else 3):
            job()
        whole = []
        queued = []
        for _ in range(rounds):
            self.sync()
            start = time.perf_counter()
            for _ in range(calls):
                job()
            queued.append(time.perf_counter() - start)
            self.sync()
            whole.append(time.perf_counter() - start)
        factor = 1e3 / calls
        return factor * statistics.median(whole), factor * statistics.median(queued)

    def turns(self, jobs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Seconds of each job in each round; all take turns, and one round does not count."""
        rounds = 1 if self.tiny else 7
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for turn in range(rounds + 1):
            for name, job in jobs.items():
                self.sync()
                start = time.perf_counter()
                job()
                self.sync()
                if turn > 0:
                    seconds[name].append(time.perf_counter() - start)
        return seconds

    def profile(self, job: Callable[[], object]) -> Profile:
        """Counts of a call, by torch's profiler; without a GPU there are none."""
        if not self.is_gpu:
            job()
            return Profile()
        from torch.profiler import ProfilerActivity, profile

        job()
        self.sync()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            job()
            self.sync()
        launches = 0
        microseconds = 0.0
        for event in found.events():
            launches += event.name.startswith(_QUEUED)
            annotation = getattr(event, "is_user_annotation", False)  # holds kernels that count
            if event.device_type == torch.autograd.DeviceType.CUDA and not annotation:
                microseconds += event.self_device_time_total
        return Profile(launches, microseconds / 1e3)

    def peak(self, job: Callable[[], object]) -> float | None:
        """MiB that a call takes beyond what is held before it."""
        if not self.is_gpu:
            job()
            return None
        self.sync()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        job()
        self.sync()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20

    def waits(self, job: Callable[[], object]) -> int | None:
        """How often a call makes the host wait for the GPU."""
        if not self.is_gpu:
            job()
            return None
        self.sync()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")  # also torch's own, that the mode is a prototype
            torch.cuda.set_sync_debug_mode("warn")
            try:
                job()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA operation" in str(each.message) for each in said)

    def note_cost(self, case: str, job: Callable[[], object]) -> None:
        """Note what a call launches, how often it waits, and what it takes of the GPU."""
        counts = self.profile(job)
        self.note(case, launches=counts.launches, GPU_ms=counts.gpu_ms)
        self.note(case, waits=self.waits(job), peak_MiB=self.peak(job))

    def compiled(self, function: Callable[..., Any]) -> Compiled:
        """A function by `torch.compile`; the tiny check leaves out the compiler, which is slow."""
        return Compiled(torch.compile(function, backend="eager" if self.tiny else "inductor"))

    def bundled(self, name: str) -> Checkpoint:
        """A bundled flow on the device."""
        return nfaug.load(f"builtin:{name}").to(self.device)

    def pixels(self, size: int) -> Checkpoint:
        """`builtin:pixels` at a size, fitted to random images of ten classes."""
        each = 3 if self.tiny else 66  # enough for 64 axes
        data = torch.utils.data.TensorDataset(*pictures(each * CLASSES, size))
        rank = 2 if self.tiny else 64
        return nfaug.fit(self.bundled("pixels"), data, rank=rank, progress=False)

    def settled(self, nfa: NFAugment, images: Tensor, labels: Tensor) -> NFAugment:
        """The augmentation after its first batches, in which it checks values and so waits."""
        for _ in range(9):
            nfa(images, labels)
        return nfa


def pictures(count: int, size: int, channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth random images (uint8) with some noise, and labels of ten classes."""
    generator = torch.Generator().manual_seed(seed)
    side = max(2, size // 8)
    coarse = torch.rand(count, channels, side, side, generator=generator)
    unit = F.interpolate(coarse, (size, size), mode="bilinear")
    unit += 0.04 * torch.randn(unit.shape, generator=generator)
    return unit.clamp(0, 1).mul(255).to(torch.uint8), torch.arange(count) % CLASSES


def samples(checkpoint: Checkpoint, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Samples of a flow's classes in turn (uint8), which NFA augments, resized, and their labels.

    They are drawn on the CPU, so that each device gets the same.
    """
    labels = torch.arange(count) % CLASSES
    generator = torch.Generator("cpu").manual_seed(0)
    gaussians = checkpoint.gaussians
    drawn = sample_images(
        checkpoint.flow, gaussians, labels, temperature=0.7, generator=generator
    ).cpu()
    if drawn.shape[-1] == size:
        return drawn, labels
    resized = F.interpolate(drawn.float(), (size, size), mode="bilinear")
    return resized.round().to(torch.uint8), labels


def normalised(images: Tensor) -> Tensor:
    """Images as a training loop has them: floats, normalised."""
    mean = torch.tensor(MEAN, device=images.device)[:, None, None]
    std = torch.tensor(STD, device=images.device)[:, None, None]
    return (images / 255 - mean) / std


@contextlib.contextmanager
def _cudnn(setting: str, value: bool) -> Iterator[None]:
    """A block with a setting of cuDNN."""
    before = getattr(torch.backends.cudnn, setting)
    setattr(torch.backends.cudnn, setting, value)
    try:
        yield
    finally:
        setattr(torch.backends.cudnn, setting, before)


def tf32(on: bool) -> contextlib.AbstractContextManager[None]:
    """A block in which cuDNN's convolutions may round to TF32, or must not.

    The setting of matrix products stays: for another one, `torch.compile` would compile anew.
    """
    return _cudnn("allow_tf32", on)


def searching() -> contextlib.AbstractContextManager[None]:
    """A block in which cuDNN tries its algorithms, as timm's script has it."""
    return _cudnn("benchmark", True)
