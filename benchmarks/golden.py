"""How near the flow comes to results of the paper's released code, in golden files.

    python benchmarks/golden.py tests/fixtures/golden/mef_*.safetensors

Each file holds weights under their released names, 8-bit images, and what the released code made of
them: latents z, log-determinants, decoded latents (`reconstruction`), and decoded mixtures of
latents (`decoded_mix`). The weights are read as `scripts/convert_released.py` reads them. Columns:

- z: max|dz| / max|z|; log-determinant: the largest relative error.
- values: how many gray levels were decoded; other level: how many of them are not the released
  code's; worst: the largest difference. Near an edge between two levels, rounding may change one:
  far from an edge are those of another level by more than 1e-3 levels.
- inexact: how many of 1,000 images of random pixels do not come back bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from nfaug import Flow

sys.path.append(str(Path(__file__).resolve().parents[1]))
from scripts.convert_released import ATTENTION_HEADS, convert_state

__all__ = ["errors", "main"]

COLUMNS = (
    "file", "form", "z", "log-determinant", "values", "other level", "worst", "far from an edge",
    "inexact of 1,000",
)  # fmt: skip
PREFIX = "state_dict."
EDGE = 1e-3
RANDOM = 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="golden files")
    options = parser.parse_args(arguments)
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for path in options.files:
        flow, figures = read(path)
        for form, each in (("to train", flow), ("frozen", flow.freeze())):
            z, logdet, *levels = errors(each, figures)
            cells = [path.stem, form, f"{z:.1e}", f"{logdet:.1e}", *map(str, levels)]
            cells.append(str(inexact(each)))
            print(f"| {' | '.join(cells)} |")


def read(path: Path) -> tuple[Flow, dict[str, Tensor]]:
    """The flow of a golden file, and the results of the released code."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        heads = json.loads(file.metadata()["config"]).get("attention_heads", ATTENTION_HEADS)
    weights = {}
    for name in [name for name in tensors if name.startswith(PREFIX)]:
        weights[name.removeprefix(PREFIX)] = tensors.pop(name)
    flow, _ = convert_state(weights, heads)
    return flow, tensors


@torch.no_grad()
def errors(flow: Flow, figures: dict[str, Tensor]) -> tuple[float, float, int, int, int, int]:
    """The figures of a row, from that of z on."""
    z, logdet = flow.encode(figures["image"], figures["noise"])
    z_error = (z - figures["z"]).abs().max() / figures["z"].abs().max()
    logdet_error = ((logdet - figures["logdet"]) / figures["logdet"]).abs().max()
    values = other = worst = far = 0
    for latents, decoded in (("z", "reconstruction"), ("latent_mix", "decoded_mix")):
        v = flow.map_back(figures[latents])
        level = flow.codec.to_images(v, quantize=True).long()
        difference = (level - (figures[decoded] * 255).round().long()).abs()
        place = (v + 1) * 128 % 1  # between the level, at 0, and the next one
        is_far = (place > EDGE) & (place < 1 - EDGE)
        values += difference.numel()
        other += int((difference > 0).sum())
        worst = max(worst, int(difference.max()))
        far += int((difference[is_far] > 0).sum())
    return float(z_error), float(logdet_error), values, other, worst, far


@torch.no_grad()
def inexact(flow: Flow) -> int:
    """How many of `RANDOM` images of random pixels change on their way to latents and back."""
    generator = torch.Generator().manual_seed(0)
    shape = (RANDOM, *flow.config.shape)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    wrong = 0
    for batch in images.split(100):
        z, _ = flow.encode(batch)
        wrong += int((flow.decode(z) != batch).flatten(1).any(1).sum())
    return wrong


if __name__ == "__main__":
    main()
