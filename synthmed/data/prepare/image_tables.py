"""A folder of images with a table of their labels, as most downloads are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthmed.data.datasets import folder_info
from synthmed.data.labels import Classes
from synthmed.data.prepare.columns import BY_HEADER, NOBODY, ColumnNames, choose_labels, describe, settle_names
from synthmed.data.prepare.groups import OWN_GROUP_NOTE, check_groups, compile_pattern, give_groups, match_group
from synthmed.data.prepare.image_names import ImageNames
from synthmed.data.prepare.raw import RawItem, Release, path_key
from synthmed.data.prepare.tables import Table, find_images, listed, open_table
from synthmed.errors import DataError, UsageError
from synthmed.runtime.progress import log


@dataclass(frozen=True, slots=True)
class _Row:
    """What the table says of one image."""

    line: int
    image: str
    label: str
    group: str | None


def read_image_table(
    source: Path,
    labels: Path,
    names: ColumnNames = BY_HEADER,
    name: str | None = None,
    group_pattern: str | None = None,
    groups: Path | None = None,
    positive: str | None = None,
) -> Release:
    """Read images in any depth of a folder, labels from a table; the sorted names in it are the classes.

    Args:
        source: Folder of the images.
        labels: CSV with a column that names the image, one of its label and perhaps one of its patient.
        names: Columns that the user named; the group is the one of `groups` where that is given.
        name: Of the data set; the folder's name by default.
        group_pattern: Regular expression that finds the patient in an image's path inside `source`.
        groups: CSV of patients.
        positive: Class whose score AUROC ranks.

    Raises:
        UsageError: Two ways to patients are given, or the pattern is no regular expression.
        DataError: The table cannot be used, or says two things of one image.
    """
    pattern = compile_pattern(group_pattern, groups)
    if pattern and names.group:
        raise UsageError("--group-pattern and --group-column were both given", "one of them says the patient")
    own = ColumnNames(names.image, names.label, None if groups else names.group)
    table = open_table(labels, lambda header: choose_labels(header, own, guess_group=not (pattern or groups)))
    log(f"{labels}: {describe(table.header, table.columns)}")
    rows = _read_rows(table)
    classes = sorted({row.label for row in rows})
    if len(classes) < 2:
        raise DataError(
            f"{labels}: column {table.name_of('label')!r} has one value only: {classes[0]!r}", "two are needed"
        )
    info = folder_info(name or source.resolve().name, classes, positive)
    items, notes = _find_items(source, table, rows, info.classes, pattern)
    if groups:
        items = give_groups(items, info.classes, groups, ColumnNames(group=names.group))
    elif "group" in table.columns:
        check_groups(f"{labels}: column {table.name_of('group')!r}", items)
    elif not pattern:
        notes.append(f"{OWN_GROUP_NOTE}, --group-column or --group-pattern")
    return Release(info, items, notes=notes)


def _read_rows(table: Table) -> list[_Row]:
    cells = list(table.rows())
    labels = settle_names(table.header, table.columns["label"], [(line, row["label"]) for line, row in cells])
    groups: Sequence[str | None] = [None] * len(cells)
    if (place := table.columns.get("group")) is not None:
        groups = settle_names(table.header, place, [(line, row["group"]) for line, row in cells], NOBODY)
    found = zip(cells, labels, groups, strict=True)
    return [_Row(line, row["image"], label, group) for (line, row), label, group in found]


def _find_items(
    source: Path, table: Table, rows: Sequence[_Row], classes: Classes, pattern: re.Pattern[str] | None
) -> tuple[list[RawItem], list[str]]:
    """Return the image of each row, and lines about those that are listed again or not at all."""
    path = table.header.path
    files = {file.relative_to(source).as_posix(): file for file in find_images(source)}
    images = ImageNames(files)
    first: dict[str, _Row] = {}
    for row in rows:
        image = images.find(row.image, f"{path}, line {row.line}") or row.image or f"line {row.line}"
        other = first.setdefault(image, row)
        if (other.label, other.group) != (row.label, row.group):
            said = [" of ".join(filter(None, (one.label, one.group))) for one in (other, row)]
            raise DataError(f"{path}: {row.image} is {said[0]} in line {other.line} and {said[1]} in line {row.line}")
    if not first.keys() & files.keys():
        names = f"column {table.name_of('image')!r} has e.g. {rows[0].image!r}, the folder {listed(files, 1)}"
        raise DataError(f"{path}: none of {len(rows)} rows names an image below {source}", names)
    items = [
        RawItem(
            files.get(image),
            image,
            path_key(image),
            classes.names.index(row.label),
            row.group or (match_group(pattern, image) if pattern else image),
        )
        for image, row in first.items()
    ]
    notes = []
    if repeated := len(rows) - len(first):
        notes.append(f"{path}: {repeated} rows name an image again and say the same of it")
    if unlisted := [image for image in files if image not in first]:
        notes.append(f"{len(unlisted)} images are not listed in {path.name} and are not used, the first: {unlisted[0]}")
    return items, notes
