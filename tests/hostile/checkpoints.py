"""Damaged and hostile checkpoint directories, loaded and used.

Most of them have new hashes, as from an attacker who knows the format; without, the hashes already
reveal the damage. A checkpoint is refused in one line, or holds what its files hold.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from tools.checkpoint import header_of, sign, with_header
from tools.nfa import fit_pca

import nfaug
from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig, load
from nfaug.checkpoint.manifest import CheckpointError
from nfaug.classes.gaussians import ClassGaussians
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig

__all__ = ["KINDS", "case", "make", "prepare"]

WARM = 28  # cases that run before memory is limited: they import much
BLOCK = 4096
NAMES = ("one", "two")  # of checkpoints

HOSTILE: list[Any] = [
    *(None, True, -1, 0, 1, 2, 2**31, 2**63, 2**64, 10**12, 10**18, 10**400, 1e308, -0.0, 0.5),
    *("", "x", "x" * 100_000, "../../etc/passwd", "\u202e\x00", "__import__('os').abort()"),
    *([], {}, [[]], [1] * 1000, [10**12], [10**9, 10**9], [0] * 200_000, [1.5, 1], [[[[]]]]),
    *({"a": {}}, {"": None}, {str(i): i for i in range(5000)}, [str(i) for i in range(70_000)]),
    *(float("nan"), float("inf"), functools.reduce(lambda inner, _: [inner], range(60), 0)),
]


def make(folder: Path) -> None:
    """Two checkpoints of some 500 KiB."""
    config = FlowConfig(
        channels=3,
        image_size=(8, 8),
        backbone=MefConfig(steps=(1, 2), blocks=(1, 1), width=(16, 16)),
    )
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        latents = [torch.randn(40, config.dim) for _ in range(3)]
        means = torch.stack([each.mean(0) for each in latents])
        Checkpoint(
            Flow(config),
            CheckpointConfig(config, ("cat", "dog", "eel"), training={"epochs": 3, "lr": [0.1]}),
            ClassGaussians(means, torch.ones_like(means), torch.full((3,), 40)),
            fit_pca(latents, rank=8),
        ).save(folder / name)


def case(folder: Path, number: int) -> str:
    """Damage a copy, read it and use it; return the kind of damage and the outcome.

    Raises:
        Exception: Whatever reading raised that is no CheckpointError, or use that is no ValueError.
        AssertionError: What was read is not what the files hold.
    """
    rng = random.Random(number)
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / rng.choice(NAMES), copy)
    kind = KINDS[number % len(KINDS)]
    kind(copy, rng, number // len(KINDS))
    try:
        with mock.patch("torch.load", unpickled), mock.patch("pickle.load", unpickled):
            found = load(copy)
    except CheckpointError as error:
        outcome = "refused" if len(str(error)) < 20_000 else "refused at too great length"
        if "\n" in str(error):
            raise AssertionError("an error of several lines") from error
    else:
        check_same(found, copy)
        outcome = use(found)
    return f"{kind.__name__}: {outcome}"


def unpickled(*_: object, **__: object) -> None:
    raise SystemExit("a pickle is loaded")  # which no `except Exception` hides


def use(found: Checkpoint) -> str:
    """Encode and decode two images, and augment four."""
    shape = (found.flow.codec.channels, *found.flow.codec.image_size)
    images = torch.randint(256, (4, *shape), dtype=torch.uint8)
    labels = torch.arange(4) % max(1, len(found.config.classes))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        z, _ = found.flow.encode(images[:2])
        assert found.flow.decode(z).shape == images[:2].shape
        try:
            nfa = nfaug.NFAugment(found, p=1.0)
        except ValueError:  # for instance without axes
            return "used without NFAugment"
        augmented, _ = nfa(images, labels)
    assert (augmented.shape, augmented.dtype) == (images.shape, torch.uint8)
    return "used"


def check_same(found: Checkpoint, copy: Path) -> None:
    """Compare tensors and configuration with what independent readers find in the files."""
    values = json.loads((copy / "config.json").read_text())
    assert found.config.classes == tuple(values["class_names"])
    flow = json.loads(json.dumps(found.config.flow.to_dict()))
    assert {**flow, **values["flow"]} == flow, "what is not said is the default"
    for part, prefix in ((found.flow, "model"), (found.gaussians, "gaussians")):
        if part is not None:
            same(part.state_dict(), load_file(copy / f"{prefix}.safetensors"))
    if found.pca is not None:
        same(found.pca.tensors(), load_file(copy / "pca.safetensors"))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(value.double(), two[name].double()) for name, value in one.items())


# The kinds of damage. `number` counts the cases of a kind.


def truncated(copy: Path, rng: random.Random, number: int) -> None:
    """Cut a file at a multiple of 4 KiB; every fourth round without a new hash."""
    cuts = [
        (file, at)
        for file in sorted(copy.iterdir())
        for at in range(0, file.stat().st_size, BLOCK if file.suffix != ".json" else 64)
    ]
    file, at = cuts[number % len(cuts)]
    file.write_bytes(file.read_bytes()[:at])
    if file.suffix != ".json" and (number // len(cuts)) % 4 != 3:
        sign(copy)


def header_flipped(copy: Path, rng: random.Random, number: int) -> None:
    """Flip bits of a header or of its length."""
    file = tensor_file(copy, rng)
    size = 8 + len(header_of(file.read_bytes())[0])
    flip(file, rng, range(8) if rng.random() < 0.1 else range(size), rng.choice([1, 1, 1, 2, 8]))


def tensors_flipped(copy: Path, rng: random.Random, number: int) -> None:
    """Flip bits of the tensors."""
    file = tensor_file(copy, rng)
    start = 8 + len(header_of(file.read_bytes())[0])
    flip(file, rng, range(start, file.stat().st_size), rng.choice([1, 100]))


def flip(file: Path, rng: random.Random, where: range, times: int) -> None:
    data = bytearray(file.read_bytes())
    for _ in range(times):
        data[rng.choice(where)] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    sign(file.parent)


def tensors_changed(copy: Path, rng: random.Random, number: int) -> None:
    """Write a tensor anew, intact as a file: other values, type, shape or name, or none."""
    file = tensor_file(copy, rng)
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    value = tensors.pop(name)
    flat = value.flatten()
    way = rng.randrange(7)
    if way == 0 and value.is_floating_point():
        extreme = rng.choice([1e-38, 1e-20, 0.0, -1.0, 30.0, 1e3, 1e20, 6e37, float("nan")])
        at = torch.randperm(flat.numel())[: rng.choice([1, flat.numel()])]
        flat = flat.index_fill(0, at, extreme if value.dtype != torch.float16 else extreme % 6e4)
        tensors[name] = flat.reshape(value.shape)
    elif way == 1:
        types = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
        tensors[name] = value.to(rng.choice(types))
    elif way == 2:
        tensors[name] = flat if rng.random() < 0.5 else value[None]
    elif way == 3:
        tensors[name] = value.transpose(0, -1).contiguous()
    elif way == 4:
        tensors[name] = flat[: rng.randrange(flat.numel() + 1)].clone()
    elif way == 5:
        tensors[rng.choice(["", "x", name + "x", name[::-1], "\x1b[31m"])] = value
    save_file(tensors, file)
    sign(copy)


def swapped(copy: Path, rng: random.Random, number: int) -> None:
    """Copy a file from another checkpoint, or under the name of another file."""
    file = rng.choice(sorted((copy.parent / rng.choice(NAMES)).iterdir()))
    shutil.copyfile(file, copy / rng.choice([file.name, rng.choice(sorted(copy.iterdir())).name]))
    if rng.random() < 0.7 and (copy / "config.json").read_bytes()[:1] == b"{":
        sign(copy)


def no_file(copy: Path, rng: random.Random, number: int) -> None:
    """Put a pipe, a folder, an endless device or nothing in the place of a file."""
    file = rng.choice(sorted(copy.iterdir()))
    file.unlink()
    rng.choice([os.mkfifo, os.mkdir, functools.partial(os.symlink, "/dev/zero"), str])(file)


def hostile_value(copy: Path, rng: random.Random, number: int) -> None:
    """Replace a value of the configuration by one of any type."""

    def change(values: dict[str, Any]) -> None:
        owner, key = rng.choice(list(places(values)))
        if rng.random() < 0.1 and isinstance(owner, dict):
            owner.pop(key)
        else:
            owner[key] = rng.choice(HOSTILE)

    sign(copy, change)


def hostile_text(copy: Path, rng: random.Random, number: int) -> None:
    """Replace some characters of the configuration."""
    data = bytearray((copy / "config.json").read_bytes())
    for _ in range(rng.choice([1, 1, 5, 50])):
        data[rng.randrange(len(data))] = rng.choice(b'{}[]",:\\0-eE.\xff\x00 n')
    (copy / "config.json").write_bytes(data)


def hostile_header(copy: Path, rng: random.Random, number: int) -> None:
    """Replace a value, a name or the length of a header."""
    file = tensor_file(copy, rng)
    text, tensors = header_of(file.read_bytes())
    header = json.loads(text)
    length = None
    if rng.random() < 0.15:
        length = rng.choice([0, 1, 8, len(text) + 1, 2**22, 2**31, 2**63, 2**64 - 1])
    else:
        owner, key = rng.choice(list(places(header)))
        if rng.random() < 0.2 and isinstance(owner, dict):
            name = rng.choice(["../x", "", "x" * 300, "\x00", "__metadata__", "mean", "axes"])
            owner[name] = owner.pop(key)
        else:
            owner[key] = rng.choice([*HOSTILE, "F64", "F16", "I64", "U8", "BOOL", "f32"])
    file.write_bytes(with_header(json.dumps(header).encode(), tensors, length))
    sign(copy)


KINDS: list[Callable[[Path, random.Random, int], None]] = [
    *(truncated, header_flipped, truncated, hostile_value, truncated, hostile_header),
    *(header_flipped, hostile_value, tensors_flipped, swapped, hostile_text, tensors_changed),
    *(no_file, swapped),
]


def places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (object or list, key)."""
    for key in list(values) if isinstance(values, dict) else range(len(values)):
        yield values, key
        if isinstance(values[key], (dict, list)):
            yield from places(values[key])


def tensor_file(copy: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(copy.glob("*.safetensors")))


def prepare(folder: Path) -> None:
    make(folder)
    for number in range(WARM):
        case(folder, number)
