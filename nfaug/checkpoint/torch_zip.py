"""Read the tensors of a file that `torch.save` wrote, without running anything that is in it.

Such a file is a zip archive: `data.pkl`, a pickle that may name any class or function of any
module, and one entry of raw bytes a storage. An ordinary load imports and calls what the pickle
names. Here nothing it names is imported: tensors become descriptions of themselves, ordered
dictionaries are rebuilt, and everything else becomes an inert placeholder.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

__all__ = ["Placeholder", "StoredTensor", "TorchZip"]

_LARGEST_PICKLE = 2**28  # bytes; the index of a checkpoint has a few hundred kilobytes
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Placeholder:
    """Stands for an object of a class that is not rebuilt, and swallows all that is done to it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Whatever the real class would take."""

    def __setstate__(self, state: Any) -> None:
        """Whatever the real object would be set to."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Items of a subclass of dict."""

    def append(self, item: Any) -> None:
        """An item of a subclass of list."""

    def extend(self, items: Any) -> None:
        """Items of a subclass of list."""

    def add(self, item: Any) -> None:
        """An item of a subclass of set."""


class StoredTensor(Placeholder):
    """Where a tensor's values are: storage, offset, size and strides, none of them checked yet."""

    def __init__(self, storage: Any = None, offset: Any = 0, *layout: Any) -> None:
        self.storage = storage
        self.offset = offset
        self.size, self.stride = layout[:2] if len(layout) >= 2 else (None, None)


class _Parameter(Placeholder):
    def __new__(cls, data: Any = None, *args: Any) -> Any:
        return data  # a parameter is its tensor


class _Storage(Placeholder):
    def __init__(self, key: Any, dtype: torch.dtype, numel: Any) -> None:
        self.key, self.dtype, self.numel = key, dtype, numel


class _Unpickler(pickle.Unpickler):
    """Rebuilds plain containers; nothing that the pickle names is imported or called."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.placeholders: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return StoredTensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Parameter
        if module == "torch" and name in _DTYPES:
            return type(name, (Placeholder,), {"dtype": _DTYPES[name]})
        self.placeholders.add(f"{module}.{name}")
        # A new class each time: a pickle can set attributes on what it got.
        return type("Inert", (Placeholder,), {})

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            return Placeholder()
        dtype = getattr(pid[1], "dtype", None)
        return _Storage(pid[2], dtype, pid[4]) if dtype else Placeholder()


class TorchZip:
    """An open file of `torch.save`.

    Attributes:
        content: what was saved, with `StoredTensor` for tensors and `Placeholder` for the rest.
        placeholders: names of the classes and functions that were left out, sorted.

    Raises:
        ValueError: the file is not of this format, or is damaged.
    """

    content: Any
    placeholders: list[str]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile:
            raise ValueError(
                f"{self.path} is no zip archive, so not a file that torch.save (1.6 or newer) wrote"
            ) from None
        try:
            self._read_index()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> TorchZip:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._zip.close()

    def _read_index(self) -> None:
        names = [name for name in self._zip.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"{self.path} holds {len(names)} data.pkl; torch.save writes one")
        self._root = names[0].removesuffix("data.pkl")
        if f"{self._root}byteorder" in self._zip.namelist():
            order = self._bytes("byteorder", 64)
            if order != b"little":
                raise ValueError(f"{self.path} has byte order {order!r}; only b'little' is read")
        unpickler = _Unpickler(io.BytesIO(self._bytes("data.pkl", _LARGEST_PICKLE)))
        try:
            self.content = unpickler.load()
        except Exception as error:  # a hostile or broken pickle can raise anything
            raise ValueError(f"{self.path}: its data.pkl cannot be read: {error!r:.200}") from None
        self.placeholders = sorted(unpickler.placeholders)

    def _bytes(self, name: str, most: int) -> bytes:
        try:
            info = self._zip.getinfo(self._root + name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
                raise ValueError(
                    f"{self.path}: {info.filename} is compressed or larger than {most} bytes, "
                    "which torch.save does not write"
                )
            return self._zip.read(info)
        except (KeyError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{self.path}: {self._root}{name} cannot be read: {error}") from None

    def tensor(self, name: str, stored: StoredTensor) -> Tensor:
        """The values of a stored tensor; `name` is for the error's message.

        Raises:
            ValueError: its layout does not lie inside its storage.
        """
        storage, size, stride = stored.storage, stored.size, stored.stride
        if (
            not isinstance(storage, _Storage)
            or not isinstance(storage.key, str)
            or not all(_counts(values) for values in (size, stride, (stored.offset, storage.numel)))
            or len(size) != len(stride)
        ):
            raise ValueError(f"{self.path}: tensor {name} is not described as torch.save does")
        itemsize = torch.empty(0, dtype=storage.dtype).element_size()
        last = stored.offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if math.prod(size) > storage.numel or (math.prod(size) and last >= storage.numel):
            raise ValueError(f"{self.path}: tensor {name} does not lie inside its storage")
        if not math.prod(size):
            return torch.empty(size, dtype=storage.dtype)
        data = self._bytes(f"data/{storage.key}", storage.numel * itemsize)
        if len(data) != storage.numel * itemsize:
            raise ValueError(f"{self.path}: the storage of tensor {name} is cut short")
        flat = torch.frombuffer(bytearray(data), dtype=storage.dtype)
        return flat.as_strided(size, stride, stored.offset).clone()

    def tensors(self, values: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """The values of several."""
        return {name: self.tensor(name, stored) for name, stored in values.items()}


def _counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(n) is int and 0 <= n < 2**48 for n in values)
