"""CSV tables in whatever dialect a program wrote them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from synthmed.data.labels import normalise
from synthmed.errors import DataError
from synthmed.runtime.progress import log

MAX_TABLE_BYTES = 256 * 2**20
MAX_ROWS = 2_000_000
MAX_LINE = 2**20
"""Characters; nothing longer is a row of names and labels."""
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SEPARATOR_LINE = re.compile(r"\"?sep=([,;|\t])\"?[,;|\t]*[\r\n]*")  # as Excel writes it in front of the header
ENCODINGS = {b"\xef\xbb\xbf": "UTF-8-sig", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
OTHER_FILES = {
    b"PK\x03\x04": "an Excel workbook or a zip",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "compressed with gzip",
}


@dataclass(frozen=True)
class Header:
    """The names of a table's columns, before it is known which of them are needed."""

    path: Path
    columns: tuple[str, ...]
    """Without the blanks around them; '' where a column has no name."""

    def find(self, name: str) -> int | None:
        """Return the position of a column, `None` where there is none; case, '-', '_' and blanks do not matter.

        Raises:
            DataError: Two columns are called so.
        """
        found = [place for place, column in enumerate(self.columns) if normalise(column) == normalise(name)]
        if len(found) > 1:
            raise DataError(f"{self.path} has {len(found)} columns called {name!r}", "rename all but one")
        return found[0] if found else None

    def need(self, name: str) -> int:
        """Return the position of a column.

        Raises:
            DataError: No column is called so, or two are.
        """
        if (place := self.find(name)) is None:
            raise DataError(f"{self.path} has no column {name!r}", f"it has: {self}")
        return place

    def __str__(self) -> str:
        return listed(column or "(no name)" for column in self.columns)


Choose = Callable[[Header], Mapping[str, int]]
"""Says which columns of a header are meant: what they are -> position. Raises DataError where they are not there."""


