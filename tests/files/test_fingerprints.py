"""Fingerprints of files: what changes them, and when they are not to be trusted."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from synthmed.files.fingerprints import RACY_NS, fingerprint, is_same, source_changed
from synthmed.files.storage import location


def rewrite(path: Path) -> None:
    """Write other bytes of the same number and set the time of writing back."""
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    """Put another file of the same size and time in the place of this one."""
    other = path.with_name("other")
    other.write_bytes(b"32")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, replace, os.utime, lambda path: path.write_bytes(b"123")])
def test_every_change_of_a_file_changes_its_fingerprint(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12")
    before = fingerprint(path)
    path.read_bytes()
    assert fingerprint(path) == before
    change(path)
    assert fingerprint(path) != before


def test_store_has_fingerprints_too(tmp_path: Path) -> None:
    path = location("memory://fingerprints/a")
    assert fingerprint(path) is fingerprint(tmp_path / "a") is None
    path.write_bytes(b"12")
    before = fingerprint(path)
    assert fingerprint(path) == before
    path.write_bytes(b"21")
    assert fingerprint(path) != before


def test_fingerprint_of_a_file_changed_shortly_before_is_not_trusted() -> None:
    old: list[int | str] = [2, 1000, 2000, 7]
    assert is_same(old, list(old), 2001 + RACY_NS)
    assert not is_same(old, list(old), 2000 + RACY_NS)
    assert not is_same(old, [*old[:3], 8], 1 << 62)
    assert is_same([2, "etag"], [2, "etag"], 0) and not is_same([2], [2], 0)
    assert is_same(None, None, 0)
    assert not is_same(None, old, 1 << 62) and not is_same(old, None, 1 << 62)


def test_message_counts_the_files_and_says_what_to_do() -> None:
    error = source_changed("a.png", 1)
    assert error.exit_code == 3
    assert str(error).startswith("the source has changed since it was checked: a.png, 1 file (")
    assert "--overwrite" in str(error) and "another folder" in str(error)
    assert "a.png, 2 files" in str(source_changed("a.png", 2))
