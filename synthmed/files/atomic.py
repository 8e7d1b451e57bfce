"""Files that appear whole or not at all.

Every file with a final name is written as `NAME.part`, flushed to disk and renamed, so that a file under its final name
is always whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from synthmed.files.locks import wait_for_lock
from synthmed.files.storage import (
    is_remote,
    naming_write_errors,
    upload,
)


@contextlib.contextmanager
def atomic_path(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a local path to write to; its file is then flushed to disk and appears as `path`, whole or not at all.

    What goes to a store is uploaded from a temporary file, which needs its space on this machine.

    Args:
        path: Final name.
        flush: False leaves it to the caller to flush many files at once.

    Raises:
        DeviceError: The disk is full, the quota used up or the folder read-only, or the store fails.
    """
    with _uploaded(path) if is_remote(path) else _renamed(path, flush) as part:
        yield part


@contextlib.contextmanager
def _renamed(path: Path, flush: bool) -> Iterator[Path]:
    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part, lock = _open_part(path)
        try:
            with lock:
                yield part
                if flush:
                    with open(part, "rb") as file:
                        os.fsync(file.fileno())
                os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        if flush:
            sync_folder(path.parent)


def _open_part(path: Path) -> tuple[Path, IO[bytes]]:
    """Return a new file beside `path`, locked, and so left alone by other processes; each has a name of its own."""
    while True:
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        lock = open(part, "wb")  # noqa: SIM115 - handed on
        wait_for_lock(lock)
        # Before it was locked, another process may have removed it as left of a killed run.
        if os.fstat(lock.fileno()).st_nlink:
            return part, lock
        lock.close()


@contextlib.contextmanager
def _uploaded(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="synthmed-") as folder:
        part = Path(folder) / path.name
        with naming_write_errors(part):
            yield part
        with naming_write_errors(path):
            upload(part, path)


@contextlib.contextmanager
def atomic_file(path: Path, *, flush: bool = True) -> Iterator[IO[bytes]]:
    """Open `path` for writing so that it appears whole or not at all; as `atomic_path`."""
    with atomic_path(path, flush=flush) as part, open(part, "wb") as file:
        yield file


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a fixed key order, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())
