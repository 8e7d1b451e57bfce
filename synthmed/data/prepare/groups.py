"""Whose image it is: patients by a pattern in names or by a table; a wrong one is a leak between splits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from synthmed.data.labels import Classes
from synthmed.data.prepare.columns import (
    BY_HEADER,
    NOBODY,
    ColumnNames,
    check_image_column,
    choose_groups,
    settle_names,
)
from synthmed.data.prepare.image_names import ImageNames
from synthmed.data.prepare.raw import RawItem
from synthmed.data.prepare.tables import listed, open_table
from synthmed.errors import DataError, UsageError
from synthmed.runtime.progress import log

OWN_GROUP_NOTE = (
    "no patients are known: each image is its own group; if a patient can have several images, give --groups"
)


@dataclass(frozen=True, slots=True)
class GroupRow:
    """What a table of patients says of one image."""

    line: int
    image: str
    group: str
    label: str
    """Empty where the table does not say."""


@dataclass(frozen=True)
class GroupTable:
    """A table of patients, and what it calls its columns."""

    path: Path
    columns: Mapping[str, str]
    """image, group and perhaps label -> name in the header."""
    rows: Sequence[GroupRow]


def compile_pattern(pattern: str | None, groups: Path | None) -> re.Pattern[str] | None:
    """Return --group-pattern as an expression, `None` where it is not given.

    Raises:
        UsageError: It is no regular expression, or a table is given, too.
    """
    if pattern is not None and groups is not None:
        raise UsageError("--group-pattern and --groups were both given", "one of them says which patient an image has")
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group-pattern is not a regular expression: {pattern!r}: {error}") from error


def match_group(pattern: re.Pattern[str], text: str) -> str:
    """Return the patient that a pattern finds in an image's path.

    Raises:
        DataError: It finds none.
    """
    match = pattern.search(text)
    group = match and (match[1] if pattern.groups else match[0])
    if not group:
        raise DataError(f"--group-pattern {pattern.pattern!r} finds no group in {text!r}")
    return group


def read_groups(path: Path, names: ColumnNames = BY_HEADER) -> GroupTable:
    """Return a table of patients: the column `group` names the patient, another one the image.

    Args:
        path: A CSV.
        names: Columns that the user named.

    Raises:
        DataError: It lacks a column, a cell of it names nobody, or an image is in two groups.
    """
    table = open_table(path, lambda header: choose_groups(header, names))
    cells = list(table.rows())
    if names.image is None:
        check_image_column(table.header, table.columns["image"], [row["image"] for _, row in cells])
    groups = settle_names(table.header, table.columns["group"], [(line, row["group"]) for line, row in cells], NOBODY)
    rows = [
        GroupRow(line, row["image"], group, row.get("label", ""))
        for (line, row), group in zip(cells, groups, strict=True)
    ]
    first: dict[str, GroupRow] = {}
    for row in rows:
        _check_same(path, first.setdefault(row.image, row), row)
    return GroupTable(path, {what: table.name_of(what) for what in table.columns}, rows)


def give_groups(items: Sequence[RawItem], classes: Classes, path: Path, names: ColumnNames) -> list[RawItem]:
    """Return images with the patients that a table says.

    Args:
        items: All images of a release.
        classes: Theirs; where the table has a column of classes it must say the same.
        path: A CSV.
        names: Columns that the user named.

    Raises:
        DataError: The table cannot be used, lacks an image, or says another class of one.
    """
    table = read_groups(path, names)
    images = ImageNames(item.source for item in items)
    meant = [(images.find(row.image, f"{path}, line {row.line}"), row) for row in table.rows]
    found: dict[str, GroupRow] = {}
    for image, row in meant:
        if image is not None:
            _check_same(path, found.setdefault(image, row), row)
    if lacking := [item.source for item in items if item.source not in found]:
        raise DataError(
            f"{path} has no group for {len(lacking)} of {len(items)} images, the first: {lacking[0]}",
            f"every image needs a row; column {table.columns['image']!r} has e.g. {table.rows[0].image!r}",
        )
    if others := [row for image, row in meant if image is None]:
        first = f"the first in line {others[0].line}: {others[0].image!r}"
        log(f"{path}: {len(others)} of {len(table.rows)} rows name no image, {first}")
    _check_classes(table, [(image, row) for image, row in meant if image and row.label], items, classes)
    grouped = [replace(item, group=found[item.source].group) for item in items]
    check_groups(f"{path}: column {table.columns['group']!r}", grouped)
    return grouped


def _check_same(path: Path, first: GroupRow, row: GroupRow) -> None:
    if first.group != row.group:
        raise DataError(
            f"{path}, line {row.line}: {row.image} is in two groups: {first.group} and {row.group}",
            f"see line {first.line}",
        )


def _check_classes(
    table: GroupTable, rows: Sequence[tuple[str, GroupRow]], items: Sequence[RawItem], classes: Classes
) -> None:
    """See that a table of patients which also has classes means the same ones."""
    labels = {word: classes.find(word) for word in sorted({row.label for _, row in rows})}
    if labels and all(label is None for label in labels.values()):
        log(f"{table.path}: column {table.columns['label']!r} is not used: {listed(labels)} is no class")
        return
    label_of = {item.source: item.label for item in items}
    for image, row in rows:
        if labels[row.label] != label_of[image]:
            raise DataError(
                f"{table.path}, line {row.line}: {row.image} is {row.label}, but {image} is {classes[label_of[image]]}",
                "one of them is wrong",
            )


def check_groups(where: str, items: Sequence[RawItem]) -> None:
    """See that a column of patients does not say the same for all images, or just their class.

    Args:
        where: What an error calls the column.
        items: All images, with their patients.

    Raises:
        DataError: It does, so that no patient could be held back for a test.
    """
    pairs = {(item.group, item.label) for item in items}
    groups = {group for group, _ in pairs}
    if len(groups) == 1 and len(items) > 1:
        raise DataError(f"{where} has one value only: {groups.pop()!r}", "one patient cannot be in three splits")
    if len(pairs) == len(groups) == len({label for _, label in pairs}):
        raise DataError(
            f"{where} says the class, not the patient: {listed(sorted(groups))}", "a value a patient is needed"
        )
