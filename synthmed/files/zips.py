"""Opening zip files from outside: the directory, which Python reads into memory whole, is bounded first."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from typing import IO, cast

MAX_DIRECTORY_BYTES = 64 << 20
MAX_ENTRIES = 1_000_000

_ENTRY = b"PK\1\2"


class _Bounded:
    """A file as zipfile sees it while it looks for the directory: no more of it than the bounds."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, MAX_DIRECTORY_BYTES + 1) if size >= 0 else MAX_DIRECTORY_BYTES + 1)
        if len(data) > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory has more than {MAX_DIRECTORY_BYTES >> 20} MiB")
        if (count := data.count(_ENTRY)) > MAX_ENTRIES:
            raise zipfile.BadZipFile(f"its directory has {count} entries, more than {MAX_ENTRIES}")
        return data


@contextlib.contextmanager
def open_zip(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Open a zip file for reading.

    Raises:
        zipfile.BadZipFile: It is none, is broken, or its directory is too large.
    """
    # What zipfile reads is bounded, not what an end record says: of two records it may take the other one.
    with zipfile.ZipFile(cast(IO[bytes], _Bounded(file))) as archive:
        archive.fp = file
        yield archive
