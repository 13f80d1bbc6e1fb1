"""Run a library's own tests with pytest in this process, and note what becomes of each."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from .outcomes import Outcomes


class Recorder:
    """A pytest plugin: it keeps the tests that are wanted, and adds them to the outcomes."""

    def __init__(self, outcomes: Outcomes, wanted: Callable[[Any], bool]) -> None:
        self.outcomes = outcomes
        self.wanted = wanted

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out the other tests."""
        items[:] = [item for item in items if self.wanted(item)]

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be read is a case, too."""
        if report.failed:
            self.outcomes.other[report.nodeid] = str(report.longrepr).strip().splitlines()[-1]

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """Called after the preparation, the test and the end of each case."""
        if call.excinfo is None:
            if call.when == "call":
                self.outcomes.add(item.name, None)
        elif isinstance(call.excinfo.value, pytest.skip.Exception):
            self.outcomes.skipped.append(f"{item.name}: {call.excinfo.value}")
        else:
            self.outcomes.add(item.name, call.excinfo.value)


def run_pytest(arguments: list[str], wanted: Callable[[Any], bool]) -> Outcomes:
    """The outcomes of the wanted tests; what pytest prints goes to stderr."""
    outcomes = Outcomes()
    sys.dont_write_bytecode = True  # the checkout stays as it is
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short"]
    with contextlib.redirect_stdout(sys.stderr):
        pytest.main([*arguments, *options], plugins=[Recorder(outcomes, wanted)])
    return outcomes
