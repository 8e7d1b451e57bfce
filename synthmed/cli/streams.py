"""The program's streams: a result is written to stdout whole or refused, and no log that is lost ends the work."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import TYPE_CHECKING

from synthmed.errors import DeviceError, ReaderGone

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Results(io.FileIO):
    """stdout, whose errors are told from those of all other files."""

    _failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._failed:  # that was said, and the interpreter tries once more when it ends
            return memoryview(data).nbytes
        try:
            while (written := super().write(data)) is None:  # the other end does not want to be waited for
                select.select([], [self], [])
            return written
        except BaseException as error:  # a signal too: it may come when the data are written already
            self._failed = True
            if isinstance(error, BrokenPipeError):
                raise ReaderGone from error
            if isinstance(error, OSError):
                raise DeviceError(f"cannot write the result to stdout: {error.strerror}") from error
            raise


class _Log(io.FileIO):
    """stderr; what cannot be written there is lost."""

    def write(self, data: ReadableBuffer, /) -> int:
        with contextlib.suppress(OSError):
            if written := super().write(data):
                return written
        return memoryview(data).nbytes


def open_streams() -> None:
    """Make stdout and stderr usable, whatever they are: closed, full, or unable to show a letter, which is escaped."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else it would be the number of the next file that is opened, into which messages would be written then.
            # Of those not open the lowest is taken; stdout is opened for reading, so that writing a result fails.
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
    # Not where somebody has put another stream in their place.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Results(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Log(2, "w", closefd=False), sys.stderr, by_line=True)


def _text(raw: io.FileIO, before: io.TextIOBase | object, *, by_line: bool = False) -> io.TextIOWrapper:
    """Return a stream of text over a file, in the encoding of the stream before."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None),  # a closed stream is None
        errors="backslashreplace",
        line_buffering=by_line or raw.isatty(),
    )
