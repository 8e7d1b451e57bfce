"""Which column of a table names the image, its class or its patient, and whether its cells do so without doubt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from synthmed.data.labels import normalise
from synthmed.data.prepare.tables import Header, listed
from synthmed.errors import DataError, UsageError
from synthmed.runtime.progress import log

IMAGE_NAMES = (
    "image", "image id", "imageid", "image index", "image name", "image path", "image file", "img", "img id",
    "img path", "file", "file name", "filename", "file path", "filepath", "path", "challenge id", "id code",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "label name", "class", "class name", "category", "diagnosis", "dx", "finding", "finding labels",
    "target",
)  # fmt: skip
GROUP_NAMES = ("group", "patient", "patient id", "patientid", "subject", "subject id", "participant id", "pid", "mrn")
UNNAMED = re.compile(r"(unnamed: ?\d+.*)?", re.IGNORECASE)  # what pandas calls a column without a name, its row numbers
NOTHING = frozenset(("", "nan", "na", "n/a", "n.a.", "#n/a", "<na>", "nat", "null", "nil", "-", "--", "?", "."))
NOBODY = NOTHING | {"none", "unknown", "missing", "undefined", "-1", "-1.0"}
WHOLE = re.compile(r"(\d+)[.,]0+")
ROUNDED = re.compile(r"\d([.,]\d+)?e\+\d+", re.IGNORECASE)


@dataclass(frozen=True)
class ColumnNames:
    """Which columns the user named; `None` leaves it to the header, where that leaves no doubt."""

    image: str | None = None
    label: str | None = None
    group: str | None = None

    def check_table(self, groups: Path | None) -> None:
        """See that the columns that were named without --labels can be in the table of patients.

        Raises:
            UsageError: There is no such table.
        """
        if self.label is not None:
            raise UsageError("--label-column was given without --labels", "a column of that table")
        if groups is None and (self.image, self.group) != (None, None):
            raise UsageError("--image-column or --group-column was given without a table", "give --labels or --groups")


BY_HEADER = ColumnNames()


def choose_groups(header: Header, names: ColumnNames) -> dict[str, int]:
    """Return where a table of patients has its `image` and `group`, and its `label` if it has one.

    Raises:
        DataError: A column is not there, or none names the image.
    """
    group = header.need(names.group or "group")
    labels = [place for place in _called(header, LABEL_NAMES) if place != group]
    # The first of several, as the help says; what it holds is looked at afterwards.
    image = _choose_image(header, names.image, {group, *labels})[0]
    return {"image": image, "group": group, **({"label": labels[0]} if len(labels) == 1 else {})}


def choose_labels(header: Header, names: ColumnNames, guess_group: bool) -> dict[str, int]:
    """Return where a table of labels has its `image` and `label`, and its `group` if it has or needs one.

    Args:
        header: Of the table.
        names: Columns that the user named.
        guess_group: A column that is called like a patient is one.

    Raises:
        DataError: A column is not there, or the header leaves a doubt.
    """
    labels = [header.need(names.label)] if names.label else _called(header, LABEL_NAMES)
    groups = [header.need(names.group)] if names.group else _called(header, GROUP_NAMES) if guess_group else []
    images = _choose_image(header, names.image, {*labels, *groups})
    for what, places in (("label", labels), ("image", images), ("group", groups)):
        if len(places) > 1 or (what == "label" and not places):
            found = f"may be in one of {listed(repr(header.columns[place]) for place in places)}"
            raise DataError(
                f"{header.path}: the {what} {found if places else 'is in no column called so'}",
                f"--{what}-column says which it is: {header}",
            )
    return {"image": images[0], "label": labels[0], **({"group": groups[0]} if groups else {})}


def _choose_image(header: Header, name: str | None, others: Collection[int]) -> list[int]:
    """Return the columns that may name the image: those called like one, else all that have a name."""
    if name is not None:
        return [header.need(name)]
    named = [
        place for place, column in enumerate(header.columns) if place not in others and not UNNAMED.fullmatch(column)
    ]
    usual = [place for place in named if normalise(header.columns[place]) in IMAGE_NAMES]
    if not named:
        raise DataError(f"{header.path} has no column that names the image", f"e.g. challenge_id; it has: {header}")
    # By its name, so that two columns called so are refused.
    return [header.need(header.columns[place]) for place in usual or named]


def _called(header: Header, names: Collection[str]) -> list[int]:
    return [place for place, column in enumerate(header.columns) if normalise(column) in names]


def check_image_column(header: Header, image: int, cells: Sequence[str]) -> None:
    """See that the column that was taken for the image's name does not just number the rows.

    Raises:
        DataError: It is not called like an image and holds another number in each row, and there are other columns.
    """
    others = [column for column in header.columns if not UNNAMED.fullmatch(column)]
    numbers = all(cell.isdigit() for cell in cells) and len(set(cells)) == len(cells)
    if numbers and len(others) > 2 and image not in _called(header, IMAGE_NAMES):
        raise DataError(
            f"{header.path}: column {header.columns[image]!r} may name the images or only number the rows",
            f"--image-column says which column names them: {header}",
        )


def settle_names(
    header: Header, column: int, cells: Sequence[tuple[int, str]], nothing: Collection[str] = NOTHING
) -> list[str]:
    """Return the names in a column of patients or classes: whole numbers that became floats are whole again.

    Args:
        header: Of the table.
        column: Its position.
        cells: Line and cell of every row.
        nothing: Words that name nobody.

    Raises:
        DataError: A cell names nobody, is a rounded number or cannot be printed, or two spellings may be one name.
    """
    where = f"{header.path}: column {header.columns[column]!r}"
    if blank := [(line, cell) for line, cell in cells if cell.casefold() in nothing]:
        line, cell = blank[0]
        raise DataError(
            f"{where} names nothing in {len(blank)} of {len(cells)} rows, the first in line {line}: {cell!r}",
            "every row needs a name",
        )
    names = [cell for _, cell in cells]
    if all(WHOLE.fullmatch(name) for name in names):
        log(f"{where} holds whole numbers as {names[0]}: they are read without the part behind the point")
        names = [WHOLE.sub(r"\1", name) for name in names]
    first: dict[str, int] = {}
    for (line, _), name in zip(cells, names, strict=True):
        first.setdefault(name, line)
    _check_spelling(where, first)
    return names


def _check_spelling(where: str, lines: Mapping[str, int]) -> None:
    spelled: dict[str, str] = {}
    for name, line in lines.items():
        if ROUNDED.fullmatch(name) or not name.isprintable():
            raise DataError(f"{where}, line {line}: {name!r} is no name", "write whole numbers and plain text")
        if (other := spelled.setdefault(_skeleton(name), name)) != name:
            raise DataError(
                f"{where}: {other!r} in line {lines[other]} and {name!r} in line {line} may be the same",
                "write it the same way in every row",
            )


def _skeleton(name: str) -> str:
    """Return what stays the same however a name is written: without case, width, and zeros that say nothing."""
    text = normalise(unicodedata.normalize("NFKC", name))
    whole = WHOLE.fullmatch(text)
    return re.sub(r"(?<![\d.])0+(?=\d)", "", whole[1] if whole else text)


def describe(header: Header, columns: Mapping[str, int]) -> str:
    """Return in words which column is what."""
    return listed(f"{what} from column {header.columns[place]!r}" for what, place in columns.items())
