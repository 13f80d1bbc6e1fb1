"""Progress bars on standard error."""

from __future__ import annotations

import sys
import threading
from typing import Any

from tqdm import tqdm

_FIRST = 1.0  # seconds after which a bar is drawn, and in a terminal drawn again
_LINES = 30.0  # seconds between the lines of a log


class _Log:
    """Standard error that is no terminal: each state of a progress bar takes a line."""

    def write(self, text: str) -> None:
        if text.strip():
            line = text.replace("\r", "\n").lstrip("\n")
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


class _Bar(tqdm):
    """A bar that a thread draws after a second, and again while nothing is counted.

    tqdm draws a bar only when something is counted, and the first image may take a minute.
    """

    def __init__(self, **settings: Any) -> None:
        self._drawn = False
        self._closed = threading.Event()
        super().__init__(**settings)
        if not self.disable:
            columns: int | None = vars(self)["ncols"]
            if columns is None or columns < 1:  # of a terminal that does not know its size
                self.ncols = 80
                self.nrows = 20
            threading.Thread(target=self._draw, daemon=True).start()

    def _draw(self) -> None:
        while not self._closed.wait(_FIRST):
            with self.get_lock():
                due = self._time() - self.last_print_t >= self.mininterval
                if due or not self._drawn:
                    self.refresh(nolock=True)  # does nothing once the bar is closed

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        self._drawn = True
        self.last_print_t = self._time()
        return super().display(msg, pos)

    def close(self) -> None:
        self._closed.set()
        super().close()


def progress_bar(
    total: int | None, title: str, unit: str = "", *, shown: bool, initial: int = 0
) -> tqdm[Any]:
    """A bar on standard error for a phase that takes more than a second.

    A terminal gets the bar, others a line after one second and then every half a minute.

    Args:
        total: What is counted in all; None for a phase in which nothing is counted, for which only
            its title and the time so far are shown.
        title: The name of the phase.
        unit: What is counted, such as "image".
        shown: Whether anything is shown.
        initial: What was counted before.
    """
    # Without smoothing, the rate and the time left follow from the time so far.
    settings: dict[str, Any] = {"delay": _FIRST, "leave": None, "smoothing": 0}
    if total is None:
        settings["bar_format"] = "{desc} [{elapsed}]"
    if not sys.stderr.isatty():
        settings["file"] = _Log()
        settings["position"] = 0  # a bar inside of another one would move the cursor
        settings["ncols"] = 100
        settings["mininterval"] = _LINES
        settings["maxinterval"] = _LINES  # after which tqdm's own thread adds a line
    return _Bar(total=total, desc=title, unit=unit, initial=initial, disable=not shown, **settings)
