"""Locks on files, which end with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from synthmed.files.storage import (
    naming_write_errors,
)


def try_lock(file: IO[bytes]) -> bool:
    """Lock a file for as long as it is open; `False` if somebody else has, or where files cannot be locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def claim_file(path: Path) -> Iterator[bool]:
    """Yield whether no other process has claimed the same; the claim ends with the block, or with the process.

    Where files cannot be locked every process gets what it claims: they may do the same work twice.

    Args:
        path: A file of this machine or of a file system that it shares with others; made if it is missing, and left.
    """
    with naming_write_errors(path):
        lock = _open_lock(path)
    with lock:
        mine = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine = False
        except OSError:
            pass
        yield mine


def _open_lock(path: Path) -> IO[bytes]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever ends the work removes the folder, perhaps at this very moment.
        with contextlib.suppress(FileNotFoundError):
            return open(path, "ab")
