"""Convert weights of the paper's released implementation to a checkpoint directory.

    python scripts/convert_released.py released.safetensors DIR --classes cat dog

The released files are pickles, which this package never reads. Export the weights first, where the
released code and Lightning are installed:

    import torch
    from safetensors.torch import save_file

    # If torch refuses the file and you trust it, weights_only=False runs what the pickle holds.
    state = torch.load("released.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    copies = {name: value.clone().contiguous() for name, value in state.items()}
    save_file(copies, "released.safetensors")

Then fit the flow to your images with `nfaug fit`, since released files hold no PCA axes. See
docs/how-to/papers-flows.md.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nfaug import Checkpoint, ClassGaussians, Flow, FlowConfig, MefConfig
from nfaug.checkpoint.checkpoint import CheckpointConfig
from nfaug.io.tensors import read_tensors

ATTENTION_HEADS = 6  # of the released flows with attention; no tensor of theirs tells it
PREFIXES = ("ema.ema_model.flow.", "ema.ema_model.", "flow.", "")  # the first match wins


def convert_state(
    state: Mapping[str, Tensor], attention_heads: int = ATTENTION_HEADS
) -> tuple[Flow, ClassGaussians | None]:
    """Return the flow, of the moving average if there is one, and the class gaussians.

    Weights with self-attention are read as those of `attention_heads` heads.
    """
    found = [p for p in PREFIXES if any(key.startswith(f"{p}blocks.") for key in state)]
    if not found:
        raise ValueError(f"no flow found among {len(state)} tensors, such as {[*state][:3]}")
    own = {k.removeprefix(found[0]): v for k, v in state.items() if k.startswith(found[0])}
    weights = {key: value for key, value in own.items() if key.startswith("blocks.")}
    flow = Flow.from_tensors(infer_config(weights, attention_heads), weights).eval()
    # Weights are averaged, the Gaussians of a fixed point are solved: where a file has two copies,
    # those beside the weights that were trained are the ones that training used.
    for prefix in ("flow.", "", found[0]):
        if f"{prefix}mu_arr.0" in state:
            return flow, read_gaussians(state, prefix, flow.config.dim)
    return flow, None


def infer_config(weights: Mapping[str, Tensor], attention_heads: int) -> FlowConfig:
    """Infer the shape of a flow from the shapes of its weights (names as in `Flow.state_dict`)."""
    steps = Counter(level for level, _ in {tuple(name.split(".")[1:3]) for name in weights})
    blocks, width, low = [], [], {}
    for level in range(len(steps)):
        net = f"blocks.{level}.0.couplinglayer.net."
        layers = [name.removeprefix(net) for name in weights if name.startswith(f"{net}layers.")]
        blocks.append(max(int(name.split(".")[1]) for name in layers))
        width.append(len(weights[f"{net}layers.0.conv.weight"]))
        n = len(weights[f"blocks.{level}.0.actnorm.scale"]) // 2
        out = len(weights[f"{net}out_layer.weight"])
        if out != n * (n + 1):  # low rank: (2k + 1)n output channels
            low[n] = (out // n - 1) // 2
    channels, height, broad = weights["blocks.0.0.actnorm.scale"].shape
    attention = any("net.attention_block_after." in name for name in weights)
    low_rank = {"low_rank_above": min(low) - 1, "rank": min(low.values())} if low else {}
    backbone = MefConfig(
        steps=tuple(steps[str(level)] for level in range(len(steps))),
        blocks=tuple(blocks),
        width=tuple(width),
        attention_heads=attention_heads if attention else 0,
        **low_rank,
    )
    return FlowConfig(channels // 4, (2 * height, 2 * broad), backbone)


def read_gaussians(state: Mapping[str, Tensor], prefix: str, dim: int) -> ClassGaussians:
    """Read the means and diagonal scales of classes 0..K-1."""
    means, scales = [], []
    while (mean := state.get(f"{prefix}mu_arr.{len(means)}")) is not None:
        scale = state[f"{prefix}scale_tril_arr.{len(means)}"]
        if scale.dim() == 2 and torch.equal(scale, scale.diagonal().diag()):
            scale = scale.diagonal()
        if mean.numel() != dim or scale.numel() != dim:
            raise ValueError(f"the gaussian of class {len(means)} is not diagonal")
        means.append(mean.double().flatten())
        scales.append(scale.double().flatten())
    return ClassGaussians(torch.stack(means), torch.stack(scales).square())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="the exported .safetensors file")
    parser.add_argument("out", type=Path, help="the checkpoint directory to write")
    parser.add_argument("--classes", nargs="*", help="names in label order")
    parser.add_argument(
        "--attention-heads",
        type=int,
        default=ATTENTION_HEADS,
        help="heads of the self-attention, if the flow has it (default: %(default)s); another "
        "number of heads gives another flow, without an error",
    )
    args = parser.parse_args()
    flow, gaussians = convert_state(read_tensors(args.file), args.attention_heads)
    names = args.classes or [str(y) for y in range(gaussians.num_classes if gaussians else 0)]
    made = {"kind": "released"} if gaussians else {}
    config = CheckpointConfig(flow.config, tuple(names), gaussians=made)
    print(Checkpoint(flow, config, gaussians).save(args.out))


if __name__ == "__main__":
    main()
