"""Read hostile pickles as `nfaug convert` does, in a forked child for each.

A new interpreter that imports torch takes 1.5 s. This process imports it once and forks; the child
then runs `nfaug.checkpoint.foreign` as the script that it is, with the same limits.
"""

from __future__ import annotations

import itertools
import os
import pickle
import pickletools
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attack_tools import run_script
from released_tools import released, save
from test_convert import Attack, Storage, View, archive, pickled

from nfaug.checkpoint import foreign
from nfaug.checkpoint.convert import convert_state
from nfaug.io.manifest import CheckpointError, reading

__all__ = ["COUNT", "KINDS", "SECONDS", "make", "outcome_of", "read"]

COUNT = 2000
SECONDS = 1.0
HOSTILE: list[Any] = [
    *(None, True, -1, 0, 2, 255, 2**16, 2**31, 2**40, 2**63, 10**30, 1.5, "", "x" * 10_000, b"x"),
    *((), [], {}, [[]], (1,), (2**40,), (-1, 2), (1, 2, 3), {"a": 1}),
]
GLOBALS = [
    *("os system", "builtins eval", "builtins getattr", "builtins bytearray", "torch Size"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch FloatStorage"),
    *("torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor", "torch zeros"),
    *("torch.storage _load_from_bytes", "collections OrderedDict", "collections Counter"),
    *("numpy.core.multiarray _reconstruct", "numpy dtype", "_codecs encode", "x y", "torch load"),
    *("subprocess Popen", "torch._tensor _rebuild_from_type_v2", "torch.hub load", "torch device"),
]


def read(folder: Path, number: int) -> str:
    """Make a hostile file, read it and convert it; return the kind and the outcome."""
    path = make(folder, number)
    result = folder / "result"
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir()
    child = os.fork()
    if not child:
        _be_the_child(path, result)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)

    def content() -> foreign.ForeignFile:
        if code:
            raise CheckpointError(f"exit status {code}")
        with reading(path):
            return foreign._read_result(result)

    ended = f"stopped by signal {-code}" if code < 0 else outcome_of(content)
    assert not (folder / "ran").exists(), "the file ran a command"
    return f"{KINDS[number % len(KINDS)].__name__}: {ended}"


def outcome_of(content: Callable[[], foreign.ForeignFile]) -> str:
    """Read and convert: "refused", "read" or "converted"."""
    try:
        tensors = content().tensors
    except CheckpointError:
        return "refused"
    try:
        flow = convert_state(tensors).flow
    except ValueError:
        return "read"
    with torch.no_grad():
        flow.encode(torch.zeros(1, *flow.config.shape, dtype=torch.uint8))
    return "converted"


def _be_the_child(path: Path, result: Path) -> None:
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        sys.argv[1:] = [str(path), str(result), str(SECONDS)]
        foreign._main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def make(folder: Path, number: int) -> Path:
    """Write the file of a case."""
    rng = random.Random(number)
    kind = KINDS[number % len(KINDS)]
    entries = dict(_good(folder))
    data = kind(folder, entries, rng)
    return data if isinstance(data, Path) else _zip(folder / "hostile.ckpt", entries)


def _good(folder: Path) -> dict[str, bytes]:
    """The entries of a file as the released code writes it."""
    path = folder / "released.ckpt"
    if not path.exists():
        save(released("gray16"), folder)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def _zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:  # stored, as torch does, with new checksums
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def _pickle_name(entries: dict[str, bytes]) -> str:
    return next(name for name in entries if name.endswith("data.pkl"))


# The kinds of attack: change the entries, or return the path of another file.

Entries = dict[str, bytes]


def bits(folder: Path, entries: Entries, rng: random.Random) -> None:
    """Change bytes of the pickle."""
    name = _pickle_name(entries)
    data = bytearray(entries[name])
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    entries[name] = bytes(data)


def opcodes(folder: Path, entries: Entries, rng: random.Random) -> None:
    """Replace, drop, repeat or exchange whole opcodes."""
    name = _pickle_name(entries)
    data = entries[name]
    at = [position for _, _, position in pickletools.genops(data)] + [len(data)]
    parts = [data[i:j] for i, j in itertools.pairwise(at)]
    for _ in range(rng.choice([1, 1, 3, 10])):
        i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
        way = rng.randrange(4)
        if way == 0:
            parts[i] = rng.choice(pickletools.opcodes).code.encode("latin-1") + parts[i][1:]
        elif way == 1:
            parts[i] = b""
        elif way == 2:
            parts[i] = parts[i] * rng.choice([2, 100])
        else:
            parts[i], parts[j] = parts[j], parts[i]
    entries[name] = b"".join(parts)


def names(folder: Path, entries: Entries, rng: random.Random) -> None:
    """Name other classes and functions."""
    name = _pickle_name(entries)
    data = entries[name]
    found = [
        (position, arg) for op, arg, position in pickletools.genops(data) if op.name == "GLOBAL"
    ]
    position, old = rng.choice(found)
    before = f"c{str(old).replace(' ', chr(10))}\n".encode()
    after = f"c{rng.choice(GLOBALS).replace(' ', chr(10))}\n".encode()
    entries[name] = data[:position] + data[position:].replace(before, after, rng.choice([1, -1]))


def cut(folder: Path, entries: Entries, rng: random.Random) -> Path:
    """Cut the archive, or put bytes before or after it."""
    data = _zip(folder / "hostile.ckpt", entries).read_bytes()
    data = rng.choice([b"", b"", b"x" * 100]) + data[: rng.randrange(len(data))]
    (folder / "hostile.ckpt").write_bytes(data + rng.choice([b"", b"PK\x05\x06" + bytes(18)]))
    return folder / "hostile.ckpt"


