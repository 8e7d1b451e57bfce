"""Walking the headers of a tar file from outside: nothing is unpacked, memory is bounded, a broken tar is an error."""

from __future__ import annotations

import os
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from synthmed.errors import DataError

MAX_HEADER_BYTES = 64 * 1024
"""Of one member, with its PAX records, long names and sparse maps."""
MAX_GLOBAL_RECORDS = 64
MAX_END_BYTES = tarfile.RECORDSIZE + tarfile.BLOCKSIZE
"""Two blocks of zeros end a tar, and writers go on with zeros to the end of a record."""

_BROKEN_TAR = (
    tarfile.TarError,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    IndexError,
    KeyError,
    struct.error,
)


class _Headers:
    """A file as tarfile sees it: headers alone, and no more of them than one member may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.tell = file.tell
        self.left = MAX_HEADER_BYTES

    def seek(self, position: int) -> int:
        if not 0 <= position <= self._size:
            raise tarfile.ReadError("a member ends outside the file")
        return self._file.seek(position)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"a header needs more than {MAX_HEADER_BYTES} bytes")
        self.left -= size
        return self._file.read(size)


def walk_tar(path: Path, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield every member of an uncompressed tar, whatever its kind; the caller may move the file's position.

    Args:
        path: To name the file in errors.
        file: Opened for reading, seekable.

    Raises:
        DataError: The file is no tar, is cut short, goes on behind its end, holds zeros in the place of members, or a
            header is broken or too large.
    """
    headers = _Headers(file)
    last = ""
    try:
        with tarfile.open(fileobj=cast(IO[bytes], headers), mode="r:") as archive:
            while (info := archive.next()) is not None:
                last = f", after member {info.name[:200]!r}"
                # A negative size would lead backwards, and the walk would never end.
                if info.size < 0 or archive.offset <= info.offset or len(archive.pax_headers) > MAX_GLOBAL_RECORDS:
                    raise tarfile.ReadError("a header is not valid")
                yield info
                # tarfile keeps every header it has seen; ours are used once.
                archive.members.clear()  # type: ignore[attr-defined]
                headers.left = MAX_HEADER_BYTES
            end = archive.offset
    except _BROKEN_TAR as error:
        raise DataError(f"{path} is not a whole tar file: {error}{last}", "make it again") from error
    _check_end(path, file, end, last)


def _check_end(path: Path, file: IO[bytes], end: int, last: str) -> None:
    # tarfile takes a missing end, a broken header and zeros for the end: a cut file would pass for a short one.
    zeros = file.seek(0, os.SEEK_END) - end
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(f"{path} is cut short or broken at byte {end}{last}", "make it again")
    while block := file.read(1 << 20):
        if block.count(0) != len(block):
            raise DataError(f"{path} goes on behind its end at byte {end}{last}", "make it again")
    if not last or zeros > MAX_END_BYTES:
        raise DataError(f"{path} holds {zeros} bytes of zeros{last}, as a power cut leaves them", "make it again")
    if zeros < 2 * tarfile.BLOCKSIZE or zeros % tarfile.BLOCKSIZE:
        raise DataError(f"{path} is cut short or broken behind byte {end}{last}", "make it again")
