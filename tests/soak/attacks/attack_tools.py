"""Run numbered cases of an attack in child processes, within limits, and count their outcomes.

A script of attacks calls `run_script` with a function that runs one case; a test calls `attack`
with the script. A case that takes 5 s of the processor, 1 GiB of memory or a minute, or that raises
an exception, fails the test. The seed of a case is its number.
"""

from __future__ import annotations

import collections
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from checkpoint_tools import MOST_BYTES, MOST_SECONDS, limit_memory
from forked import run_python

__all__ = ["COUNTS", "TESTS", "attack", "run_cases", "run_script"]

COUNTS: list[str] = []  # lines that conftest.py prints at the end

TESTS = Path(__file__).parents[2]
MOST_WAITING = 60  # seconds by the clock, for a case that waits and uses no processor


class Hang(BaseException):
    """A case that does not end."""


def _on_alarm(*_: object) -> None:
    raise Hang(f"waited {MOST_WAITING} s")


def attack(script: str, folder: Path, numbers: range, *, at_once: int = 500) -> dict[str, int]:
    """Run cases with the script, `at_once` in each child process; return the outcomes."""
    outcomes: collections.Counter[str] = collections.Counter()
    slowest, grown = (0.0, 0), 0
    for first in range(0, len(numbers), at_once):
        part = numbers[first : first + at_once]
        words = [script, folder / str(first), json.dumps(list(part))]
        paths = os.pathsep.join(str(path) for path in (TESTS, TESTS / "soak/attacks"))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        ran = run_python(words, env=environment)
        assert ran.returncode == 0, (ran.returncode, ran.stderr[-2000:])
        found = json.loads(ran.stdout.splitlines()[-1])
        assert not found["wrong"], "\n".join(found["wrong"])
        outcomes.update(found["outcomes"])
        slowest, grown = max(slowest, tuple(found["slowest"])), max(grown, found["grown"])
    assert outcomes.total() == len(numbers)
    assert slowest[0] < MOST_SECONDS, slowest
    assert grown < MOST_BYTES, grown
    COUNTS.append(
        f"{Path(script).stem}: {len(numbers)} cases; the slowest, case {slowest[1]}, took "
        f"{slowest[0]:.2f} s of the processor; {grown / 2**20:.0f} MiB of memory at most"
    )
    COUNTS.extend(f"  {count:5} {outcome}" for outcome, count in sorted(outcomes.items()))
    return dict(outcomes)


def run_script(prepare: Callable[[Path], Any], case: Callable[[Path, int], str]) -> None:
    """Make files in the folder of the first argument, run the cases of the second, print JSON.

    `prepare` also runs some cases, so that memory that is allocated once is not counted.
    """
    folder, numbers = Path(sys.argv[1]), json.loads(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    print(json.dumps(run_cases(folder, numbers, case)))


def run_cases(
    folder: Path, numbers: Iterable[int], case: Callable[[Path, int], str]
) -> dict[str, Any]:
    """Run cases in this process, within limits; return the outcomes and what is wrong."""
    limit_memory()
    signal.signal(signal.SIGALRM, _on_alarm)
    before = _memory()
    outcomes: collections.Counter[str] = collections.Counter()
    wrong, slowest = [], (0.0, 0)
    for number in numbers:
        start = _processor()
        signal.alarm(MOST_WAITING)
        try:
            outcomes[case(folder, number)] += 1
        except (Exception, Hang) as error:
            wrong.append(f"case {number}: {type(error).__name__}: {error}"[:500])
        signal.alarm(0)
        slowest = max(slowest, (_processor() - start, number))
    grown = _memory() - before
    return {"outcomes": outcomes, "wrong": wrong, "slowest": slowest, "grown": grown}


def _processor() -> float:
    """Processor time in seconds of this process and of its children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def _memory() -> int:
    """The largest number of bytes that this process or a child that has ended had in memory."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024 * max(resource.getrusage(kind).ru_maxrss for kind in kinds)
