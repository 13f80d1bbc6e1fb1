"""Shards of a bank, which several processes make, each in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from .format import MANIFEST, SHARD_FOLDER, Manifest

_NO_SHARD = "a shard is i/n with i from 0 to n - 1, such as 0/8 for the first of 8; got {}"


def parse_shard(text: str) -> tuple[int, int]:
    """The numbers of "i/n"."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise ValueError(_NO_SHARD.format(text))
    return int(part), int(parts)


def shard_folder(out: Path, part: int, parts: int) -> Path:
    """The folder of part `part` of `parts`, counted from 0."""
    if not (isinstance(part, int) and isinstance(parts, int) and 0 <= part < parts):
        raise ValueError(_NO_SHARD.format(f"{part!r}/{parts!r}"))
    return out / f"shard-{part:05}-of-{parts:05}"


def shard_rows(part: int, parts: int, images: int, batch_size: int) -> range:
    """Positions of a shard's images: whole batches, because draws depend on the batch."""
    batches = -(-images // batch_size)
    if batches < parts:
        raise ValueError(
            f"{images} images in batches of {batch_size} give {batches} shards; got {parts}. Use "
            "fewer shards or a smaller batch size"
        )
    first_batch = batches * part // parts
    next_batch = batches * (part + 1) // parts  # the first of the next shard
    return range(first_batch * batch_size, min(images, next_batch * batch_size))


def check_shards(folder: Path, planned: Manifest) -> None:
    """Check, before a shard is made, that it belongs with the shards beside its folder.

    Raises:
        FileExistsError: There is a bank in one piece, or in another number of shards.
        ValueError: The shards there are of a bank with other settings or images.
    """
    out = folder.parent
    manifests = shard_manifests(out)
    if manifests:
        other_division = folder not in manifests
    else:
        other_division = (out / MANIFEST).exists()  # a bank in one piece
    if other_division:
        raise FileExistsError(f"{out} holds another division of a bank; choose another directory")
    for shard, manifest in manifests.items():
        if manifest is not None and shard != folder:
            check_same_bank(shard, manifest, planned)


def shard_manifests(out: Path) -> dict[Path, Manifest | None]:
    """The folder of each shard of a bank, in order, with its manifest; None if it has none yet."""
    counts = _shard_counts(out)
    if len(counts) > 1:
        numbers = " and of ".join(str(count) for count in sorted(counts))
        raise ValueError(f"{out} has shards of {numbers}: remove some")
    manifests: dict[Path, Manifest | None] = {}
    for parts in counts:
        for part in range(parts):
            folder = shard_folder(out, part, parts)
            manifests[folder] = None
            if (folder / MANIFEST).is_file():
                manifests[folder] = Manifest.load(folder)
    return manifests


def _shard_counts(out: Path) -> set[int]:
    """The n of the shards i/n in a folder: one number, unless shards of two divisions are there."""
    if not out.is_dir():
        return set()
    matches = [SHARD_FOLDER.fullmatch(path.name) for path in out.iterdir()]
    return {int(match[2]) for match in matches if match is not None}


def check_same_bank(folder: Path, stored: Manifest, planned: Manifest) -> None:
    """Check that two shards differ in their rows alone."""
    rows = ("images", "first", "labels_sha256")
    planned.facts(*rows).check_same(
        stored.facts(*rows),
        f"{folder} is a shard",
        "Remove the shards of that bank, or choose another directory",
    )
