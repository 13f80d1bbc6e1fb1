"""Shards of a bank, which several processes make, each in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from .format import MANIFEST, SHARD_FOLDER, Manifest, differences

__all__ = [
    "check_same_bank",
    "check_shards",
    "parse_shard",
    "shard_folder",
    "shard_manifests",
    "shard_rows",
]

_WRONG = "a shard is i/n with i from 0 to n - 1, such as 0/8 for the first of 8; got {}"


def parse_shard(text: str) -> tuple[int, int]:
    """The numbers of "i/n"."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal()):
        raise ValueError(_WRONG.format(text))
    return int(part), int(parts)


def shard_folder(out: Path, part: int, parts: int) -> Path:
    """The folder of part `part` of `parts`, counted from 0."""
    if not (isinstance(part, int) and isinstance(parts, int) and 0 <= part < parts):
        raise ValueError(_WRONG.format(f"{part!r}/{parts!r}"))
    return out / f"shard-{part:05}-of-{parts:05}"


def shard_rows(part: int, parts: int, images: int, batch_size: int) -> range:
    """Positions of a shard's images: whole batches, because draws depend on the batch."""
    batches = -(-images // batch_size)
    if batches < parts:
        raise ValueError(
            f"{images} images in batches of {batch_size} give {batches} shards; got {parts}. Use "
            "fewer shards or a smaller batch size"
        )
    first, last = (batches * i // parts for i in (part, part + 1))
    return range(first * batch_size, min(images, last * batch_size))


def check_shards(folder: Path, planned: Manifest) -> None:
    """Check that a shard belongs to what lies beside its folder, before it is made."""
    out, found = folder.parent, shard_manifests(folder.parent)
    if folder not in found if found else (out / MANIFEST).exists():
        raise FileExistsError(f"{out} holds another division of a bank; choose another directory")
    for beside, made in found.items():
        if made is not None and beside != folder:
            check_same_bank(beside, made, planned)


def shard_manifests(out: Path) -> dict[Path, Manifest | None]:
    """The folder of each shard of a bank, in order, with its manifest; None if it has none yet."""
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    counts = sorted({int(match[2]) for name in names if (match := SHARD_FOLDER.fullmatch(name))})
    if len(counts) > 1:
        raise ValueError(f"{out} has shards of {' and of '.join(map(str, counts))}: remove some")
    folders = [shard_folder(out, part, parts) for parts in counts for part in range(parts)]
    return {
        folder: Manifest.load(folder) if (folder / MANIFEST).is_file() else None
        for folder in folders
    }


def check_same_bank(folder: Path, found: Manifest, planned: Manifest) -> None:
    """Check that two shards differ in their rows alone."""
    if shown := differences(found, planned, "done", "images", "first", "labels_sha256"):
        raise ValueError(
            f"{folder} is a shard of another bank, or of other images: {shown}. Remove the shards "
            "of that bank, or choose another directory"
        )
