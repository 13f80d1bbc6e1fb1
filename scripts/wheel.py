"""Check the package as it is installed, and build the wheel, for `make` and CI.

    python scripts/wheel.py types           # run mypy on the package
    python scripts/wheel.py imports         # run import-linter on it
    python scripts/wheel.py build DIR       # build a wheel into DIR and print its path
    python scripts/wheel.py contents WHEEL  # compare the wheel's files with git's

Types and imports are checked on a copy of the package, laid out as it is installed: the folders
training/ and hub/ are `nfaug.training` and `nfaug.hub` only there. mypy on the folders finds no
parent package, and `mypy -p nfaug` under an editable install checks nfaug/ alone and reports
success. Run it with the interpreter whose packages mypy should see.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["compare", "main", "tracked_files"]

ROOT = Path(__file__).resolve().parent.parent
# Folder in the repository -> folder in the wheel (`package-dir` in pyproject.toml).
ROOMS = {"nfaug": "nfaug", "training": "nfaug/training", "hub": "nfaug/hub"}


def tracked_files() -> list[str]:
    """The repository's files as git sees them: tracked, or new and not ignored."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    # A file that was deleted but not yet staged is still listed.
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def packaged_files() -> dict[str, str]:
    """Path in the wheel -> path in the repository, for every file that must be in the wheel."""
    mapped = {}
    for name in tracked_files():
        room, _, rest = name.partition("/")
        if room in ROOMS and rest:
            mapped[f"{ROOMS[room]}/{rest}"] = name
    return mapped


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
    problems = compare(set(expected), found)
    for part in ("licenses/LICENSE", "entry_points.txt", "METADATA"):
        if not any(name.endswith(f".dist-info/{part}") for name in names):
            problems.append(f"not in the wheel's metadata: {part}")
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{wheel.name}: its {len(found)} files are git's.")
    return int(bool(problems))


@contextlib.contextmanager
def installed_copy() -> Iterator[Path]:
    """A temporary folder that holds the package as site-packages would."""
    with tempfile.TemporaryDirectory() as temporary:
        for target, source in packaged_files().items():
            path = Path(temporary, target)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / source, path)
        yield Path(temporary)


def check_types() -> int:
    """Run mypy on the package; returns 2 if it did not check every module."""
    files = packaged_files()
    command = [sys.executable, "-m", "mypy", "-p", "nfaug", "--no-pretty"]
    command += ["--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache")]
    with installed_copy() as folder:
        # MYPYPATH comes before site-packages, where the editable install is.
        environment = os.environ | {"MYPYPATH": str(folder), "NO_COLOR": "1"}
        run = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
    for line in run.stdout.splitlines():
        path, colon, rest = line.partition(":")
        print(files.get(path, path) + colon + rest)
    checked = re.search(r"(\d+) source files?\)?$", run.stdout.strip())
    count = sum(name.endswith(".py") for name in files)
    if checked is None or int(checked[1]) < count:  # mypy counts folders without Python files too
        print(f"mypy did not check the {count} modules of the package", file=sys.stderr)
        return 2
    return run.returncode


def check_imports() -> int:
    """Run import-linter on the package."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    command += ["--config", ROOT / "pyproject.toml"]
    with installed_copy() as folder:
        environment = os.environ | {"PYTHONPATH": str(folder)}
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def main(arguments: list[str] | None = None) -> int:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("types")
    commands.add_parser("imports")
    commands.add_parser("build").add_argument("directory", type=Path)
    commands.add_parser("contents").add_argument("wheel", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "build":
        print(build(options.directory))
        return 0
    if options.command == "contents":
        return check_contents(options.wheel)
    return check_types() if options.command == "types" else check_imports()


if __name__ == "__main__":
    sys.exit(main())
