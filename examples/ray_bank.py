"""Make a bank on a Ray cluster: each actor keeps the flow and makes shards of the bank.

    pip install -e ".[ray]"  # in your clone of nfaug
    python examples/ray_bank.py --checkpoint my-nfa --data my-images --out my-bank \
        --image-size 64 --shards 8 --actors 2

Shards that are complete are not made again, so the same command continues. It prints the whole
bank, such as: Bank('my-bank', 20000 images, 4 variants each). On CPUs, with the same number of
threads, it is bit for bit the bank that `nfaug bank` makes. With `--gpus 1` each actor computes on
a GPU of its own, with `--gpus 0.5` two share one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ray

import nfaug
from nfaug import open_dataset
from nfaug.bank import Bank, make_bank


class ShardMaker:
    """An actor: it loads the flow and opens the data once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        # Ray shows each actor the GPUs that are reserved for it.
        self.checkpoint = nfaug.load(args.checkpoint).to("cuda" if args.gpus else "cpu")
        channels = self.checkpoint.flow.codec.channels
        self.data = open_dataset(args.data, image_size=args.image_size, channels=channels)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        args, made = self.args, []
        for index in batch["id"].tolist():
            shard = (index, args.shards)
            options = {"variants": args.variants, "batch_size": args.batch_size, "shard": shard}
            bank = make_bank(self.checkpoint, self.data, args.out, progress=False, **options)
            made.append(len(bank))
        return {"id": batch["id"], "images": made}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True, help="a path that every node can read")
    parser.add_argument("--out", required=True, help="a path that every node can write to")
    parser.add_argument("--image-size", type=int, help="to which your script resizes images")
    parser.add_argument("--variants", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each actor")
    args = parser.parse_args()
    args.out = str(Path(args.out).absolute())
    items = [{"id": index} for index in range(args.shards)]
    shards = ray.data.from_items(items, override_num_blocks=args.shards).map_batches(
        ShardMaker,
        fn_constructor_args=(args,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=args.actors),
        num_gpus=args.gpus or None,
    )
    print(f"{sum(row['images'] for row in shards.take_all())} images in {args.shards} shards")
    print(Bank(args.out))


if __name__ == "__main__":
    main()
