"""The `nfaug` command."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from .commands import COMMANDS, GROUPS, TOPICS
from .io.documentation import documentation
from .io.extras import optional_imports
from .io.strict_json import jsonable
from .io.text import did_you_mean, printable
from .io.version import __version__
from .run.memory import keep_freed_memory

__all__ = ["COMMANDS", "main"]

# Exit codes.
FAILED = 1
BAD_INPUT = 2
DIVERGED = 3
INTERRUPTED = 130

_LONGEST = 2000  # characters of an error, which may quote a value of any length
_SETTING = re.compile(r"([a-z]\w*)(?= must | needs | ')")  # how an error about a setting begins


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 failed or a package is missing, 2 bad input, 3 diverged, 130 interrupted; `nfaug
    train` adds others. An error is one line on standard error.
    """
    # A stream that the shell closed, as in `nfaug info FLOW >&-`, is None.
    if sys.stdout is None:
        sys.stdout = _open_null()
    if sys.stderr is None:
        sys.stderr = _open_null()
    if isinstance(sys.stdout, io.TextIOWrapper):  # class names hold any character
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(words)
    except SystemExit:  # a parser printed its help
        _flush()
        raise


def _open_null() -> TextIO:
    """A stream that drops what is written to it."""
    null = os.open(os.devnull, os.O_WRONLY)
    return os.fdopen(null, "w", encoding="utf-8")


def _run(words: list[str]) -> int:
    if not words:
        _say(_top_help())
        return BAD_INPUT
    name, *options = words
    if name == "help" and options:
        name = options[0]
        options = ["--help"]
        if name in TOPICS:
            topics = importlib.import_module(".commands.topics", __package__)
            return _say(getattr(topics, name)())
    if name in ("-h", "--help", "help"):
        return _say(_top_help())
    if name == "--version":
        return _say(f"nfaug {__version__}")
    if name not in COMMANDS:
        return _unknown(name)
    return _run_command(name, options)


def _run_command(name: str, options: list[str]) -> int:
    _wait_without_spinning()
    keep_freed_memory()
    module = importlib.import_module(f".commands.{name}", __package__)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            with optional_imports():
                expand = getattr(module, "expand", list)
                arguments = module.parser().parse_args(expand(options))
                result = module.run(arguments)
            if result is not None:  # it is None on all processes but the main one
                _print_result(result, as_json=arguments.json)
            _flush()
        except KeyboardInterrupt as error:
            code = getattr(error, "exit_code", INTERRUPTED)
            return _stop(code, name, str(error) or "interrupted")
        except ModuleNotFoundError as error:
            return _stop(FAILED, name, str(error))
        except (ValueError, OSError) as error:  # includes CheckpointError and HubError
            message = _with_option(str(error), module)
            return _stop(getattr(error, "exit_code", BAD_INPUT), name, f"error: {message}")
        except ArithmeticError as error:
            return _stop(DIVERGED, name, f"{type(error).__name__}: {error}")
        except (MemoryError, RuntimeError) as error:
            if not _is_of_memory(error):
                raise
            return _stop(FAILED, name, f"error: there is not enough memory ({error})")
    return 0


def _with_option(message: str, module: Any) -> str:
    """A message that begins with a setting of Python, with the option that sets it instead.

    `methods must name some of ...` becomes `--methods must name some of ...`.
    """
    setting = _SETTING.match(message)
    if setting is None:
        return message
    return module.parser().option(setting[1]) + message[setting.end() :]


def _is_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says it by a RuntimeError, of a CPU by its text alone."""
    if isinstance(error, MemoryError):
        return True
    return "out of memory" in str(error) or "can't allocate memory" in str(error)


def _wait_without_spinning() -> None:
    """Let OpenMP's threads sleep while they wait for others, as torch must find it when it starts.

    By default they spin. On a machine that does anything else as well, that took six of seven CPU
    seconds of a small network with two threads, and eight times as long.
    """
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"} & os.environ.keys()
    if not chosen and "torch" not in sys.modules:
        os.environ["GOMP_SPINCOUNT"] = "0"


def _print_result(result: dict[str, Any] | str, *, as_json: bool) -> None:
    """Print figures, or a text as it is."""
    if isinstance(result, str):
        text = "\n".join(map(printable, result.splitlines()))
    elif as_json:
        text = json.dumps(jsonable(result), indent=2, allow_nan=False)
    else:
        text = "\n".join(_lines(result))
    with contextlib.suppress(BrokenPipeError):  # `_flush` says why
        print(text)


def _flush() -> None:
    """Send what was printed. A reader that ended early, as in `| head -1`, is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python writes the rest when it exits; into a closed pipe, that prints a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> int:
    """Print a text, and return the exit code of success."""
    _print_result(text, as_json=False)
    _flush()
    return 0


def _unknown(name: str) -> int:
    """Say that there is no such command, and return the exit code."""
    what = "option" if name.startswith("-") else "command"
    meant = did_you_mean(name, [*COMMANDS, "help", "--help", "--version"])
    message = f"error: there is no {what} {name!r}{meant} (see nfaug --help)"
    print(f"nfaug: {printable(message, longest=_LONGEST)}", file=sys.stderr)
    return BAD_INPUT


def _top_help() -> str:
    """The text of `nfaug --help`."""
    lines = [
        "usage: nfaug COMMAND [options]",
        "",
        "Normalizing-flow augmentation (NFA) for image classifiers: variants of your",
        "training images, each made from two images of the same class.",
    ]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<12}{text}" for name, text in group.items()]
    lines += [
        "",
        "Example:",
        "  nfaug compare --data my-images --per-class 10",
        "",
        "Help:",
        "  nfaug help COMMAND   what a command does, and its options",
        "  nfaug help data      what --data can be",
        "  nfaug --version      the version",
        "",
        "Documentation:",
        f"  {documentation('index')}",
    ]
    return "\n".join(lines)


def _stop(code: int, name: str, message: str) -> int:
    with contextlib.suppress(BrokenPipeError):  # the exit code says that it failed
        print(f"nfaug {name}: {printable(message, longest=_LONGEST)}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if not issubclass(category, (DeprecationWarning, PendingDeprecationWarning)):
        print(f"warning: {printable(message)}", file=sys.stderr)


def _lines(result: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A result as lines of text, without characters that do terminals harm."""
    for key, value in result.items():
        label = f"{indent}{printable(key.replace('_', ' '))}"
        if value in (None, {}, []):
            continue
        if isinstance(value, dict):
            yield label
            yield from _lines(value, indent + "  ")
        elif isinstance(value, float):
            yield f"{label:<24} {value:.6g}"
        elif isinstance(value, list):
            items = [printable(item) for item in value[:10]]
            if len(value) > 10:
                items.append("...")
            yield f"{label:<24} {', '.join(items)}"
        else:
            yield f"{label:<24} {printable(value)}"
