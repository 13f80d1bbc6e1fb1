"""A bank as a folder of image files, for other frameworks."""

from __future__ import annotations

from pathlib import Path

from ..augment.pixels import to_pil
from ..data.images import progress_bar
from .format import Bank

__all__ = ["export_bank"]


def export_bank(
    bank: Bank | str | Path, out: str | Path, *, progress: bool = True
) -> dict[str, int]:
    """Write the variants as PNG files in one folder per class.

    Variant 1 of image 12 is CLASS/000012-1.png. Variants that equal their image are left out.

    Args:
        bank: The bank or its directory.
        out: The folder, which must be empty or missing.
        progress: Show a progress bar.

    Returns:
        The number of files of each class.

    Raises:
        ValueError: The images have neither one nor three channels.
        FileExistsError: `out` is not empty.
    """
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} is not empty; choose another directory")
    if bank.manifest.shape[0] not in (1, 3):
        raise ValueError(f"PNG files have 1 or 3 channels; the bank has {bank.manifest.shape[0]}")
    count = int(bank.labels.max()) + 1
    names = [_file_name(name) for name in bank.manifest.classes] or [str(y) for y in range(count)]
    if len(set(names)) != len(names):
        names = [f"{label:05}-{name}" for label, name in enumerate(names)]
    written = dict.fromkeys(names, 0)
    bar = progress_bar(len(bank), "export", "image", shown=progress)
    for i in range(len(bank)):
        name = names[int(bank.labels[i])]
        for v in bank.applied[i].nonzero()[0].tolist():
            (path / name).mkdir(parents=True, exist_ok=True)
            to_pil(bank.variants[i, v]).save(path / name / f"{i:06}-{v}.png")
            written[name] += 1
        bar.update()
    bar.close()
    return written


def _file_name(name: str) -> str:
    """A safe folder name for a class name, which may come from an untrusted file."""
    safe = "".join(c if c.isalnum() or c in " -_.,()+" else "_" for c in name).strip(" .")
    return safe[:100] or "_"
