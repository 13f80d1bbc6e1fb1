"""Attacks on the installed package; prints a table of outcomes, and exits with 1 after a failure.

    python benchmarks/attacks.py checkpoints    # 5,000 damaged copies of a small checkpoint
    python benchmarks/attacks.py pickles        # 2,000 pickles under every name that is read
    python benchmarks/attacks.py kills          # 40 times SIGKILL, in fit, bank, train and pull
    python benchmarks/attacks.py roundtrips     # 100,000 images, through the bundled flows

`--count 1 --seed S` repeats case S. A damaged checkpoint (tests/soak/attacks/checkpoint_fuzz.py) is
refused in one line, or holds what its files hold. Nothing of a pickle runs. After a kill `--out` is
missing, the flow before, the whole new one or what the same command continues, and its result is
that of a calm run to the bit; `pull` reads a cache. NFAugment at strength 0 gives back every image;
those that the flow alone changes are counted (see exactness.py).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import exactness
import numpy as np
import torch
from huggingface_hub import constants

import nfaug
from nfaug.bank import Bank, BankDataset
from nfaug.cli import main as command
from nfaug.data.open import open_dataset
from nfaug.flows.autoencoder import open_autoencoder
from nfaug.training import train  # noqa: F401 - once, and not in every child process

TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(TESTS), str(TESTS / "soak" / "attacks")]
from attack_tools import run_cases  # noqa: E402
from checkpoint_fuzz import make, read_damaged  # noqa: E402
from checkpoint_tools import sign  # noqa: E402
from hostile_data import classes  # noqa: E402

HOME = Path(tempfile.mkdtemp(prefix="nfaug-attacks-"))
DATA, FLOW, COPY, OUT, MARKER = (HOME / x for x in ("data", "whole", "copied", "out", "ran"))
COUNTS = {"checkpoints": 5000, "pickles": 2000, "kills": 40, "roundtrips": 100_000}
ON, TO = ["--data", str(DATA)], ["--out", str(OUT)]
SMALL = ["--flow.steps=[1,1]", "--flow.blocks=[1,1]", "--pca.rank=4"]
COMMANDS = {
    "fit": ["fit", "--flow", str(FLOW), "--rank=3", "--overwrite", *ON],
    "bank": ["bank", "--flow", str(FLOW), "--variants=30", "--batch-size=2", *ON],
    "train": ["train", "--epochs=12", "--checkpoint-minutes=1e-9", "--batch-size=8", *SMALL, *ON],
    "pull": ["pull", "owner/flow", "--overwrite"],
}
WEIGHTS = "diffusion_pytorch_model"
READ = {  # by folder, the names under which something is read, or might be
    "whole": "config.json model.safetensors gaussians.safetensors pca.safetensors README.md "
    "pca-00001-of-00001.safetensors pytorch_model.bin samples.png model.safetensors.index.json",
    "bank": "manifest.json variants.npy applied.npy hashes.npy labels.npy paths.npy",
    "vae": f"config.json {WEIGHTS}.safetensors {WEIGHTS}.safetensors.index.json {WEIGHTS}.bin",
    "data": "cat/0.png x.tar 0.npz 0.parquet classnames.txt metadata.csv _info.json "
    "train-images-idx3-ubyte train-labels-idx1-ubyte train-images-idx3-ubyte.gz",
    "train": "train.yaml config.json {step}/state.json {step}/state.safetensors log.csv",
}


class Evil:
    """Its pickle makes a file when it is loaded."""

    def __reduce__(self) -> Any:
        return open, (str(MARKER), "w")


def pickles(_: Path, seed: int) -> str:
    rng = random.Random(seed)
    shutil.rmtree(COPY, ignore_errors=True)
    folder, data, way = rng.choice([*READ]), io.BytesIO(), rng.randrange(5)
    shutil.copytree(made(folder), COPY)
    step = next(iter(sorted(COPY.glob("state/step-*"))[-1:]), COPY)
    name = rng.choice(READ[folder].split()).format(step=step)
    if way == 0:
        np.save(data, np.array([Evil()], dtype=object), allow_pickle=True)
    elif way == 1:
        np.savez(data, images=np.array([Evil()], dtype=object), labels=np.arange(1))
    elif way == 2:
        pickle.dump(Evil(), data, protocol=rng.randrange(6))
    else:
        torch.save({"state_dict": Evil()}, data, _use_new_zipfile_serialization=way == 3)
    (COPY / name).write_bytes(data.getvalue())
    if folder == "whole" and name != "config.json":
        sign(COPY)  # an attacker knows the format
    outcome = "opened"
    try:
        if folder == "whole":
            nfaug.load(COPY)
        elif folder == "vae":
            open_autoencoder(COPY)
        elif folder == "bank":
            list(BankDataset(open_dataset(DATA), COPY, p=1.0))
        elif folder == "data":
            path = f"hfds/{COPY}" if seed % 40 == 0 else rng.choice([COPY, COPY / name])
            list(open_dataset(path, image_size=8, on_error=rng.choice(["raise", "skip"])))
        else:
            outcome = f"code {quiet(['train', '--resume', str(COPY)])}"
    except (ValueError, OSError, ModuleNotFoundError) as error:
        outcome = type(error).__name__
    assert not MARKER.exists(), f"{folder}/{name} was unpickled"
    return f"{folder}: {outcome}"


@functools.cache
def made(name: str) -> Path:
    """A folder of this kind."""
    if name in COMMANDS:
        quiet([*COMMANDS[name], "--out", str(HOME / name)])
    elif name == "vae":
        from diffusers import AutoencoderTiny

        AutoencoderTiny(encoder_block_out_channels=(4,) * 4).save_pretrained(HOME / name)
    return HOME / name


def quiet(words: list[str]) -> int:
    """The exit code of a command."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return command(words)
        except SystemExit as stop:
            return int(stop.code or 0)


