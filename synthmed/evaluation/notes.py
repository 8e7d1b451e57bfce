"""What could not be computed, and why: the evaluation goes on without it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from synthmed.errors import DataError
from synthmed.runtime.progress import log


class Notes(dict[str, str]):
    """What was not computed -> why."""

    def add(self, what: str, why: str) -> None:
        """Note something, and say it on stderr."""
        if self.get(what) != why:  # with several extractors it would be said again for each
            log(f"{what}: not computed, because {why}")
        self[what] = why

    @contextlib.contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Note why a block failed, if its data was the cause, and go on behind it."""
        try:
            yield
        except DataError as error:
            self.add(what, str(error))
