"""Pickles under every name that is read, or might be. Nothing of a pickle runs."""

from __future__ import annotations

import pickle
import random
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tools.autoencoder import make_autoencoder
from tools.checkpoint import sign
from tools.nfa import write_images

import nfaug
from nfaug.bank import BankDataset
from nfaug.checkpoint.autoencoder import open_autoencoder
from nfaug.data.open import open_dataset

from .commands import command_words, run_command

__all__ = ["case", "prepare"]

WEIGHTS = "diffusion_pytorch_model.safetensors"
STEP = "state/step-000000036"
READ = {  # by folder, the names under which something is read, or might be
    "flow": "config.json model.safetensors gaussians.safetensors pca.safetensors README.md "
    "pca-00001-of-00001.safetensors pytorch_model.bin samples.png model.safetensors.index.json",
    "bank": "manifest.json variants.npy applied.npy hashes.npy labels.npy paths.npy",
    "vae": f"config.json {WEIGHTS} {WEIGHTS}.index.json diffusion_pytorch_model.bin",
    "data": "train/cat/0.png x.tar 0.npz classnames.txt metadata.csv "
    "train-images-idx3-ubyte train-images-idx3-ubyte.gz",
    "train": f"train.yaml config.json log.csv {STEP}/state.json {STEP}/state.safetensors",
}


class Evil:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def prepare(folder: Path) -> None:
    """Make a flow, a bank, an autoencoder, data and a run, and see that a pickle would run."""
    data = folder / "data"
    write_images(data, 8, train=8)
    words = command_words(data, folder / "flow")
    fit = ["fit", "--checkpoint=builtin:pixels", f"--data={data}", "--rank=3"]
    assert run_command([*fit, f"--out={folder / 'flow'}"]) == 0
    for name in ("bank", "train"):
        assert run_command([*words[name], f"--out={folder / name}"]) == 0
    make_autoencoder(folder / "vae")
    marker = folder / "ran"
    pickle.loads(pickle.dumps(Evil(marker)))
    marker.unlink()
    for number in range(40):  # imports much, before memory is limited
        case(folder, number)


def case(folder: Path, number: int) -> str:
    """Put a pickle in the place of a file, and read the folder."""
    rng = random.Random(number)
    copy = folder / "copied"
    shutil.rmtree(copy, ignore_errors=True)
    kind = rng.choice([*READ])
    shutil.copytree(folder / kind, copy)
    name = rng.choice(READ[kind].split())
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_bytes(hostile_bytes(rng, Evil(folder / "ran")))
    if kind == "flow" and name != "config.json":
        sign(copy)  # as an attacker does
    path = rng.choice([copy, copy / name])
    reads: dict[str, Callable[[], object]] = {
        "flow": lambda: nfaug.load(copy),
        "vae": lambda: open_autoencoder(copy),
        "bank": lambda: list(BankDataset(open_dataset(folder / "data"), copy, p=1.0)),
        "data": lambda: list(
            open_dataset(path, image_size=8, on_error=rng.choice(["raise", "skip"]))  # type: ignore[arg-type]
        ),
        "train": lambda: run_command(["train", "--resume", str(copy)]),
    }
    outcome: object
    try:
        outcome = reads[kind]()
    except (ValueError, OSError) as error:
        outcome = error
    assert not (folder / "ran").exists(), f"{kind}/{name} was unpickled"
    return f"{kind}: {f'code {outcome}' if kind == 'train' else type(outcome).__name__}"


def hostile_bytes(rng: random.Random, evil: Evil) -> bytes:
    """A pickle, alone or as torch and numpy store one."""
    data = BytesIO()
    array = np.array([evil], object)
    way = rng.randrange(6)
    if way < 3:
        torch.save({"state_dict": evil}, data, _use_new_zipfile_serialization=way == 1)
    elif way == 3:
        pickle.dump(evil, data, protocol=rng.randrange(6))
    elif way == 4:
        np.savez(data, images=array, labels=array)
    else:
        np.save(data, array)
    return data.getvalue()
