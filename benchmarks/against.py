"""Is this checkout slower than another one?

    git worktree add --detach ../base f6c21f8
    python benchmarks/against.py ../base

CPU seconds of one thread for encoding and decoding 64 images, one call of `NFAugment` on 64 images,
a bank of 20 variants of 100 images, a fit of 400 images, and a training run of about 200 steps.
With builtin:pixels: calls at 32, 64 and 224 pixels, a fit and a bank at 224; fitted at 32 pixels,
and with a flow: calls on images of 224 pixels.
The two checkouts take turns, each time in a new process; a ratio is the median over rounds of this
checkout's time over the other's, with its smallest and largest value.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# Run in a process of its own, with names that both checkouts have.
MEASURE = """
import json, statistics, sys, time
import torch
import nfaug
from nfaug.bank.make import make_bank
from nfaug.data.open import open_dataset
from nfaug.training import TrainConfig, train

torch.set_num_threads(1)


def seconds(job, times):
    found = []
    for _ in range(times):
        began = time.process_time()
        job()
        found.append(time.process_time() - began)
    return statistics.median(found[1:] or found)  # the first of several warms up


digits = open_dataset("digits", image_size=28, channels=1)
labels = torch.arange(64) % 10
images = torch.stack([digits[i][0] for i in range(64)])
if images.dtype != torch.uint8:
    images = (images * 255).to(torch.uint8)
checkpoint = nfaug.fit(nfaug.load("builtin:fashion-mnist").flow, digits, progress=False)
flow = checkpoint.flow.freeze()
nfa = nfaug.NFAugment(checkpoint, p=1.0, gate=None)
few = torch.utils.data.Subset(digits, range(100))
of_ten = torch.arange(400) % 10
levels = torch.rand(10, 3, 224, 224)[of_ten] / 2 + torch.rand(400, 3, 224, 224) / 2
pictures = torch.utils.data.TensorDataset((levels * 255).to(torch.uint8), of_ten)
fit_pixels = lambda: nfaug.fit("builtin:pixels", pictures, progress=False)
pixels = fit_pixels()
thirty = torch.utils.data.Subset(pictures, range(30))
with torch.no_grad():
    z = flow.encode(images)[0]
    found = {
        "encode 64": seconds(lambda: flow.encode(images), 6),
        "decode 64": seconds(lambda: flow.decode(z), 6),
        "NFAugment, 64 images": seconds(lambda: nfa(images, labels), 6),
    }
with torch.no_grad():
    for mix in ("axis", "pair", "regions"):
        half = nfaug.NFAugment(pixels, p=0.5, mix=mix)
        job = lambda: half(levels[:32], of_ten[:32])
        found[f"pixels, {mix}, 32 images of 224 pixels"] = seconds(job, 8)
for side in (64, 32):
    small = torch.nn.functional.interpolate(
        levels, (side, side), mode="bilinear", antialias=True
    )
    tiny = torch.utils.data.TensorDataset((small * 255).to(torch.uint8), of_ten)
    half = nfaug.NFAugment(nfaug.fit("builtin:pixels", tiny, progress=False), p=0.5)
    job = lambda: half(tiny.tensors[0][:64], of_ten[:64])
    with torch.no_grad():
        found[f"pixels, 64 images of {side} pixels"] = seconds(job, 8)
found["builtin:rgb32, a fit of 400 images"] = seconds(
    lambda: nfaug.fit("builtin:rgb32", tiny, progress=False), 1
)
for name in ("builtin:pixels", "builtin:rgb32"):
    enlarged = nfaug.NFAugment(nfaug.fit(name, tiny, progress=False), p=1.0)
    job = lambda: enlarged(levels[:32], of_ten[:32])
    with torch.no_grad():
        found[f"{name} of 32 pixels, 32 images of 224 pixels"] = seconds(job, 8)
found["pixels, a fit of 400 images of 224 pixels"] = seconds(fit_pixels, 1)
bank = lambda: make_bank(
    pixels, thirty, sys.argv[1] + "/pixels", variants=20, overwrite=True, progress=False
)
found["pixels, a bank of 20 variants of 30 images"] = seconds(bank, 1)
bank = lambda: make_bank(
    checkpoint, few, sys.argv[1] + "/bank", variants=20, overwrite=True, progress=False
)
found["bank, 20 variants of 100 images"] = seconds(bank, 1)
config = TrainConfig(epochs=8, batch_size=64, seed=0)
found["training, 8 epochs of 27 steps"] = seconds(
    lambda: train(digits, config=config, progress=False), 1
)
print(json.dumps(found))
"""


def measure(checkout: Path) -> dict[str, float]:
    """CPU seconds of every job in one checkout."""
    with tempfile.TemporaryDirectory() as folder:
        # An older checkout has training/ and hub/ outside of nfaug/.
        package = Path(folder) / "path" / "nfaug"
        package.mkdir(parents=True)
        rooms = [*(checkout / "nfaug").iterdir(), checkout / "training", checkout / "hub"]
        for room in rooms:
            if not (package / room.name).exists():
                (package / room.name).symlink_to(room.resolve())
        ran = subprocess.run(
            [sys.executable, "-c", MEASURE, folder],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"},
        )
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    rounds = []
    for number in range(options.rounds):
        order = [here, options.base.resolve()][:: 1 if number % 2 else -1]
        taken = {checkout: measure(checkout) for checkout in order}
        rounds.append((taken[here], taken[options.base.resolve()]))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print("| job | this checkout, CPU s | the other | ratio | lowest to highest |")
    print("|---|---|---|---|---|")
    for job in rounds[0][0]:
        ours, theirs = ([pair[side][job] for pair in rounds] for side in (0, 1))
        ratios = [one / two for one, two in zip(ours, theirs, strict=True)]
        print(
            f"| {job} | {statistics.median(ours):.3f} | {statistics.median(theirs):.3f} | "
            f"{statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
        )


if __name__ == "__main__":
    main()
