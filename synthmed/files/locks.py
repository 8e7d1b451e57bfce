"""Locks on files, which end with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from synthmed.files.storage import (
    is_remote,
    naming_write_errors,
)

MAX_ENTERED = 16  # a command works in one folder or two; a program that calls many does not hold all of them

_entered: dict[tuple[int, int], int] = {}
"""Device and inode of a folder that this process has entered -> its open descriptor, which holds the lock."""


def _leave_folders() -> None:
    while _entered:
        os.close(_entered.popitem()[1])


# A worker process that outlives a killed one for a moment is not at work.
os.register_at_fork(after_in_child=_leave_folders)


def try_lock(file: IO[bytes]) -> bool:
    """Lock a file for as long as it is open; `False` if somebody else has, or where files cannot be locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def wait_for_lock(file: IO[bytes]) -> None:
    """Lock a file for as long as it is open, when whoever else has it lets go; no lock where files cannot be locked."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)


@contextlib.contextmanager
def enter_folder(folder: Path) -> Iterator[bool]:
    """Enter a folder to work there until the process ends, and yield whether no other process is in it.

    Whoever is alone keeps the others waiting while the block runs, in which it is decided what the folder is for.
    Where folders cannot be locked everybody is alone.

    Args:
        folder: Made if it is missing.
    """
    lock = None if is_remote(folder) else _open_folder(folder)
    if lock is None:
        yield True
        return
    alone = True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        alone = False
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError:
        pass
    try:
        yield alone
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)


def _open_folder(folder: Path) -> int | None:
    """Return the descriptor of a folder, the same for as long as this process holds it; `None` where it is a file."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        return None
    found = os.stat(folder)
    place = found.st_dev, found.st_ino
    if place not in _entered:
        if len(_entered) == MAX_ENTERED:
            os.close(_entered.pop(next(iter(_entered))))
        _entered[place] = os.open(folder, os.O_RDONLY)
    return _entered[place]


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
