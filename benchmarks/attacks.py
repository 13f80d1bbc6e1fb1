"""Attacks on the installed package; prints a table of outcomes, and exits with 1 after a failure.

    python benchmarks/attacks.py checkpoints    # 5,000 damaged copies of a small checkpoint
    python benchmarks/attacks.py pickles        # 2,000 pickles under every name that is read
    python benchmarks/attacks.py kills          # 40 times SIGKILL, in fit, bank, train and pull
    python benchmarks/attacks.py roundtrips     # 100,000 images, through the bundled flows

`--count 1 --seed S` repeats case S. A damaged checkpoint (tests/soak/attacks/checkpoint_fuzz.py) is
refused in one line, or holds what its files hold. Nothing of a pickle runs. After a kill `--out` is
missing, the flow before or the whole new one, or a bank or a run that the same command continues to
the result of a calm run, bit for bit. `pull` reads a cache. At strength 0 nothing changes.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import BytesIO, StringIO
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

ROOMS = ("tests", "tests/flows", "tests/soak/attacks")
sys.path += [str(Path(__file__).parents[1] / room) for room in ROOMS]
from attack_tools import run_cases  # noqa: E402
from autoencoder_tools import make_autoencoder  # noqa: E402
from checkpoint_fuzz import make, read_damaged  # noqa: E402
from checkpoint_tools import sign  # noqa: E402
from hostile_data import classes  # noqa: E402

HOME = Path(tempfile.mkdtemp(prefix="nfaug-attacks-"))
DATA, FLOW, COPY, OUT, MARKER = (HOME / x for x in ("data", "one", "copied", "out", "ran"))
COUNTS = {"checkpoints": 5000, "pickles": 2000, "kills": 40, "roundtrips": 100_000}
SMALL = "--flow.steps=[1,1] --flow.blocks=[1,1] --pca.rank=4 --batch-size=8 --epochs=12"
COMMANDS = {
    "fit": f"fit --flow={FLOW} --data={DATA} --rank=3 --overwrite".split(),
    "bank": f"bank --flow={FLOW} --data={DATA} --variants=30 --batch-size=2".split(),
    "train": f"train --data={DATA} {SMALL} --checkpoint-minutes=1e-9".split(),
    "pull": ["pull", "owner/flow", "--overwrite"],
}
WEIGHTS, STEP = "diffusion_pytorch_model.safetensors", "state/step-000000036"
READ = {  # by folder, the names under which something is read, or might be
    "one": "config.json model.safetensors gaussians.safetensors pca.safetensors README.md "
    "pca-00001-of-00001.safetensors pytorch_model.bin samples.png model.safetensors.index.json",
    "bank": "manifest.json variants.npy applied.npy hashes.npy labels.npy paths.npy",
    "vae": f"config.json {WEIGHTS} {WEIGHTS}.index.json diffusion_pytorch_model.bin",
    "data": "cat/0.png x.tar 0.npz 0.parquet classnames.txt metadata.csv "
    "train-images-idx3-ubyte train-images-idx3-ubyte.gz",
    "train": f"train.yaml config.json log.csv {STEP}/state.json {STEP}/state.safetensors",
}


class Evil:
    def __reduce__(self) -> Any:
        return open, (str(MARKER), "w")


def pickles(_: Path, seed: int) -> str:
    rng = random.Random(seed)
    shutil.rmtree(COPY, ignore_errors=True)
    folder, data, way = rng.choice([*READ]), BytesIO(), rng.randrange(6)
    shutil.copytree(made(folder), COPY)
    name, evil = rng.choice(READ[folder].split()), np.array([Evil()], object)
    if way < 3:
        torch.save({"state_dict": Evil()}, data, _use_new_zipfile_serialization=way == 1)
    elif way < 4:
        pickle.dump(Evil(), data, protocol=rng.randrange(6))
    else:
        np.savez(data, images=evil, labels=evil) if way == 4 else np.save(data, evil)
    (COPY / name).write_bytes(data.getvalue())
    if folder == "one" and name != "config.json":
        sign(COPY)  # as an attacker does
    path = f"hfds/{COPY}" if seed % 40 == 0 else rng.choice([COPY, COPY / name])
    read = {
        "one": lambda: nfaug.load(COPY),
        "vae": lambda: open_autoencoder(COPY),
        "bank": lambda: list(BankDataset(open_dataset(DATA), COPY, p=1.0)),
        "data": lambda: list(
            open_dataset(path, image_size=8, on_error=("raise", "skip")[seed % 2])
        ),
        "train": lambda: quiet(["train", "--resume", str(COPY)]),
    }
    try:
        outcome = read[folder]()
    except (ValueError, OSError) as error:
        outcome = error
    assert not MARKER.exists(), f"{folder}/{name} was unpickled"
    return f"{folder}: {f'code {outcome}' if folder == 'train' else type(outcome).__name__}"


@functools.cache
def made(name: str) -> Path:
    if name in COMMANDS:
        quiet([*COMMANDS[name], "--out", str(HOME / name)])
    return make_autoencoder(HOME / "vae", "AutoencoderTiny") if name == "vae" else HOME / name


def quiet(words: list[str]) -> int:
    with suppress(SystemExit), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
        return command(words)
    return 2


def kills(_: Path, seed: int) -> str:
    rng, name = random.Random(seed), [*COMMANDS][seed % len(COMMANDS)]
    (expected, seconds), whole = calm(name), name in ("fit", "pull")  # these write all at once
    while True:
        shutil.rmtree(OUT, ignore_errors=True)
        if whole and rng.random() < 0.5:
            shutil.copytree(HOME / "two", OUT)
        child = start(name)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if status := os.waitpid(child, 0)[1]:  # else it had ended
            break
    assert status == signal.SIGKILL, "it failed"
    if (OUT / "config.json").exists() or (whole and OUT.exists()):
        nfaug.load(OUT)
    if name == "bank" and OUT.exists() and result() != expected:
        with suppress(ValueError):  # it says that it is not complete
            raise AssertionError(f"a part is read: {Bank(OUT)}")
    assert os.waitpid(start(name), 0)[1] == 0, "it does not go on"
    assert result() == expected, "another result"
    return f"{name}: killed, then the same to the bit"


@functools.cache
def calm(name: str) -> tuple[dict[str, str], float]:
    began = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    assert os.waitpid(start(name), 0)[1] == 0
    return result(), time.monotonic() - began


def start(name: str) -> int:
    if child := os.fork():
        return child
    words = [*COMMANDS[name], f"--out={OUT}"]
    words = ["train", f"--resume={OUT}"] if (OUT / "train.yaml").exists() else words
    with suppress(BaseException):
        os._exit(quiet(words))
    os._exit(1)


def result() -> dict[str, str]:
    files = [file for file in sorted(OUT.iterdir()) if file.suffix in (".safetensors", ".npy")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("attack", choices=[*COUNTS])
    parser.add_argument("--count", type=int, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case")
    options = parser.parse_args(arguments)
    count, first = options.count or COUNTS[options.attack], options.seed
    if options.attack == "roundtrips":
        return int(exactness.main([f"--count={count}", f"--seed={first}"]) > 0)
    torch.set_num_threads(1)
    make(HOME)
    classes(DATA, ("cat", "dog", "eel"), 8)
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(HOME / "hub"), True
    cached, commit = HOME / "hub" / "models--owner--flow", "0" * 40
    shutil.copytree(FLOW, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    Path(pickle.loads(pickle.dumps(Evil())).name).unlink()
    case = {"checkpoints": read_damaged, "pickles": pickles, "kills": kills}[options.attack]
    for seed in range(40 if case is pickles else 0):  # imports much, before memory is limited
        pickles(HOME, seed)
    found = run_cases(HOME, range(first, first + count), case)
    shutil.rmtree(HOME)
    rows = [*sorted(found["outcomes"].items()), *((f"FAILURE, {x}", 1) for x in found["wrong"])]
    print("\n".join(f"| {a} | {b} |" for a, b in [(options.attack, "cases"), ("---",) * 2, *rows]))
    return int(bool(found["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
