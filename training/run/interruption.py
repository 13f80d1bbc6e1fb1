"""Ctrl-C and SIGTERM as a wish, granted where a run can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupted", "Interrupts"]


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, and whose state was saved first.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interrupts:
    """A context in which the first SIGINT or SIGTERM is noted, and a second one acts as ever.

    Only the main thread can ask for that; in others, and where it is not `wanted`, nothing changes.

    Attributes:
        number: the signal that came, 0 for none.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self.number = 0
        self.wanted = wanted and threading.current_thread() is threading.main_thread()
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if self.wanted:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            self.__exit__(None, None, None)
            signal.raise_signal(number)
        self.number = number
