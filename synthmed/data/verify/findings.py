"""What is wrong with a folder, file by file: counted without end, kept within bounds."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass

KEPT_A_FILE = 20

_SHORT = reprlib.Repr()
_SHORT.maxstring = 80
_SHORT.maxother = 80


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    file: str
    """Inside the folder, with '/'."""
    problem: str
    """Names the key where it is about a sample."""


def show(value: object) -> str:
    """Return a value from a file as short text, however deep or long it is."""
    return _SHORT.repr(value)


class Findings:
    """Everything that is wrong; of each file the first are kept, so that one broken file does not hide the others."""

    def __init__(self) -> None:
        self._kept: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, file: str, problem: str) -> None:
        """Note that something is wrong with a file."""
        self._counts[file] = self._counts.get(file, 0) + 1
        kept = self._kept.setdefault(file, [])
        if len(kept) < KEPT_A_FILE:
            kept.append(problem)

    def merge(self, other: Findings) -> None:
        """Take over all findings of a part of the work."""
        for file, count in other._counts.items():
            kept = self._kept.setdefault(file, [])
            kept += other._kept[file][: KEPT_A_FILE - len(kept)]
            self._counts[file] = self._counts.get(file, 0) + count

    def first(self, limit: int) -> list[Finding]:
        """Return the findings that were kept, file by file in the order of the first of each, `limit` at most."""
        rows: list[Finding] = []
        for file, kept in self._kept.items():
            rows += [Finding(file, problem) for problem in kept]
            if (more := self._counts[file] - len(kept)) > 0:
                rows.append(Finding(file, f"and {more} more"))
            if len(rows) > limit:
                break
        return rows[:limit]
