"""Build the sdist and the wheel, and compare their files with git's, for `make` and CI.

python scripts/dist.py build DIR      # build an sdist and, from it, a wheel into DIR, as for PyPI
python scripts/dist.py contents FILE  # compare the files of an sdist or a wheel with git's
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

__all__ = ["build", "compare", "main", "tracked_files"]

ROOT = Path(__file__).resolve().parent.parent
# What setuptools adds to an sdist.
GENERATED = {"PKG-INFO", "setup.cfg"}


def tracked_files() -> list[str]:
    """The repository's files as git sees them: tracked, or new and not ignored."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    # A file that was deleted but not yet staged is still listed; a link leads to listed files.
    paths = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    return sorted(name for name in paths if not (ROOT / name).is_symlink())


def build(directory: Path) -> None:
    """Build an sdist of the files that git sees, and a wheel of that sdist, into `directory`."""
    with tempfile.TemporaryDirectory() as temporary:
        # A copy: setuptools leaves build/lib behind, and puts what it finds there in the
        # next wheel, deleted modules included.
        source = Path(temporary) / "source"
        for name in tracked_files():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory)]
        ran = subprocess.run([*command, str(source)], capture_output=True, text=True)
        if ran.returncode:
            sys.exit(ran.stdout + ran.stderr)


def compare(expected: set[str], found: set[str]) -> list[str]:
    """Both differences between what git has and what the file has, one line a name."""
    missing = [f"in git, not in the file: {name}" for name in sorted(expected - found)]
    extra = [f"in the file, not in git: {name}" for name in sorted(found - expected)]
    return missing + extra


def check_wheel(file: Path) -> list[str]:
    """What is wrong with a wheel's files, which are those of the package."""
    tracked = tracked_files()
    expected = {name.removeprefix("src/") for name in tracked if name.startswith("src/nfaug/")}
    with zipfile.ZipFile(file) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    found = {name for name in names if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    problems = compare(expected, found)
    for part in ("licenses/LICENSE", "entry_points.txt", "METADATA"):
        if not any(name.endswith(f".dist-info/{part}") for name in names):
            problems.append(f"not in the wheel's metadata: {part}")
    return problems


def check_sdist(file: Path) -> list[str]:
    """What is wrong with an sdist's files, which are all of git's, tests included."""
    with tarfile.open(file) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    found = {name for name in names if not name.startswith("src/nfaug.egg-info/")}
    return compare({*tracked_files()}, found - GENERATED)


def check_contents(file: Path) -> int:
    problems = check_wheel(file) if file.suffix == ".whl" else check_sdist(file)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{file.name} ({file.stat().st_size / 1e6:.1f} MB): its files are git's.")
    return int(bool(problems))


def main(arguments: list[str] | None = None) -> int:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build").add_argument("directory", type=Path)
    commands.add_parser("contents").add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "build":
        build(options.directory)
        return 0
    return check_contents(options.file)


if __name__ == "__main__":
    sys.exit(main())
