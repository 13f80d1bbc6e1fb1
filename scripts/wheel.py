"""Build the wheel and check it, as `make` and CI do: its contents and its types.

    python scripts/wheel.py build DIR       # build a wheel into DIR and print its path
    python scripts/wheel.py contents WHEEL  # compare the wheel's files with git's
    python scripts/wheel.py types [WHEEL]   # run mypy on the wheel (built if not given)
    python scripts/wheel.py imports [WHEEL] # run import-linter on it

The types are checked on an unpacked wheel, in another directory, because the folders
training/ and hub/ are `nfaug.training` and `nfaug.hub` only once they are installed: mypy on
the folders finds no parent package, and `mypy -p nfaug` under an editable install checks
nfaug/ alone and reports success. Runs with the interpreter whose packages mypy should see.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

__all__ = ["compare", "main", "tracked_files"]

ROOT = Path(__file__).resolve().parent.parent
# Folder in the repository -> folder in the wheel (`package-dir` in pyproject.toml).
ROOMS = {"nfaug": "nfaug", "training": "nfaug/training", "hub": "nfaug/hub"}
PROBE = "type_probe.py"
PROBE_TEXT = '"""Holds one error, which mypy must find."""\n\nanswer: int = "not a number"\n'


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


def check_types(wheel: Path) -> int:
    """Run mypy on the unpacked wheel, and show that each room was really checked.

    One module with a known error is added to each package: a run that does not report every
    one of those errors has not checked that package, whatever it says.
    """
    with tempfile.TemporaryDirectory() as temporary:
        unpacked = Path(temporary)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        modules = {name for name in packaged_files() if name.endswith(".py")}
        probes = {str(PurePosixPath(name).parent / PROBE) for name in modules}
        for probe in probes:
            (unpacked / probe).parent.mkdir(parents=True, exist_ok=True)
            (unpacked / probe).write_text(PROBE_TEXT)
        command = [sys.executable, "-m", "mypy", "-p", "nfaug"]
        command += ["--config-file", str(ROOT / "pyproject.toml")]
        command += ["--cache-dir", str(ROOT / ".mypy_cache"), "--no-pretty"]
        # MYPYPATH comes before site-packages, where the editable install is.
        environment = os.environ | {"MYPYPATH": str(unpacked), "NO_COLOR": "1"}
        run = subprocess.run(
            command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False
        )
    lines = run.stdout.splitlines()
    unseen = {probe for probe in probes if not any(line.startswith(probe + ":") for line in lines)}
    checked = re.search(r"checked (\d+) source files?\)", run.stdout)
    if run.returncode not in (0, 1) or checked is None or unseen:
        print(run.stdout + run.stderr, file=sys.stderr)
        for probe in sorted(unseen):
            print(f"mypy did not check the package of {probe}", file=sys.stderr)
        return 2
    count = int(checked.group(1)) - len(probes)
    if count < len(modules):
        print(f"mypy checked {count} files where git has {len(modules)}", file=sys.stderr)
        return 2
    errors = [line for line in lines[:-1] if line.partition(":")[0] not in probes]
    for line in errors:
        print(in_repository(line), file=sys.stderr)
    if not errors:
        print(f"mypy: no issues in the {count} source files of the wheel.")
    return int(bool(errors))


def check_imports(wheel: Path) -> int:
    """Run import-linter on the unpacked wheel: only there do all packages lie in one folder."""
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(temporary)
        program = Path(sys.executable).with_name("lint-imports")
        command = [program, "--config", ROOT / "pyproject.toml", "--no-cache"]
        environment = os.environ | {"PYTHONPATH": temporary}
        return subprocess.run(command, cwd=temporary, env=environment, check=False).returncode


def in_repository(line: str) -> str:
    """A line of mypy's report with the path that an editor can open."""
    for room, package in sorted(ROOMS.items(), key=lambda item: -len(item[1])):
        if line.startswith(package + "/"):
            return room + line[len(package) :]
    return line


def main(arguments: list[str] | None = None) -> int:
    summary, _, details = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build").add_argument("directory", type=Path)
    commands.add_parser("contents").add_argument("wheel", type=Path)
    commands.add_parser("types").add_argument("wheel", type=Path, nargs="?")
    commands.add_parser("imports").add_argument("wheel", type=Path, nargs="?")
    options = parser.parse_args(arguments)
    if options.command == "build":
        print(build(options.directory))
        return 0
    if options.command == "contents":
        return check_contents(options.wheel)
    check = check_types if options.command == "types" else check_imports
    if options.wheel is not None:
        return check(options.wheel)
    with tempfile.TemporaryDirectory() as temporary:
        return check(build(Path(temporary)))


if __name__ == "__main__":
    sys.exit(main())
