"""Build the wheel, and compare its files with git's, for `make` and CI.

python scripts/wheel.py build DIR       # build a wheel into DIR and print its path
python scripts/wheel.py contents WHEEL  # compare the wheel's files with git's
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

__all__ = ["compare", "main", "tracked_files"]

ROOT = Path(__file__).resolve().parent.parent


def tracked_files() -> list[str]:
    """The repository's files as git sees them: tracked, or new and not ignored."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    # A file that was deleted but not yet staged is still listed.
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def packaged_files() -> set[str]:
    """The files that must be in the wheel."""
    return {name.removeprefix("src/") for name in tracked_files() if name.startswith("src/nfaug/")}


def build(directory: Path) -> Path:
    """Build a wheel of the files that git sees, and nothing else, into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        # A copy: setuptools leaves build/lib behind, and puts what it finds there in the
        # next wheel, deleted modules included.
        source = Path(temporary) / "source"
        for name in tracked_files():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        out = Path(temporary) / "out"
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True)
        (wheel,) = out.glob("nfaug-*.whl")
        return Path(shutil.copy2(wheel, directory))


def compare(expected: set[str], found: set[str]) -> list[str]:
    """Both differences between what git has and what the wheel has, one line a file."""
    missing = [f"in git, not in the wheel: {name}" for name in sorted(expected - found)]
    extra = [f"in the wheel, not in git: {name}" for name in sorted(found - expected)]
    return missing + extra


def check_contents(wheel: Path) -> int:
    expected = packaged_files()
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    found = {name for name in names if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    problems = compare(expected, found)
    for part in ("licenses/LICENSE", "entry_points.txt", "METADATA"):
        if not any(name.endswith(f".dist-info/{part}") for name in names):
            problems.append(f"not in the wheel's metadata: {part}")
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{wheel.name}: its {len(found)} files are git's.")
    return int(bool(problems))


def main(arguments: list[str] | None = None) -> int:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build").add_argument("directory", type=Path)
    commands.add_parser("contents").add_argument("wheel", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "build":
        print(build(options.directory))
        return 0
    return check_contents(options.wheel)


if __name__ == "__main__":
    sys.exit(main())