@dataclass(frozen=True)
class Table:
    """A CSV whose header has the columns that are needed."""

    header: Header
    columns: Mapping[str, int]
    """What a column is -> its position."""
    content: _Content
    separator: str

    def name_of(self, what: str) -> str:
        """Return what the header calls a column."""
        return self.header.columns[self.columns[what]]

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield (line number, what a column is -> its cell without the blanks around it).

        Raises:
            DataError: There are no rows, or one has not the cells that the header has.
        """
        path, width, used = self.header.path, len(self.header.columns), max(self.columns.values(), default=0)
        records = self.content.records(self.separator)
        next(records)
        number = 0
        for number, (line, cells) in enumerate(records, start=1):
            if number > MAX_ROWS:
                raise DataError(f"{path} has over {MAX_ROWS} rows")
            # Spreadsheets leave out empty cells at the end of a row, and add some.
            if len(cells) <= used or any(cells[width:]):
                raise DataError(
                    f"{path}, line {line} has {len(cells)} cells, the header {width}", f"it has: {self.header}"
                )
            yield line, {what: cells[place] for what, place in self.columns.items()}
        if not number:
            raise DataError(f"{path} has no rows")


@dataclass(frozen=True)
class _Content:
    """The bytes of a table, and how they are text."""

    path: Path
    data: bytes
    encoding: str

    def records(self, separator: str) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, cells without the blanks around them) of all lines that hold anything."""
        reader = csv.reader(self._lines(), delimiter=separator, strict=True, skipinitialspace=True)
        try:
            for cells in reader:
                cells = [cell.strip() for cell in cells]
                if any(cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise DataError(f"{self.path}, line {reader.line_num} is no row of a CSV: {error}") from error

    def own_separator(self) -> str | None:
        """Return the separator that the first line names, if it does."""
        match = SEPARATOR_LINE.fullmatch(next(self._text(), ""))
        return match[1] if match else None

    def _lines(self) -> Iterator[str]:
        for number, line in enumerate(self._text(), start=1):
            if "\0" in line:
                raise DataError(f"{self.path} holds a NUL byte in line {number}: it is no text", "save it as UTF-8")
            if len(line) >= MAX_LINE:
                raise DataError(f"{self.path}, line {number} is no row of a CSV: it has over {MAX_LINE} characters")
            yield "\n" if number == 1 and SEPARATOR_LINE.fullmatch(line) else line

    def _text(self) -> Iterator[str]:
        with io.TextIOWrapper(io.BytesIO(self.data), self.encoding, newline="") as text:
            while line := text.readline(MAX_LINE):
                yield line

    def is_text(self) -> bool:
        """Say whether the bytes are text in this encoding."""
        try:
            for _ in self._text():
                pass
        except UnicodeDecodeError:
            return False
        return True


def read_table(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Return an iterator over (line number, row) of a CSV with a header.

    Raises:
        DataError: The file is missing, is no CSV, has no rows, or not the columns.
    """
    names = tuple(columns)
    return open_table(path, lambda header: {name: header.need(name) for name in names}).rows()


def open_table(path: Path, choose: Choose) -> Table:
    """Return a CSV, separated by whichever sign gives it a header with the columns that are needed.

    Args:
        path: Of a file or a pipe; it is read once.
        choose: Which columns are needed.

    Raises:
        DataError: The file is missing or no CSV, or not one separator alone gives the columns.
    """
    content = _read(path)
    own = content.own_separator()
    tables, errors = [], []
    for separator in (own,) if own else SEPARATORS:
        cells: list[str] = []
        try:
            _, cells = next(content.records(separator), (0, cells))
            header = Header(path, tuple(cells))
            tables.append(Table(header, choose(header), content, separator))
        except DataError as error:
            errors.append((len(cells), error))
    if not tables:
        raise max(errors, key=lambda found: found[0])[1]
    if len(tables) > 1:
        signs = " or ".join(SEPARATORS[table.separator] for table in tables)
        raise DataError(f"{path} may be separated by {signs}", "save it with commas")
    _tell_dialect(tables[0])
    return tables[0]


def _tell_dialect(table: Table) -> None:
    how = [] if table.separator == "," else [f"{SEPARATORS[table.separator]}-separated"]
    if not table.content.encoding.startswith("UTF-8"):
        how.append(table.content.encoding)
    if how:
        log(f"{table.header.path} is read as {' '.join(how)} text")


def _read(path: Path) -> _Content:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder", "a CSV is needed") from error
    except OSError as error:
        raise DataError(f"cannot read {path} as CSV: {error.strerror}") from error
    if len(data) > MAX_TABLE_BYTES:
        raise DataError(f"{path} is too large for a table", f"at most {MAX_TABLE_BYTES} bytes")
    for start, kind in OTHER_FILES.items():
        if data.startswith(start):
            raise DataError(f"{path} is no CSV: it is {kind}", "save it as CSV")
    marked = [encoding for mark, encoding in ENCODINGS.items() if data.startswith(mark)]
    # A code page of one byte a sign tells all names apart, whatever it takes them for.
    encodings = marked or ["UTF-8", "Windows-1252"]
    for encoding in encodings:
        if (content := _Content(path, data, encoding)).is_text():
            return content
    raise DataError(f"cannot read {path} as CSV: it is no text in {' or '.join(encodings)}")


def find_table(source: Path, name: str) -> Path:
    """Return the table of a release: in its folder, or one or two folders below.

    Raises:
        DataError: There is none, or more than one.
    """
    for depth in range(3):
        below = [path.relative_to(source) for path in source.glob("*/" * depth + name) if path.is_file()]
        found = sorted(path for path in below if not path.as_posix().startswith("."))
        if len(found) > 1:
            raise DataError(f"{source} has several {name}: {listed(map(str, found))}", "give the folder of one release")
        if found:
            return source / found[0]
    others = listed(sorted(path.name for path in source.glob("*.csv")))
    hint = "give the folder into which the release was unpacked"
    raise DataError(f"no such file: {source / name}", hint if others == "none" else f"{hint}; its tables: {others}")


def listed(words: Iterable[str], most: int = 12) -> str:
    """Return words as a phrase of bounded length."""
    every: Sequence[str] = [word if len(word) <= 60 else f"{word[:57]}..." for word in words]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return (", ".join(every[:most]) or "none") + more
