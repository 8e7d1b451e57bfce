"""Zip files whose directory would fill the memory."""

import io
import struct
import zipfile
from pathlib import Path

import pytest

from synthmed.files import zips
from synthmed.files.zips import open_zip


def test_members_are_read_as_ever() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"x" * 100_000)
        archive.comment = b"with a comment"
    with open_zip(buffer) as opened:
        assert opened.read("a") == b"x" * 100_000


def test_large_directory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path, size = tmp_path / "x.zip", 3 << 30
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size - 100, 100, 0))
    with path.open("rb") as read, pytest.raises(zipfile.BadZipFile, match="more than 64 MiB"), open_zip(read):
        pass


def test_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(11):
            archive.writestr(str(number), b"")
    monkeypatch.setattr(zips, "MAX_ENTRIES", 10)
    with pytest.raises(zipfile.BadZipFile, match="11 entries, more than 10"), open_zip(buffer):
        pass