def zip_fields(folder: Path, entries: Entries, rng: random.Random) -> Path:
    """Change fields of the archive's headers."""
    path = _zip(folder / "hostile.ckpt", entries)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 4])):
        mark, length = rng.choice([(b"PK\x03\x04", 30), (b"PK\x01\x02", 46), (b"PK\x05\x06", 22)])
        places = [i for i in range(len(data)) if data[i : i + 4] == mark]
        if places:
            at = rng.choice(places) + rng.randrange(4, length - 3)
            data[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), rng.randbytes(4)])
    path.write_bytes(data)
    return path


def storages(folder: Path, entries: Entries, rng: random.Random) -> None:
    """Shorten, lengthen, drop or exchange the bytes of tensors, or change the byte order."""
    for _ in range(rng.choice([1, 3])):
        name = rng.choice([name for name in entries if not name.endswith("data.pkl")])
        way = rng.randrange(4)
        if way == 0:
            entries[name] = entries[name][: rng.randrange(len(entries[name]) + 1)]
        elif way == 1:
            entries[name] += bytes(rng.choice([1, 10**6]))
        elif way == 2 and len(entries) > 4:
            del entries[name]
        else:
            entries[name] = rng.choice([b"big", b"0\n", b"99\n", b"", rng.randbytes(64)])


def views(folder: Path, entries: Entries, rng: random.Random) -> Path:
    """Tensors of any layout over any storage."""
    sizes = [0, 1, 2, 4, 5, 2**20, 2**31, 2**40, 2**62, -1, 1.5, None]

    def some() -> tuple[Any, ...]:
        return tuple(rng.choice(sizes) for _ in range(rng.randrange(4)))

    state = {}
    for number in range(rng.choice([1, 3, 2000])):
        key, numel = rng.choice(["0", "1", 0, "../x", ""]), rng.choice(sizes)
        storage = Storage(key if rng.random() < 0.3 else "0", numel if rng.random() < 0.5 else 4)
        layout = some(), some(), rng.choice([0, 0, 0, *sizes])
        state[rng.choice([f"flow.{number}", number, "\x1b[2J", ""])] = View(*layout, storage)
    return archive(folder, pickled({"state_dict": state}), {"0": bytes(16), "1": bytes(2**16)})


def objects(folder: Path, entries: Entries, rng: random.Random) -> Path:
    """Content that is not what is expected, among it an object that runs a command."""
    content: Any = released("gray16")
    attack = Attack(folder / "ran", rng.choice([None, shutil.copy2]))
    value = rng.choice(
        [*HOSTILE, attack, {attack: attack}, [attack] * 100, torch.ones(2).to_sparse()]
    )
    if rng.random() < 0.3:
        content = {rng.choice(["state_dict", "x", 1]): value}
    else:
        owner = rng.choice([content, content["state_dict"]])
        owner[rng.choice([*owner, "extra", "flow.blocks.9.9.actnorm.scale"])] = value
    return save(content, folder / "objects")


def nested(folder: Path, entries: Entries, rng: random.Random) -> Path:
    """Deep or exponentially large structures."""
    depth = rng.choice([10, 100, 1000, 100_000])
    way = rng.randrange(4)
    if way == 0:  # each level holds the one before twice
        code = b")" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(min(depth, 250)))
        code = b"}" + code + b"K\x01s"
    elif way == 1:
        code = rng.choice([b"]", b"}", b")"]) * depth + rng.choice([b"a", b"e", b"\x85"]) * depth
    elif way == 2:
        code = b"(" * depth + b"t" * depth
    else:
        code = (
            b"cbuiltins\nbytearray\n\x8a\x05"
            + rng.randrange(2**39).to_bytes(5, "little")
            + b"\x85R"
        )
    return archive(folder, b"\x80\x02" + code + b".")


def programs(folder: Path, entries: Entries, rng: random.Random) -> Path:
    """Random opcodes with arguments."""
    pieces: list[Callable[[], bytes]] = [
        lambda: rng.choice(
            [b"(", b")", b"]", b"}", b"t", b"a", b"e", b"s", b"u", b"N", b"0", b"2"]
        ),
        lambda: rng.choice([b"R", b"b", b"Q", b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"1"]),
        lambda: b"J" + struct.pack("<i", rng.choice([0, 1, -1, 2**31 - 1, rng.randrange(100)])),
        lambda: b"X" + struct.pack("<I", rng.choice([1, 1, 1, 2**31])) + b"x",
        lambda: f"c{rng.choice(GLOBALS).replace(' ', chr(10))}\n".encode(),
        lambda: b"q%c" % rng.randrange(8),
        lambda: b"h%c" % rng.randrange(8),
        lambda: pickle.dumps(rng.choice(HOSTILE), 2)[2:-1],
    ]
    length = rng.choice([5, 20, 100, 1000])
    code = b"".join(rng.choice(pieces)() for _ in range(length))
    return archive(folder, b"\x80\x02}X\x0a\0\0\0state_dict" + code + b"s.", {"0": bytes(16)})


KINDS: list[Callable[[Path, Entries, random.Random], Path | None]] = [
    *(bits, opcodes, names, cut, zip_fields, storages, views, objects, nested, programs, opcodes),
]


def prepare(folder: Path) -> None:
    """Read an intact file in this process and one by a child."""
    (folder / "objects").mkdir()
    good = save(released("gray16"), folder)
    assert outcome_of(lambda: foreign.read_foreign(good)) == "converted"


if __name__ == "__main__":
    run_script(prepare, read)
