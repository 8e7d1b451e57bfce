"""Ctrl-C and SIGTERM, kept until a unit of work has ended."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from synthmed.errors import Interrupted


def leave_ctrl_c_to_parent(_worker: int = 0) -> None:
    """Make a worker process go on at Ctrl-C, which every process of a terminal gets: its parent will end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StopSignal:
    """Remembers the first Ctrl-C or SIGTERM, so that a loop can end at a good moment.

    Use as a context manager and call `check` between two units of work. A second signal ends the work at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(number, "stopped at once; finished files are whole")
        self.received = number

    def check(self, kept: str) -> None:
        """Raise `Interrupted` if a signal has come; `kept` says what is on disk and what to do next."""
        if self.received is not None:
            raise Interrupted(self.received, kept)
