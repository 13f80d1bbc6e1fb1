"""Write a bank's variants as WebDataset shards, for training scripts that read those.

    python examples/bank_to_webdataset.py my-bank my-shards

Variant 1 of image 12 is 00000012-1.png, beside its label in 00000012-1.cls, in train-000000.tar
and so on. Variants that equal their image are left out. `_info.json` is for timm's `wds/` reader,
and `classnames.txt`, the names in label order, for nfaug.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from nfaug.bank import Bank


def files(bank: Bank) -> Iterator[tuple[str, bytes]]:
    """Name and content of the two files of each variant that differs from its image."""
    for row, variants in enumerate(bank.applied):
        for number in variants.nonzero()[0].tolist():
            pixels, png = bank.variant(row, number), io.BytesIO()
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(png, "PNG")
            yield f"{row:08}-{number}.png", png.getvalue()
            yield f"{row:08}-{number}.cls", str(int(bank.labels[row])).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", type=Path, help="made by nfaug bank")
    parser.add_argument("out", type=Path, help="a folder that does not exist")
    parser.add_argument("--per-shard", type=int, default=10_000, help="variants of a shard")
    args = parser.parse_args()
    bank = Bank(args.bank)
    args.out.mkdir(parents=True)
    total, members = int(bank.applied.sum()), files(bank)
    lengths = [min(args.per_shard, total - at) for at in range(0, total, args.per_shard)]
    names = [f"train-{number:06}.tar" for number in range(len(lengths))]
    for name in names:
        with tarfile.open(args.out / name, "w") as tar:
            for member, data in itertools.islice(members, 2 * args.per_shard):
                entry = tarfile.TarInfo(member)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    classes = bank.manifest.classes or map(str, range(int(bank.labels.max()) + 1))
    (args.out / "classnames.txt").write_text("".join(f"{name}\n" for name in classes), "utf-8")
    split = {"name": "train", "num_samples": total, "filenames": names, "shard_lengths": lengths}
    (args.out / "_info.json").write_text(json.dumps({"splits": {"train": split}}, indent=2))
    print(f"{total} variants in {len(names)} shards")


if __name__ == "__main__":
    main()
