"""Run and output folders: atomic files, the folder's configuration, resume checks and signals.

One rule for every file with a final name: it is written as `NAME.part`, flushed to disk and renamed, so that a file
under its final name is always whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import signal
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Any

from synthmed.errors import DataError, Interrupted, ResumeError
from synthmed.storage import (
    file_size,
    is_remote,
    list_folder,
    naming_read_errors,
    naming_write_errors,
    open_to_read,
    remove,
    upload,
)

STATE_FOLDER = ".synthmed"
MAX_JSON_FILE_BYTES = 256 << 20  # far above all that is written here; as objects it takes ten times the memory


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a local path to write to; its file is then flushed to disk and appears as `path`, whole or not at all.

    What goes to a store is uploaded from a temporary file, which needs its space on this machine.

    Raises:
        DeviceError: The disk is full, the quota used up or the folder read-only, or the store fails.
    """
    with (_uploaded if is_remote(path) else _renamed)(path) as part:
        yield part


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    # A name of its own, so that two processes that write the same file never write into each other's.
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as lock:
                _try_lock(lock)
                yield part
                with open(part, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def _uploaded(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="synthmed-") as folder:
        part = Path(folder) / path.name
        with naming_write_errors(part):
            yield part
        with naming_write_errors(path):
            upload(part, path)


def _try_lock(file: IO[bytes]) -> bool:
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


def _remove_stale_parts(folders: Iterable[Path]) -> None:
    """Remove what a killed run left under temporary names; what a live process is writing stays."""
    for part in (part for folder in folders if not is_remote(folder) for part in folder.glob("*.part")):
        with contextlib.suppress(FileNotFoundError), open(part, "rb") as file:
            if _try_lock(file):
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing so that it appears whole or not at all; raises as `atomic_path`."""
    with atomic_path(path) as part, open(part, "wb") as file:
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


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing, too large or not JSON.
    """
    with naming_read_errors(path):
        size = file_size(path)
        # A pipe of that name would be waited for.
        if (size is None and path.exists()) or (size or 0) > MAX_JSON_FILE_BYTES:
            raise DataError(f"{path} is no file of JSON", f"a file of at most {MAX_JSON_FILE_BYTES >> 20} MiB")
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"no such file: {path}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"cannot read {path} as JSON: {error}") from error


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    with naming_read_errors(path), open_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def open_output(
    folder: Path, config: Mapping[str, Any], *, name: str, overwrite: bool = False, may_differ: Collection[str] = ()
) -> bool:
    """Claim an output folder for one configuration.

    Args:
        folder: Made if it is missing.
        config: Everything the output depends on; stored as `folder/name`.
        name: Path of the configuration file inside the folder.
        overwrite: Empty a folder that holds other work of synthmed.
        may_differ: Top-level keys whose new values replace those there; the caller has seen that this is right.

    Returns:
        Whether the folder already held work of the same configuration, to go on with.

    Raises:
        ResumeError: The folder holds something else; each differing field is named with both values.
    """
    path = folder / name
    wanted = json.loads(json.dumps(config))
    with naming_write_errors(folder):
        _remove_stale_parts({folder, path.parent})
        if file_size(path) is not None:
            found = read_json(path)
            if isinstance(found, dict):
                replaced = {**found, **{key: wanted[key] for key in may_differ}}
                if replaced != found and replaced == wanted:
                    write_json(path, wanted)
                    found = wanted
            differing = differences(found, wanted)
            if not differing:
                return True
            if not overwrite:
                raise ResumeError(
                    f"{folder} was made with other settings: {'; '.join(differing)}",
                    "use another folder, the same settings, or --overwrite to start anew",
                )
            clear_folder(folder)
        elif file_size(folder) is not None:
            raise ResumeError(f"{folder} is not a folder", "use another name")
        elif _holds_files(folder) and file_size(path) is None:
            raise ResumeError(f"{folder} is not empty and was not made by this command", "use another folder")
        elif file_size(path) is not None:
            # Another process of the same run came first.
            return open_output(folder, config, name=name, may_differ=may_differ)
        write_json(path, wanted)
    return False


def _holds_files(folder: Path) -> bool:
    """Say whether a folder holds anything but what is left of an earlier claim that was killed half-way."""
    if is_remote(folder):
        return bool(list_folder(folder))  # a store has no empty folders
    found = (entry for entry in folder.rglob("*") if entry.suffix != ".part")
    return any(not entry.is_dir() or entry.is_symlink() for entry in found)


def clear_folder(folder: Path) -> None:
    """Empty a folder that is ours."""
    with naming_write_errors(folder):
        for entry in list_folder(folder):
            remove(entry)


def differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    """Return `name: found -> wanted` for every leaf in which two JSON values differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted({*found, *wanted}):
            lines += differences(found.get(key), wanted.get(key), f"{prefix}.{key}" if prefix else key)
        return lines
    if found == wanted:
        return []
    return [f"{prefix}: {json.dumps(found)} there, {json.dumps(wanted)} asked for"]


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