def kills(_: Path, seed: int) -> str:
    rng, name = random.Random(seed), [*COMMANDS][seed % len(COMMANDS)]
    expected, seconds = calm(name)
    whole, killed = name in ("fit", "pull"), 0  # it is written at once
    if whole and rng.random() < 0.5:
        shutil.copytree(HOME / "two", OUT)
    while not killed:
        child = start(name)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        killed = os.waitpid(child, 0)[1]
        if (OUT / "config.json").exists() or (whole and OUT.exists()):
            nfaug.load(OUT)
        if name == "bank" and OUT.exists() and result() != expected:
            with contextlib.suppress(ValueError):  # it says that it is not complete
                raise AssertionError(f"a part is read: {Bank(OUT)}")
    assert os.waitpid(start(name), 0)[1] == 0, "it does not go on"
    assert result() == expected, "another result"
    shutil.rmtree(OUT)
    return f"{name}: killed, then the same to the bit"


@functools.cache
def calm(name: str) -> tuple[dict[str, str], float]:
    """The result of a command that nothing disturbs, and its seconds."""
    began = time.monotonic()
    assert os.waitpid(start(name), 0)[1] == 0
    seconds, found = time.monotonic() - began, result()
    shutil.rmtree(OUT)
    return found, seconds


def start(name: str) -> int:
    """Run a command in a child process; a run that has begun is resumed."""
    if child := os.fork():
        return child
    begun = (OUT / "train.yaml").exists()
    os._exit(quiet(["train", "--resume", str(OUT)] if begun else [*COMMANDS[name], *TO]))


def result() -> dict[str, str]:
    files = [file for file in sorted(OUT.iterdir()) if file.suffix in (".safetensors", ".npy")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def prepare() -> None:
    """Checkpoints, images of their classes, and a checkpoint in the cache of the Hub's client."""
    make(HOME)
    classes(DATA, ("cat", "dog", "eel"), 8)
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(HOME / "hub"), True
    cached = HOME / "hub" / "models--owner--flow"
    shutil.copytree(FLOW, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("attack", choices=[*COUNTS])
    parser.add_argument("--count", type=int, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case")
    options = parser.parse_args(arguments)
    count = options.count or COUNTS[options.attack]
    if options.attack == "roundtrips":
        return int(exactness.main([f"--count={count}", f"--seed={options.seed}"]) > 0)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    prepare()
    case = {"checkpoints": read_damaged, "pickles": pickles, "kills": kills}[options.attack]
    for seed in range(40 if case is pickles else 0):  # imports much, which is not counted
        pickles(HOME, seed)
    found = run_cases(HOME, range(options.seed, options.seed + count), case)
    print(f"| {options.attack} | cases |\n| --- | --- |")
    for outcome, number in sorted(found["outcomes"].items()):
        print(f"| {outcome} | {number:,} |")
    for text in found["wrong"]:
        print(f"| FAILURE, {text} | 1 |")
    shutil.rmtree(HOME)
    return int(bool(found["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
