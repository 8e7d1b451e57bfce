"""What lies in a folder, zip or tar of images: which files are read, and what is said of all the others.

A name is the path inside the source, with '/'. Only names are looked at, no file is opened; whatever is not read is
kept by its reason, so that no reader drops a file in silence.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from synthmed.data.names import (
    SNAPSHOTS,
    check_class_names,
    check_splits,
    ending,
    find_rule,
    is_image,
    is_text,
    split_names,
)
from synthmed.data.prepare.raw import Problem
from synthmed.data.shards.samples import MAX_IMAGE_BYTES
from synthmed.errors import DataError
from synthmed.runtime.progress import printable

MAX_LINKS = 100
"""Links to one folder; links that lead to links to links could otherwise multiply without an end."""


@dataclass(frozen=True)
class _Step:
    """A folder on the way to another one."""

    real: str
    """Its path without links."""
    link: str = ""
    """Its name, if that is a link."""


@dataclass
class Contents:
    """The files of a folder, zip or tar by what becomes of them."""

    path: Path
    exclude: Sequence[str] = ()
    """Shell patterns of what to pass over; see `excluded_by`."""
    tables: Collection[str] = ()
    """File names that are read beside images."""
    files: dict[str, int] = field(default_factory=dict)
    """Images and tables, with their size in bytes; of a folder in the order of the walk."""
    folders: set[str] = field(default_factory=set)
    passed_over: dict[str, list[str]] = field(default_factory=dict)
    """Rule, as the user is told it -> files."""
    unread: dict[str, list[str]] = field(default_factory=dict)
    """Ending -> files that are no images by it."""
    problems: list[Problem] = field(default_factory=list)
    """Images that cannot be read, for what their name or kind is, and links that lead nowhere."""
    loops: set[str] = field(default_factory=set)
    """Links that lead back to a folder that they lie in."""
    remarks: list[str] = field(default_factory=list)

    def images(self) -> list[str]:
        """Return the names of all images."""
        return [name for name in self.files if is_image(name)]

    def excluded(self) -> list[str]:
        """Return the files that a pattern of `exclude` passes over."""
        return [name for pattern in self.exclude for name in self.passed_over.get(f"--exclude {pattern}", ())]

    def add(self, name: str, size: int, problem: str = "") -> bool:
        """Put a file in its place, and return whether it is one to read.

        Args:
            name: Path inside the source.
            size: In bytes.
            problem: Why it cannot be read although its name is that of an image.
        """
        if rule := find_rule(name, self.exclude):
            self.passed_over.setdefault(rule, []).append(name)
        elif not is_image(name) and PurePosixPath(name).name not in self.tables:
            self.unread.setdefault(ending(name), []).append(name)
        elif problem := problem or self._find_problem(name, size):
            self.refuse(name, problem)
        else:
            self.files[name] = size
            return True
        return False

    def refuse(self, name: str, problem: str, reason: str = "refused") -> None:
        """Put down why an image cannot be read."""
        self.problems.append(Problem(printable(name), reason, printable(problem)))

    def _find_problem(self, name: str, size: int) -> str:
        if not is_text(name):
            return "its name is not UTF-8 or cannot be printed"
        if size > MAX_IMAGE_BYTES:
            return f"it has {size} bytes, at most {MAX_IMAGE_BYTES} are read"
        return "there is another file of this name" if name in self.files else ""

    def walk(self) -> None:
        """Add all files below the folder, links followed: those of a folder sorted, then those of its sub-folders.

        A link that leads back to a folder that it lies in is not followed. Of several links that lead in a circle that
        is the first whose images are listed elsewhere in the source, else the last.

        Raises:
            DataError: There is no such folder, or one in it cannot be read, or is linked to without an end.
        """
        if not self.path.is_dir():
            raise DataError(f"no such folder: {self.path}")
        num_links = Counter[str]()
        waiting: list[tuple[str, tuple[_Step, ...]]] = [("", (_Step(os.path.realpath(self.path)),))]
        while waiting:
            place, steps = waiting.pop()
            if any(step.link in self.loops for step in steps):
                continue
            below: list[tuple[str, tuple[_Step, ...]]] = []
            for name, step in self._add_entries(place, steps[-1].real):
                if step.real in (real_paths := [each.real for each in steps]):
                    circle = [each for each in (*steps[real_paths.index(step.real) + 1 :], step) if each.link]
                    inside = (each.link for each in circle if Path(each.real).is_relative_to(real_paths[0]))
                    self.loops.add(next(inside, circle[-1].link))
                    continue
                num_links[step.real] += bool(step.link)
                if num_links[step.real] > MAX_LINKS:
                    raise DataError(f"{self.path} has more than {MAX_LINKS} links to {step.real}", "remove some")
                self.folders.add(name)
                below.append((f"{name}/", (*steps, step)))
            waiting += reversed(below)
        if self.loops:
            self._forget(self.loops)

    def _add_entries(self, place: str, real: str) -> Iterator[tuple[str, _Step]]:
        """Add the files at a place, whose real path is `real`, and yield its folders."""
        for entry in _entries(self.path / place):
            name, is_link = place + entry.name, entry.is_symlink()
            try:
                found = entry.stat()
            except OSError:
                self._add_unreachable(name, entry)
                continue
            if not stat.S_ISDIR(found.st_mode):
                self.add(name, found.st_size, "" if stat.S_ISREG(found.st_mode) else "it is not a file")
            elif rule := find_rule(name, self.exclude):
                self.passed_over.setdefault(rule, []).extend(_names_below(self.path, name, rule))
            elif is_link:
                yield name, _Step(os.path.realpath(entry.path), name)
            else:
                yield name, _Step(os.path.join(real, entry.name))

    def _forget(self, links: Collection[str]) -> None:
        """Take out what was found below links that turned out to lead back."""
        below = tuple(f"{link}/" for link in links)
        self.files = {name: size for name, size in self.files.items() if not name.startswith(below)}
        self.folders = {name for name in self.folders if not f"{name}/".startswith(below)}
        shown = tuple(map(printable, below))
        self.problems = [problem for problem in self.problems if not problem.source.startswith(shown)]
        for named in (self.unread, self.passed_over):
            named.update({word: [n for n in names if not n.startswith(below)] for word, names in named.items()})

    def _add_unreachable(self, name: str, entry: os.DirEntry[str]) -> None:
        if rule := find_rule(name, self.exclude):
            self.passed_over.setdefault(rule, []).append(name)
            return
        target = f"a link to {os.readlink(entry.path)}, which is not there" if entry.is_symlink() else "not there"
        self.refuse(name, f"it is {target}", "missing")
        if not is_image(name):
            self.folders.add(name)  # most likely on a disk that is missing

    def class_folders(self, place: str = "") -> list[str]:
        """Return the names of the folders at a place, each of which is a class, sorted.

        Args:
            place: Folder that they lie in, with '/' at its end; empty for the top.

        Raises:
            DataError: One is a split by its name, holds no image or has a name that cannot be used, or two names mean
                the same.
        """
        depth = place.count("/") + 1
        paths = {"/".join(folder.split("/")[:depth]) for folder in self.folders if folder.startswith(place)}
        names = sorted(path[len(place) :] for path in paths if not find_rule(path, self.exclude))
        check_class_names(names, self.path / place)
        check_splits(names, self.path / place)
        inside = [name.split("/")[depth - 1 :] for name in self.images() if name.startswith(place)]
        filled = {parts[0] for parts in inside if len(parts) > 1}
        for name in names:
            if name not in filled:
                what = f"class folder {name!r} of {self.path / place} holds no image that can be read"
                raise DataError(what + self.explain(place + name), f"--exclude {name!r} leaves it out")
        if splits := split_names(sorted({parts[1] for parts in inside if len(parts) > 2})):
            self.remarks.append(f"folders inside the class folders are no splits here: {', '.join(splits)}")
        return names

    def explain(self, place: str = "") -> str:
        """Return what lies at a place and is not read, after a colon, for an error that no image does."""
        at_place = [problem for problem in self.problems if _lies_in(problem.source, printable(place))]
        parts = []
        if at_place:
            first = at_place[0]
            parts.append(f"{_count(at_place, 'image')} refused, the first: {first.source}: {first.detail}")
        for named in (self.unread, self.passed_over):
            here = {word: [name for name in names if _lies_in(name, place)] for word, names in named.items()}
            if any(here.values()):
                parts.append(_tally(here) + (" passed over" if named is self.passed_over else ""))
        return ": " + "; ".join(parts) if parts else ""

    def notes(self) -> list[str]:
        """Return what to tell the user about all that is not read."""
        notes = list(self.remarks)
        for named, what in ((self.unread, "not read"), (self.passed_over, "passed over")):
            if names := [name for names in named.values() for name in names]:
                notes.append(f"{_count(names, 'file')} {_are(names)} {what}: {_tally(named)}, e.g. {min(names)}")
        if self.loops:
            which = ", ".join(sorted(self.loops)[:3]) + (", ..." if len(self.loops) > 3 else "")
            what = f"{_count(self.loops, 'link')} that lead{'s' if len(self.loops) == 1 else ''} back to a folder above"
            notes.append(f"{what} {_are(self.loops)} not followed: {which}")
        unused = [pattern for pattern in self.exclude if f"--exclude {pattern}" not in self.passed_over]
        return notes + [f"--exclude {pattern} fits no file in {self.path}" for pattern in unused]


def read_folder(path: Path, exclude: Sequence[str] = (), tables: Collection[str] = ()) -> Contents:
    """Return what lies in a folder, links followed.

    Args:
        path: The folder.
        exclude: Shell patterns of what to pass over.
        tables: File names that are read beside images.

    Raises:
        DataError: There is no such folder, or one in it cannot be read.
    """
    contents = Contents(path, exclude, tables)
    contents.walk()
    return contents


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}", "--exclude leaves it out") from error


def _names_below(source: Path, folder: str, rule: str) -> list[str]:
    """Return the files of a folder that is passed over, so that they are counted; links in it are not followed."""
    if rule in SNAPSHOTS:
        return [folder]
    walked = ((Path(place).relative_to(source).as_posix(), files) for place, _, files in os.walk(source / folder))
    return [f"{place}/{file}" for place, files in walked for file in sorted(files)]


def _lies_in(name: str, place: str) -> bool:
    return not place or name == place or name.startswith(f"{place}/")


def _tally(named: dict[str, list[str]]) -> str:
    """Return counts in words, the largest first: `10 .dcm, 2 .xml`."""
    counts = sorted(((len(names), word) for word, names in named.items() if names), key=lambda c: (-c[0], c[1]))
    return ", ".join(f"{count} {word}" for count, word in counts[:8]) + (", ..." if len(counts) > 8 else "")


def _count(things: Collection[object], noun: str) -> str:
    return f"{len(things)} {noun}" + ("s" if len(things) != 1 else "")


def _are(things: Collection[object]) -> str:
    return "is" if len(things) == 1 else "are"
