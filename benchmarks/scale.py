"""What each of several processes reads, sends and keeps in memory, in a fit, a bank and a training.

    python benchmarks/scale.py
    python benchmarks/scale.py --parts fit --classes 100 --per-class 60 --side 64

- fit: `nfaug fit` of builtin:pixels on two processes; bank: `nfaug bank` on one, of a flow
  of three classes; train: one epoch of a small flow on two processes; latents: the same on the
  latents of an autoencoder with random weights (it needs diffusers).
- decoded: image files that a process decodes; read: their bytes, as often as they are read;
  encoded: images that an autoencoder encodes.
- sent: bytes that a process gives to collectives, without the gradients of training.
- peak: the largest share of memory beyond that before the command (PSS: a page that several
  processes map counts in parts), sampled every 20 ms.

`--against FOLDER` runs the same with another checkout in turns. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

PARTS = ("fit", "bank", "train", "latents")
FIGURES = ("decoded", "read MB", "encoded", "sent MB", "peak MB", "seconds")
SMALL = ["--flow.steps=[1,1]", "--flow.blocks=[1,1]", "--flow.width=[8,8]", "--epochs=1"]


def main(arguments: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        print(json.dumps(measure(json.loads(options.child))))
        return
    checkouts = [Path(__file__).parents[1]]
    if options.against is not None:
        checkouts.insert(0, options.against)
    print(f"| part | checkout | process | {' | '.join(FIGURES)} |")
    print("|---" * (3 + len(FIGURES)) + "|")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        data = home / "data"
        write_images(data, options.classes, options.per_class, options.side)
        few = home / "few"
        few.mkdir()
        for folder in sorted(data.iterdir())[:3]:
            (few / folder.name).symlink_to(folder)
        if "latents" in options.parts:
            from diffusers import AutoencoderTiny

            narrow = {
                "encoder_block_out_channels": (8,) * 4,
                "decoder_block_out_channels": (8,) * 4,
            }
            AutoencoderTiny(**narrow).save_pretrained(home / "autoencoder")
        for part in options.parts:
            for checkout in checkouts:
                out = home / f"{part}-{checkouts.index(checkout)}"
                words, count = command(part, data, few, home, out)
                for rank, figures in enumerate(run(words, count, checkout)):
                    cells = [f"{figures[figure]:.4g}" for figure in FIGURES]
                    print(
                        f"| {part} | {checkout.name} | {rank} | {' | '.join(cells)} |", flush=True
                    )


def write_images(root: Path, classes: int, per_class: int, side: int) -> None:
    """PNG files of smooth random images in a folder for each class."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"{label:04}"
        folder.mkdir(parents=True)
        for number in range(per_class):
            small = Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8))
            small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}.png")


def command(part: str, data: Path, few: Path, home: Path, out: Path) -> tuple[list[str], int]:
    """The words of a command, and the number of its processes."""
    if part == "fit":
        flow = ["--checkpoint", "builtin:pixels"]
        return ["fit", *flow, "--data", str(data), "--out", str(out), "--device", "cpu"], 2
    if part == "bank":
        flow = ["--checkpoint", str(home / "flow")]
        words = ["fit", "--checkpoint", "builtin:rgb32", "--data", str(few), "--out", flow[1]]
        run([*words, "--overwrite"], 1, Path(__file__).parents[1])
        small = ["--image-size", "32", "--variants", "1", "--workers", "0", "--device", "cpu"]
        return ["bank", *flow, "--data", str(few), "--out", str(out), *small], 1
    words = ["train", "--data", str(data), "--out", str(out), *SMALL, "--device=cpu"]
    words += ["--tensorboard=false", "--pictures-every=0", "--pca.rank=8", "--batch-size=256"]
    if part == "latents":
        words += ["--autoencoder", str(home / "autoencoder")]
    return words, 2


def run(words: list[str], count: int, checkout: Path) -> list[dict[str, float]]:
    """Run a command on several processes; return what each measured."""
    options = (checkout / "src" / "nfaug" / "commands" / "common.py").read_text()
    if '"--checkpoint"' not in options:  # a checkout in which it is --flow
        words = ["--flow" if word == "--checkpoint" else word for word in words]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        env = dict(os.environ, PYTHONPATH=str(checkout / "src"), OMP_NUM_THREADS="1")
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if count > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            env |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        line = [sys.executable, __file__, "--child", json.dumps(words)]
        children.append(subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True))
    results = []
    for child in children:
        printed, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"{words} failed")
        results.append(json.loads(printed.splitlines()[-1]))
    return results


def measure(words: list[str]) -> dict[str, float]:
    """Run a command in this process, and count."""
    import torch

    import nfaug.training.trainer  # noqa: F401 - imported before memory is measured
    from nfaug.cli import main as nfaug_main
    from nfaug.data import readers
    from nfaug.data.sources import folders
    from nfaug.flows.latent_codec import LatentCodec

    figures = dict.fromkeys(FIGURES, 0.0)
    decode = readers.decode_image
    read = readers.read_part
    prepare = LatentCodec.prepare

    def decode_image(*given: Any) -> Any:
        figures["decoded"] += 1
        return decode(*given)

    def read_part(*given: Any) -> bytes:
        content = read(*given)
        figures["read MB"] += len(content) / 1e6
        return content

    def prepared(self: Any, images: Any) -> Any:
        if images.dtype == torch.uint8:
            figures["encoded"] += len(images)
        return prepare(self, images)

    readers.decode_image = decode_image
    folders.read_part = read_part
    LatentCodec.prepare = prepared  # type: ignore[method-assign]
    count_collectives(figures)
    before = share()
    began = time.monotonic()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            figures["peak MB"] = max(figures["peak MB"], (share() - before) / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        code = nfaug_main(words)
    finally:
        ended.set()
        watcher.join()
    figures["seconds"] = time.monotonic() - began
    if code:
        raise SystemExit(code)
    return figures


def count_collectives(figures: dict[str, float]) -> None:
    """Add the bytes that this process gives to each collective."""
    import torch.distributed as dist

    def counted(name: str, size: Any) -> None:
        call = getattr(dist, name)

        def wrapper(*given: Any, **settings: Any) -> Any:
            if dist.get_world_size() > 1:
                figures["sent MB"] += size(*given, **settings) / 1e6
            return call(*given, **settings)

        setattr(dist, name, wrapper)

    others = lambda: dist.get_world_size() - 1  # noqa: E731
    counted("all_gather_object", lambda items, item, *_: len(pickle.dumps(item)) * others())
    counted(
        "gather_object",
        lambda item, *_, **settings: len(pickle.dumps(item)) * (dist.get_rank() > 0),
    )
    counted("all_reduce", lambda tensor, *_, **__: tensor.nbytes * others())
    counted(
        "broadcast", lambda tensor, src=0, **_: tensor.nbytes * others() * (dist.get_rank() == src)
    )


def share() -> int:
    """This process's share of memory, in bytes."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError("no Pss in smaps_rollup")


if __name__ == "__main__":
    main()
