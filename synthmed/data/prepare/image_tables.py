"""A folder of images with a table of their labels, as most downloads are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthmed.data.datasets import folder_info
from synthmed.data.folders import Contents, read_folder
from synthmed.data.labels import Classes
from synthmed.data.prepare.columns import BY_HEADER, NOBODY, ColumnNames, choose_labels, describe, settle_names
from synthmed.data.prepare.groups import OWN_GROUP_NOTE, check_groups, compile_pattern, give_groups, match_group
from synthmed.data.prepare.image_names import ImageNames
from synthmed.data.prepare.raw import RawItem, Release, path_key
from synthmed.data.prepare.tables import Table, listed, open_table
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
    exclude: Sequence[str] = (),
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
        exclude: Shell patterns of files and folders to pass over; see `data.names.excluded_by`.

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
    found = read_folder(source, exclude, tables={labels.name, groups.name if groups else labels.name})
    items, notes = _find_items(found, table, rows, info.classes, pattern)
    if groups:
        items = give_groups(items, info.classes, groups, ColumnNames(group=names.group))
    elif "group" in table.columns:
        check_groups(f"{labels}: column {table.name_of('group')!r}", items)
    elif not pattern:
        notes.append(f"{OWN_GROUP_NOTE}, --group-column or --group-pattern")
    return Release(info, items, found.problems, notes=[*notes, *found.notes()])


def _read_rows(table: Table) -> list[_Row]:
    cells = list(table.rows())
    labels = settle_names(table.header, table.columns["label"], [(line, row["label"]) for line, row in cells])
    groups: Sequence[str | None] = [None] * len(cells)
    if (place := table.columns.get("group")) is not None:
        groups = settle_names(table.header, place, [(line, row["group"]) for line, row in cells], NOBODY)
    found = zip(cells, labels, groups, strict=True)
    return [_Row(line, row["image"], label, group) for (line, row), label, group in found]


def _find_items(
    found: Contents, table: Table, rows: Sequence[_Row], classes: Classes, pattern: re.Pattern[str] | None
) -> tuple[list[RawItem], list[str]]:
    """Return the image of each row, and lines about those that are listed again or not at all."""
    path, files = table.header.path, found.images()
    first, repeated = _match_rows(found, path, rows)
    if first.keys().isdisjoint(files):
        names = f"column {table.name_of('image')!r} has e.g. {rows[0].image!r}, the folder {listed(files, 1)}"
        raise DataError(f"{path}: none of {len(rows)} rows names an image below {found.path}{found.explain()}", names)
    there = set(files)
    items = [
        RawItem(
            found.path / image if image in there else None,
            image,
            path_key(image),
            classes.names.index(row.label),
            row.group or (match_group(pattern, image) if pattern else image),
        )
        for image, row in first.items()
    ]
    notes = []
    if repeated:
        notes.append(f"{path}: {repeated} rows name an image again and say the same of it")
    if unlisted := [image for image in files if image not in first]:
        notes.append(f"{len(unlisted)} images are not listed in {path.name} and are not used, the first: {unlisted[0]}")
    return items, notes


def _match_rows(found: Contents, path: Path, rows: Sequence[_Row]) -> tuple[dict[str, _Row], int]:
    """Return image -> what the table says of it, and how many rows say that again."""
    images = ImageNames(found.images())
    # What is to be passed over is not missing, and what cannot be read is counted already.
    left_out = ImageNames([*found.excluded(), *(problem.source for problem in found.problems)])
    first: dict[str, _Row] = {}
    repeated = 0
    for row in rows:
        where = f"{path}, line {row.line}"
        image = images.find(row.image, where)
        if image is None and left_out.find(row.image, where):
            continue
        other = first.setdefault(image or row.image or f"line {row.line}", row)
        if (other.label, other.group) != (row.label, row.group):
            said = [" of ".join(filter(None, (one.label, one.group))) for one in (other, row)]
            raise DataError(f"{path}: {row.image} is {said[0]} in line {other.line} and {said[1]} in line {row.line}")
        repeated += other is not row
    return first, repeated
