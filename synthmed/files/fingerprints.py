"""Whether a file is still the one that was read: told without reading it again, as git's index does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from synthmed.errors import ResumeError
from synthmed.files.storage import is_remote, remote_version

RACY_NS = 2_000_000_000
"""A file system's clock may stand still for so long: FAT counts in two seconds."""

Fingerprint = list[int | str]


def fingerprint(path: Path) -> Fingerprint | None:
    """Return what changes whenever a file is written; `None` where there is no such file.

    On a disk that is size, time of last writing, time of last change (which no program can set back) and number. Of a
    store it is what the store says, and its size alone where that is nothing.
    """
    try:
        if is_remote(path):
            return remote_version(path)
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def is_same(kept: Sequence[int | str] | None, now: Sequence[int | str] | None, since_ns: int) -> bool:
    """Say whether a file is surely the one whose fingerprint was kept; otherwise its bytes must tell.

    Args:
        kept: Taken before the file was read.
        now: Taken now.
        since_ns: A time before the file was read, in nanoseconds since 1970. A file that was changed shortly before it
            may have been changed once more in the same tick of the file system's clock.
    """
    if kept is None or now is None:
        return kept is now
    times = kept[1:3]
    settled = bool(times) and all(isinstance(time, str) or time + RACY_NS < since_ns for time in times)
    return settled and list(kept) == list(now)


def source_changed(what: str, count: int | None = None) -> ResumeError:
    """Return the error for input that is no longer what it was when this work was begun.

    Args:
        what: The first file that differs.
        count: Files that differ; `None` where they were not counted.
    """
    files = "" if count is None else f", {count} file{'s' * (count != 1)}"
    return ResumeError(
        f"the source has changed since it was checked: {what}{files}",
        "bring back what was there, use another folder, or --overwrite to make everything anew",
    )
