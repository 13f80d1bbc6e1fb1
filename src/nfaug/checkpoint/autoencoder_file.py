"""A copy of an autoencoder's file in a checkpoint, which is then whole."""

from __future__ import annotations

import os
from pathlib import Path

from ..flows.autoencoder import AutoencoderConfig, recorded_source
from ..io.atomic import write_bytes
from .manifest import CONFIG, TENSOR_FILES, CheckpointError, read_manifest, reading_checkpoint

__all__ = ["copy_autoencoder", "replaced_copy"]

_LARGEST = 64 * 2**20  # bytes; a tiny autoencoder has 5 to 10 MB, one of diffusers 300


def copy_autoencoder(
    record: AutoencoderConfig | None,
    checkpoint: Path,
    *,
    given: str | os.PathLike[str] | None,
    base: str | os.PathLike[str] | None = None,
) -> None:
    """Copy the file of a checkpoint's autoencoder into its directory, under the recorded name.

    `load` finds it there. Nothing is copied of a repository, of a directory, of a file that is
    beside the checkpoint already or above 64 MiB, or under the name of a file of the checkpoint.

    Args:
        record: The checkpoint's autoencoder, if any.
        checkpoint: The directory.
        given: The file from which the autoencoder was opened.
        base: The directory of the flow that was fitted, which may hold the file.
    """
    if record is None or record.kind != "file" or record.name in TENSOR_FILES:
        return
    source = None if given is None else Path(given).expanduser()
    if source is None and base is not None:
        found = recorded_source(record, Path(base).expanduser())
        source = None if found is None else Path(found)
    if source is None or not source.is_file() or source.stat().st_size > _LARGEST:
        return
    copy = checkpoint / record.name
    # The first of these that exists is the one that `load` takes.
    for place in (copy, checkpoint.resolve().parent / record.name):
        if place.exists():
            if place.samefile(source):
                return
            break
    write_bytes(copy, source.read_bytes())


def replaced_copy(record: AutoencoderConfig | None, checkpoint: Path) -> frozenset[str]:
    """The name of the autoencoder's file of an existing checkpoint, if the new one has another.

    Args:
        record: The autoencoder of the checkpoint that takes its place, if any.
        checkpoint: The directory, which need not exist.
    """
    try:
        values = read_manifest(checkpoint)
        with reading_checkpoint(checkpoint / CONFIG):
            former = AutoencoderConfig(**values["autoencoder"]) if "autoencoder" in values else None
    except CheckpointError:  # no checkpoint: all files are the user's
        return frozenset()
    if former is None or former.kind != "file" or former.name in TENSOR_FILES:
        return frozenset()
    kept = record is not None and (record.kind, record.name) == ("file", former.name)
    return frozenset() if kept else frozenset({former.name})
