"""Write what NFA and RandAugment gained in the measured comparisons from scratch into the package.

    python lab/measured.py

`nfaug compare` prints these gains beside the accuracy that it finds. They come from the rows of two
studies at default settings: lab/results/defaults and lab/results/final.
"""

import argparse
import re
import statistics
from pathlib import Path
from typing import Any

from sets import NFA, NOTHING
from tables import cells_of, files_of, gain, lines_of

from nfaug.io.atomic import write_text

MODULE = Path(__file__).resolve().parents[1] / "src/nfaug/compare/measured.py"
RANDAUGMENT = "RandAugment"
STUDIES = ("defaults", "final")


def rows() -> list[tuple[Any, ...]]:
    """A study and its images, accuracy without an augmentation, and two gains, by accuracy."""
    found = []
    for study in STUDIES:
        for file in files_of(f"{study}/*-scratch"):
            name = f"{study}/{file.stem}"
            if RANDAUGMENT not in {line["augmentation"] for line in lines_of(name)}:
                continue  # spectrograms have SpecAugment in its place
            cells = cells_of(name, NOTHING).values()
            accuracy = statistics.fmean(cell.accuracy for cell in cells)
            gains = (gain(name, NFA), gain(name, RANDAUGMENT))
            figures = [round(value, 1) for value in (accuracy, *(one.mean for one in gains))]
            found.append((f"{study}/{file.stem.removesuffix('-scratch')}", *figures))
    return sorted(found, key=lambda row: row[1])


def written(text: str) -> str:
    """The module with these rows."""
    lines = [f'    ("{name}", {", ".join(map(str, figures))}),' for name, *figures in rows()]
    table = "MEASURED = (\n" + "\n".join(lines) + "\n)\n"
    return re.sub(r"^MEASURED = \(\n.*?^\)\n", table, text, flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    write_text(MODULE, written(MODULE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
