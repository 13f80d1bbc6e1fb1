"""Print the counts of the attacks at the end of a run."""

from __future__ import annotations

import pytest
from attack_tools import COUNTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS:
        terminalreporter.section("attacks")
    for line in COUNTS:
        terminalreporter.write_line(line)
