"""Errors of the system that no command expects: what they mean, so that each is one line; bugs keep their traces."""

from __future__ import annotations

import sys

from synthmed.errors import DeviceError

# What Python and torch raise as plain RuntimeErrors: problem and remedy by a part of its words.
_RUNTIME_ERRORS = {
    "can't start new thread": (
        "the system allows no more threads",
        "close other programs, or raise its limit: ulimit -u",
    ),
    "DataLoader worker": (
        "a process that loads images has died",
        "is there memory enough, and shared memory (docker run --shm-size)? --workers 0 does without such processes",
    ),
}


def system_error(error: BaseException | None) -> DeviceError | None:
    """Return what an error says about the machine, or `None` if it may be a bug of synthmed."""
    if isinstance(error, OSError):
        places = [str(place) for place in (error.filename, error.filename2) if place is not None]
        reason = error.strerror or str(error) or type(error).__name__
        return DeviceError(f"the system refused: {': '.join([*places, reason])}")
    if isinstance(error, ImportError) and not (error.name or "").startswith("synthmed"):
        return DeviceError(f"a library cannot be loaded: {error}", "is there memory enough, and is it installed whole?")
    if isinstance(error, MemoryError) or _is_of_torch(error):
        problem = f"out of memory: {error}" if str(error) else "out of memory"
        return DeviceError(problem, "choose smaller images or batches, fewer workers, or more memory")
    if isinstance(error, RuntimeError):
        return next((DeviceError(*words) for sign, words in _RUNTIME_ERRORS.items() if sign in str(error)), None)
    return None


def _is_of_torch(error: BaseException | None) -> bool:
    """Say whether torch means a lack of memory by an error."""
    if error is None or "torch" not in sys.modules:
        return False
    from synthmed.runtime.device import is_out_of_memory

    return is_out_of_memory(error)
