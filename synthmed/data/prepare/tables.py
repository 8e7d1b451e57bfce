"""The CSV tables of releases."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from synthmed.errors import DataError


def read_table(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a CSV with a header.

    Raises:
        DataError: The file is missing, is no CSV in UTF-8, has no rows, or not the columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            found = reader.fieldnames or []
            for column in columns:
                if column not in found:
                    raise DataError(f"{path} has no column {column!r}", f"it has: {', '.join(found) or 'none'}")
            for row in reader:
                yield reader.line_num, row
            if reader.line_num < 2:
                raise DataError(f"{path} has no rows")
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}", "give the folder into which the release was unpacked") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path} as CSV: {error}") from error


def read_groups(path: Path) -> dict[str, str]:
    """Return image -> group from a CSV with a column `group`; the first other column names the image.

    Raises:
        DataError: No column `group`, no other column, an empty group, or an image in two groups.
    """
    groups: dict[str, str] = {}
    for line, row in read_table(path, ("group",)):
        column = next((name for name in row if name != "group"), None)
        if column is None:
            raise DataError(f"{path} has no column that names the image", "e.g. challenge_id,group")
        image, group = row[column].strip(), row["group"].strip()
        if not group:
            raise DataError(f"{path}, line {line}: {image} has an empty group")
        if groups.setdefault(image, group) != group:
            raise DataError(f"{path}, line {line}: {image} is in two groups: {groups[image]} and {group}")
    return groups
