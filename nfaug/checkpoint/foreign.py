"""Read the tensors of a `torch.save` file that may be hostile, in a child process.

The child (this file, run as a script) uses torch's restricted unpickler: it runs nothing from the
file and replaces unknown classes by stubs. Limits on memory, processor time and file size hold
there. It writes safetensors and JSON, and the parent reads only these.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ForeignFile", "read_foreign"]

MOST_SECONDS = 60.0  # of processor time, after the imports
_BYTES_PER_SECOND = 50e6  # large files get more time at this speed
_START_SECONDS = 120.0  # to import torch on a slow disk
_LEAST_MEMORY = 2**28  # bytes that every file may use, beyond what torch itself takes
_TENSORS, _INDEX = "tensors.safetensors", "index.json"
# The child must find the same packages as the parent, and nothing else in its working directory.
_CODE = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); import runpy; "
    "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)


class ForeignFile(NamedTuple):
    """The content of a `torch.save` file, as far as it can be read without running any of it.

    Attributes:
        tensors: The tensors of its `state_dict`.
        numbers: Whole numbers that stand beside the `state_dict`, such as "epoch".
        left_out: Names of the classes and functions that were replaced by stubs, sorted.
    """

    tensors: dict[str, Any]
    numbers: dict[str, int]
    left_out: list[str]


def read_foreign(path: str | Path, *, seconds: float = MOST_SECONDS) -> ForeignFile:
    """Read the `state_dict` of a file that `torch.save` wrote.

    Nothing in the file is run. The child process may use 256 MiB or four times the size of the
    file, and `seconds` of processor time and one second more per 50 MB.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is not a zip archive of `torch.save`, is damaged or encrypted, has
            no `state_dict`, needs a class that cannot be left out, or exceeds a limit.
    """
    from nfaug.io.manifest import CheckpointError
    from nfaug.io.text import printable

    path = Path(path)
    size = path.stat().st_size
    if not path.is_file():
        raise CheckpointError(f"{path} cannot be read: it is not a regular file")
    seconds += size / _BYTES_PER_SECOND
    with tempfile.TemporaryDirectory(prefix="nfaug-convert-") as folder:
        command = [sys.executable, "-c", _CODE, "\n".join(sys.path), __file__]
        try:
            child = subprocess.run(
                [*command, str(path.resolve()), folder, str(seconds)],
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_START_SECONDS + 4 * seconds,
            )
        except subprocess.TimeoutExpired:
            raise CheckpointError(f"{path} cannot be read: it takes too long") from None
        if child.returncode:
            lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
            said = f"it exceeds the limits on time or memory (exit status {child.returncode})"
            said = lines[-1] if child.returncode == 1 and lines else said
            raise CheckpointError(f"{path} cannot be read: {printable(said, longest=300)}")
        return _read_result(Path(folder))


def _read_result(folder: Path) -> ForeignFile:
    from safetensors.torch import load

    index = json.loads((folder / _INDEX).read_bytes())
    tensors = load((folder / _TENSORS).read_bytes())
    named = {name: tensors[f"t{number}"] for number, name in enumerate(index["names"])}
    return ForeignFile(named, index["numbers"], index["left_out"])


# From here on: the child. It imports torch alone, so that it starts quickly.


class _Stub:
    """Replaces an object of an unknown class; it takes any arguments and drops any state."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _MappingStub:
    """Replaces an object of an unknown class that is a dictionary."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()


def _limit(size: int, seconds: float) -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent's limit on time holds
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    processor = int(used.ru_utime + used.ru_stime + seconds) + 1
    limits = {resource.RLIMIT_CPU: processor, resource.RLIMIT_FSIZE: 2 * size + 2**25}
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + max(_LEAST_MEMORY, 4 * size)
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(kind, (most, most))


def _load(path: str, left_out: list[str]) -> Any:
    import torch

    for kind in (_Stub, _MappingStub):
        stubs: list[Any] = []
        for name in left_out:
            module, _, last = name.rpartition(".")
            base = _Stub if module.startswith("numpy") else kind
            stubs.append(type(last, (base,), {"__module__": module, "__qualname__": last}))
        try:
            with torch.serialization.safe_globals(stubs):
                # Mapped storages cannot be resized, so a tensor outside of its storage is an error.
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            if kind is _MappingStub or "SETITEM" not in str(error):
                raise
    raise AssertionError("unreachable")


def _convert(path: str, folder: Path, seconds: float) -> None:
    import torch
    from safetensors.torch import save_file

    size = os.path.getsize(path)
    _limit(size, seconds)
    left_out = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    content = _load(path, left_out)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise ValueError("it has no state_dict, so it is not a Lightning checkpoint")
    found = {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    total = sum(value.numel() * value.element_size() for value in found.values())
    if total > 2 * size:
        raise ValueError(f"its tensors have {total} bytes, the file only {size}")
    tensors = {}
    for number, value in enumerate(found.values()):
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise ValueError("it holds a sparse, quantized or complex tensor")
        if not value.is_floating_point():
            value = value.to(torch.int64)
        elif value.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"it holds a tensor of type {value.dtype}")
        tensors[f"t{number}"] = value.detach().clone(memory_format=torch.contiguous_format)
    save_file(tensors, folder / _TENSORS)
    index = {
        "names": list(found),
        "numbers": {
            key: value
            for key, value in content.items()
            if isinstance(key, str) and type(value) is int
        },
        "left_out": sorted(left_out),
    }
    (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def _main() -> None:
    import warnings

    warnings.simplefilter("ignore")
    path, folder, seconds = sys.argv[1:]
    try:
        _convert(path, Path(folder), float(seconds))
    except BaseException as error:  # whatever a hostile file raises is one error of the parent
        text = f"{type(error).__name__}: {error}"
        for mark in (r"WeightsUnpickler error: ", r"from a trusted source\.\s+"):
            if found := re.search(mark + "(.+)", str(error)):  # leaves out torch's advice
                text = found[1]
                break
        print(" ".join(text.split())[:1000], file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    _main()
