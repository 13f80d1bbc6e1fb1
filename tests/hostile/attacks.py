"""Attacks on the installed package; prints a table of outcomes, and exits with 1 after a failure.

    python tests/hostile/attacks.py images         # 20,000 image files, whole and damaged
    python tests/hostile/attacks.py layouts        # 200 folders, archives and tables
    python tests/hostile/attacks.py checkpoints    # 4,000 damaged copies of a small checkpoint
    python tests/hostile/attacks.py banks          # 1,000 damaged banks
    python tests/hostile/attacks.py settings       # 500 hostile settings, as options and in files
    python tests/hostile/attacks.py pickles        # 2,000 pickles under every name that is read
    python tests/hostile/attacks.py kills          # 60 times SIGKILL, in fit, bank, train and pull

Each attack is a module of this folder, whose docstring says what must hold. The seed of a case is
its number: `--count 1 --seed S` repeats case S.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
from hostile.cases import run_cases

COUNTS = {
    "images": 20_000,
    "layouts": 200,
    "checkpoints": 4000,
    "banks": 1000,
    "settings": 500,
    "pickles": 2000,
    "kills": 60,
}


def main(arguments: list[str] | None = None) -> int:
    """Run an attack, print its table, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attack", choices=[*COUNTS])
    parser.add_argument("--count", type=int, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case")
    options = parser.parse_args(arguments)
    count = options.count or COUNTS[options.attack]
    torch.set_num_threads(1)
    attack = importlib.import_module(f"hostile.{options.attack}")
    home = Path(tempfile.mkdtemp(prefix="nfaug-attacks-"))
    try:
        attack.prepare(home)
        numbers = range(options.seed, options.seed + count)
        # A run that is killed and repeated takes longer than a case of reading may.
        found = run_cases(home, numbers, attack.case, limited=options.attack != "kills")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    rows = sorted(found["outcomes"].items())
    rows += [(f"FAILURE, {text}", 1) for text in found["wrong"]]
    print(f"| {options.attack} | cases |\n|---|---|")
    for text, number in rows:
        print(f"| {text} | {number} |")
    print(f"\nfailures: {len(found['wrong'])} of {count}")
    return int(bool(found["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
