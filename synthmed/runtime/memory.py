"""One budget of memory for all threads that work on images: large ones wait for each other, small ones never notice."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator


class Budget:
    """Bytes that the threads of this process share.

    Args:
        size: In bytes; what is needed beyond it has to wait, and what is larger goes on alone.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.reset()

    def reset(self) -> None:
        """Forget all tasks: those of other threads do not exist in a forked process."""
        self._changed = threading.Condition()
        self._used = 0
        self._waiting = 0
        self._own = threading.local()

    @contextlib.contextmanager
    def task(self) -> Iterator[None]:
        """Give back at the end of the block what its thread needed; a block within another one is part of it."""
        if self._held is not None:
            yield
            return
        self._own.held = 0
        try:
            yield
        finally:
            self._set(0)
            del self._own.held

    def need(self, num_bytes: int) -> None:
        """Say how many bytes the task of this thread works with from now on, and wait until they are free.

        Nobody waits for ever: where all tasks that hold bytes wait for more, one of them goes on. Outside a task
        nothing is counted.
        """
        if self._held is not None:
            self._set(num_bytes)

    @property
    def _held(self) -> int | None:
        return getattr(self._own, "held", None)

    def _set(self, num_bytes: int) -> None:
        with self._changed:
            held = self._held or 0
            if num_bytes > held:
                self._wait(held, num_bytes)
            self._used += num_bytes - held
            self._own.held = num_bytes
            self._changed.notify_all()

    def _wait(self, held: int, num_bytes: int) -> None:
        self._waiting += held
        self._changed.notify_all()
        try:
            self._changed.wait_for(
                lambda: self._used - held + num_bytes <= self.size or self._used == self._waiting,
            )
        finally:
            self._waiting -= held


IMAGES = Budget(640 << 20)
"""Room for one image of the largest size that is read, or for several photographs."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=IMAGES.reset)
