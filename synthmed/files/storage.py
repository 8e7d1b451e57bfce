"""Where files lie: on a disk of this machine, or in a store behind an address such as s3://bucket/folder.

A place in a store works like a path (universal-pathlib over fsspec). Where the two differ, the difference stands here.
What goes wrong with either becomes ours in `naming_read_errors` and `naming_write_errors`: what touches a place that
may be remote stands inside one of them.
"""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from synthmed.errors import DataError, DeviceError, UsageError

STORE_REMEDY = "check the address, the credentials and the connection, and run the same command again"

_WRITE_CAUSES = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EACCES: ("no permission to write", "choose another folder or change its permissions"),
    errno.EPERM: ("no permission to write", "choose another folder or change its permissions"),
    errno.ENOENT: ("there is no such place, or it was removed meanwhile", "choose another folder"),
    errno.ELOOP: ("its links lead in a circle", "choose another folder"),
    errno.EMFILE: ("too many files are open", "choose fewer workers, or raise the limit: ulimit -n"),
    errno.ENOTDIR: ("a part of the path is a file", "choose another folder"),
    errno.EEXIST: ("a part of the path is a file", "choose another folder"),
    errno.EISDIR: ("there is a folder of that name", "choose another folder"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.EFBIG: ("the file is too large for its file system", "choose another folder"),
    errno.EIO: ("the disk failed", "check the disk and run the same command again"),
    errno.ESTALE: ("the mounted folder is gone", "mount it and run the same command again"),
}


def location(place: str | Path) -> Path:
    """Return a path of this machine, or one behind an address such as s3://bucket/folder, which works like a path.

    Raises:
        UsageError: What reads such addresses is not installed, or the address holds a pattern.
    """
    if not isinstance(place, str):
        return place
    protocol, separator, _ = place.partition("://")
    if not separator:
        return Path(place)
    if set(place) & set("*?[]"):
        raise UsageError(f"cannot use {place}", "the signs * ? [ ] have a meaning of their own in addresses")
    try:
        from fsspec import get_filesystem_class
        from upath import UPath

        get_filesystem_class(protocol)
        # Other processes write to the same folder: a listing is old at once.
        return cast(Path, UPath(place, use_listings_cache=False))
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"cannot use {place}: {error}",
            f"pip install 'synthmed[remote]' and the fsspec driver for {protocol}:// (s3fs, gcsfs, adlfs, ...)",
        ) from error


def is_remote(path: Path) -> bool:
    """Say whether a path is an address such as s3://bucket/folder, seen through fsspec."""
    return not isinstance(path, Path)


def open_to_read(path: Path) -> io.BufferedReader:
    """Return an open file; of a store, one that fetches large blocks."""
    if is_remote(path):
        return cast(io.BufferedReader, _file_system(path).open(path.path, "rb"))  # type: ignore[attr-defined]
    return path.open("rb")


def read_range(path: Path, offset: int, length: int) -> bytes:
    """Return some bytes of a file, fewer where it ends before; of a store, in one request for these bytes alone."""
    if is_remote(path):
        own: str = path.path  # type: ignore[attr-defined]
        return cast(bytes, _file_system(path).cat_file(own, start=offset, end=offset + length))
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def file_size(path: Path) -> int | None:
    """Return the size of a file in bytes; `None` where there is no such file.

    Other than `Path.is_file` of a store, it does not take a store that fails for one that has no such file.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def list_folder(folder: Path) -> list[Path]:
    """Return what lies in a folder, by name; nothing where it is missing."""
    try:
        if not is_remote(folder):
            return sorted(folder.iterdir())
        own: str = folder.path  # type: ignore[attr-defined]
        names = (name.rstrip("/") for name in _file_system(folder).ls(own, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    # A store may list an object that stands for the folder itself.
    return sorted(folder / name.rpartition("/")[2] for name in names if name != own.rstrip("/"))


def upload(file: Path, path: Path) -> None:
    """Put a local file into a store; an object store shows it when all of it has arrived."""
    _file_system(path).put_file(str(file), path.path)  # type: ignore[attr-defined]


def remove(path: Path) -> None:
    """Remove a file, link or whole folder."""
    if is_remote(path):
        _file_system(path).rm(path.path, recursive=True)  # type: ignore[attr-defined]
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def naming_read_errors(path: Path) -> Iterator[None]:
    """Turn the errors a disk or a store can give into one line that names what could not be read.

    Raises:
        DataError: Instead of them.
    """
    try:
        with _as_os_errors(path):
            yield
    except OSError as error:
        remedy = STORE_REMEDY if is_remote(path) else None
        raise DataError(f"cannot read {path}: {error.strerror or error}", remedy) from error


@contextlib.contextmanager
def naming_write_errors(path: Path) -> Iterator[None]:
    """Turn the errors a disk or a store can give into one line that names what could not be written.

    Raises:
        DeviceError: Instead of them.
    """
    try:
        with _as_os_errors(path):
            yield
    except OSError as error:
        reason = error.strerror or str(error)
        if is_remote(path):
            problem, remedy = reason, STORE_REMEDY
        else:
            problem, remedy = _WRITE_CAUSES.get(error.errno or 0, (reason, "choose another folder"))
        raise DeviceError(f"cannot write {path}: {problem}", remedy) from error


@contextlib.contextmanager
def _as_os_errors(path: Path) -> Iterator[None]:
    """Turn what a store's driver raises of its own (botocore's exceptions are no OSErrors) into OSErrors."""
    try:
        yield
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] in ("builtins", "synthmed")
        if ours or isinstance(error, OSError) or not is_remote(path):
            raise
        raise OSError(str(error) or type(error).__name__) from error


def _file_system(path: Path) -> Any:
    """Return the store's file system of this process: a forked loader worker must not use its parent's connection."""
    from fsspec import filesystem

    return filesystem(path.protocol, **path.storage_options)  # type: ignore[attr-defined]
