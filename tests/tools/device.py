"""A GPU that is pretended on the CPU, so that a mix of devices fails on every machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda:0")
_MIXING = ("copy_", "_has_compatible_shallow_copy_type")  # functions of tensors on two devices


class Pretended(Tensor):
    """A tensor in the memory of the CPU that says it is on a GPU, as all that is made of it does.

    Other than a fake tensor it holds values: code that reads some, such as a fit, runs, and its
    results can be compared with those of the CPU.
    """

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def as_subclass(self, cls: Any) -> Any:
        """This tensor: one of the GPU stays there, whatever its class."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            held = Tensor.as_subclass(self.detach(), Tensor).clone()
            # Other than by `as_subclass` it is no view, so that an average may detach it in place.
            memo[id(self)] = Tensor._make_subclass(Pretended, held, self.requires_grad)
        return memo[id(self)]


class PretendedGPU(TorchFunctionMode):
    """A context in which `device="cuda"` works, by `Pretended` tensors, and mixing devices fails.

    Like CUDA it lets tensors of the CPU be copied and be indices, and their scalars be operands.
    Each check is that of a call from Python: what is below computes on the CPU.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is Tensor.pin_memory:
            return args[0]
        if func == Tensor.grad.__get__:  # type: ignore[attr-defined]
            return _as_like(func(*args), args[0])
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], Pretended):
            raise TypeError("a tensor on a GPU has no numpy array: call .cpu() first")
        if func is Tensor.cpu:
            func, args = Tensor.to, (args[0], "cpu")
        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], GPU)
        if func is Tensor.to:
            return _moved(args, options)
        _check_devices(func, args, options)
        _check_generator(func, args, options)
        device = options.get("device")
        if device is None or torch.device(device).type != "cuda":
            return func(*args, **options)
        options["device"] = "cpu"
        return Tensor.as_subclass(func(*args, **options), Pretended)


class _Generator(torch.Generator):
    """A generator of the CPU, which says that it is on the device that it was made for."""

    def __new__(cls, device: Any = "cpu") -> Any:
        made: Any = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        made.on_gpu = torch.device(device).type == "cuda"
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU if self.on_gpu else torch.device("cpu")  # type: ignore[attr-defined]


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """A block in which the device "cuda:0" exists; the tensors on it stay usable in such blocks."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # or Module.to keeps the class
    try:
        with PretendedGPU(), mock.patch.object(torch, "Generator", _Generator):
            yield GPU
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def _as_like(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """A gradient on the device of its parameter: the backward pass makes tensors of the CPU."""
    if gradient is None or not isinstance(parameter, Pretended):
        return gradient
    return Tensor.as_subclass(gradient, Pretended)


def _moved(args: Any, options: dict[str, Any]) -> Any:
    """`Tensor.to`: to a device, a type, or both; or to those of another tensor."""
    tensor: Any = args[0]
    goal = tensor.device
    types = []
    for given in args[1:]:
        if isinstance(given, (str, torch.device)):
            goal = torch.device(given)
        elif isinstance(given, torch.dtype):
            types.append(given)
        elif isinstance(given, Tensor):
            goal = given.device
            types.append(given.dtype)
    others = dict(options)
    named = others.pop("device", None)
    if named is not None:
        goal = torch.device(named)
    if goal.type == tensor.device.type:
        return tensor.to(*types, **others)
    others["copy"] = True
    held: Any = Tensor.as_subclass(tensor, Tensor)
    if goal.type == "cuda":
        return Tensor.as_subclass(held.to(*types, **others), Pretended)
    return held.to(goal, *types, **others)


def _check_devices(func: Any, args: Any, options: dict[str, Any]) -> None:
    """Raise RuntimeError, as CUDA does, if a call mixes devices."""
    if getattr(func, "__name__", "") in _MIXING:
        return
    if func is Tensor.__setitem__ and not list(_tensors(args[1])):
        return  # by slices it is a copy, which may cross devices
    if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Pretended):
        args = (args[0], *args[2:])  # the indices may be on the CPU
    found = [each for each in _tensors([args, options]) if each.ndim]
    on_gpu = [each for each in found if isinstance(each, Pretended)]
    if on_gpu and len(on_gpu) < len(found):
        devices = [str(each.device) for each in found]
        raise RuntimeError(f"expected all tensors on one device in {func}; got {devices}")


def _check_generator(func: Any, args: Any, options: dict[str, Any]) -> None:
    """Raise RuntimeError, as CUDA does, if a generator of another device draws the numbers."""
    generator = options.get("generator")
    if generator is None:
        return
    devices = [each.device for each in _tensors(args)]
    place = torch.device(options.get("device") or (devices[0] if devices else "cpu"))
    if place.type != generator.device.type:
        raise RuntimeError(f"expected a generator on {place} in {func}; got {generator.device}")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """A block in which whatever waits for the GPU raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # torch warns of a prototype after it has set the mode.
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
