"""CheXpert as its authors publish it: in one folder, or in batches as it is downloaded."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from synthmed.data.datasets import chexpert_info, finding_column
from synthmed.data.names import excluded_by
from synthmed.data.prepare.raw import Problem, RawItem, Release, path_key
from synthmed.data.prepare.tables import find_table, listed, read_table
from synthmed.errors import DataError

PATIENT = re.compile(r"patient[0-9]+")
LISTED = re.compile(r"(?:^|/)(?:([^/]+)/)?(patient[0-9]+)/(.+)$")
SPLITS = ("train", "valid", "test")
VIEW = "Frontal/Lateral"


def read_chexpert(
    source: Path,
    finding: str = "Cardiomegaly",
    uncertain: Literal["positive", "negative", "drop"] = "positive",
    blank: Literal["negative", "drop"] = "negative",
    exclude: Sequence[str] = (),
) -> Release:
    """Read CheXpert's `train.csv`: frontal views only, patient from the path.

    Args:
        source: The folder that holds `train.csv`, or one above it, with the images in it: below `train`, or below
            batches such as "CheXpert-v1.0 batch 2 (train 1)".
        finding: One of the 14 columns of findings.
        uncertain: What -1 counts as.
        blank: What an empty cell counts as.
        exclude: Shell patterns of listed images to pass over; see `data.names.excluded_by`.

    Raises:
        UsageError: No such finding.
        DataError: The CSV is missing, has not the columns, or a value that is none of 1, 0, -1 and blank, or none of
            its images is there.
    """
    info = chexpert_info(finding)
    table = find_table(source, "train.csv")
    labels = {"positive": 1, "negative": 0}
    meanings = {**labels, "uncertain": labels.get(uncertain), "blank": labels.get(blank)}
    rows, problems, counts = _read_rows(table, finding_column(info))
    kept = [row for row in rows.values() if not excluded_by(row.inside, exclude)]
    used = [(row, label) for row in kept if (label := meanings[row.value]) is not None]
    for label, name in enumerate(info.classes):
        if label not in {found for _, found in used}:
            values = ", ".join(f"{counts[value]} {value}" for value in meanings)
            raise DataError(
                f"{table}: no frontal image is of class {name!r}: {values}",
                "choose another --finding, --uncertain or --blank",
            )
    places = _Places(source, table.parent)
    items = [RawItem(places.find(row), row.inside, path_key(row.inside), label, row.patient) for row, label in used]
    missing = sum(item.path is None for item in items)
    notes = [places.tell_missing(missing, len(items))] if missing else []
    if exclude:
        notes.append(f"{len(rows) - len(kept)} listed images are passed over by --exclude")
    return Release(info, items, problems, {name: counts[name] for name in info.published}, notes)


@dataclass(frozen=True, slots=True)
class _Row:
    """A frontal image of the table."""

    split: str
    patient: str
    rest: str
    """Path below the patient's folder."""
    value: str
    """The finding in words."""

    @property
    def inside(self) -> str:
        """Path in the release where it is in one folder."""
        return f"{self.split}/{self.patient}/{self.rest}"


def _read_rows(table: Path, column: str) -> tuple[dict[str, _Row], list[Problem], Counter[str]]:
    """Return frontal images by their path, a problem for each that cannot be used, and the counts."""
    rows: dict[str, _Row] = {}
    problems = []
    counts: Counter[str] = Counter()
    views: Counter[str] = Counter()
    for line, row in read_table(table, ("Path", VIEW, column)):
        value = _finding_value(row[column], f"{table}, line {line}, column {column}")
        view = row[VIEW].capitalize()
        views[view if view in ("Frontal", "Lateral") else row[VIEW]] += 1
        counts.update(["images", "frontal", value] if view == "Frontal" else ["images"])
        if view != "Frontal":
            continue
        match = LISTED.search(row["Path"].replace("\\", "/"))
        found = match and _Row(match[1] if match[1] in SPLITS else "train", match[2], match[3], value)
        if found is None or found.inside in rows:
            reason = "duplicate" if found else "no patient"
            problems.append(Problem(row["Path"], reason, f"line {line} of {table.name}"))
        else:
            rows[found.inside] = found
    if not views["Frontal"] or set(views) - {"Frontal", "Lateral"}:
        values = listed(f"{count} x {view or 'blank'}" for view, count in views.items())
        raise DataError(
            f"{table}: {views['Frontal']} of {counts['images']} rows are Frontal; the values of {VIEW}: {values}",
            "Frontal or Lateral is needed in every row",
        )
    counts["frontal patients"] = len({row.patient for row in rows.values()})
    return rows, problems, counts


def _finding_value(text: str, where: str) -> str:
    names = {1.0: "positive", 0.0: "negative", -1.0: "uncertain"}
    if not text:
        return "blank"
    try:
        return names[float(text)]
    except (ValueError, KeyError) as error:
        raise DataError(f"{where}: not a finding: {text!r}", "1, 0, -1 or blank") from error


class _Places:
    """The folders in which the patients' folders lie."""

    def __init__(self, source: Path, root: Path) -> None:
        """Look for patients in all of a release, and first beside its table."""
        self._source = source
        self._of_patient: dict[tuple[str, str], list[Path]] = {}
        self._homes: list[str] = []
        homes = list(_homes(source))
        for home, patients in sorted(homes, key=lambda found: not found[0].is_relative_to(root)):
            inside = home.relative_to(source)
            self._homes.append(inside.as_posix())
            split = next((split for split in SPLITS if split in inside.name.lower()), "train")
            for patient in patients:
                self._of_patient.setdefault((split, patient), []).append(home)

    def find(self, row: _Row) -> Path | None:
        """Return the file of an image, `None` where it is not there."""
        if ".." in row.rest.split("/"):
            return None
        homes = self._of_patient.get((row.split, row.patient), [])
        paths = [home / row.patient / row.rest for home in homes]
        return next((found for path in paths if (found := _any_case(path)) is not None), None)

    def tell_missing(self, missing: int, total: int) -> str:
        """Return a line that says where the images that are there lie.

        Raises:
            DataError: None of them is there.
        """
        where = f"{missing} of {total} listed images are missing; patients are in: {listed(sorted(self._homes))}"
        if missing == total:
            raise DataError(f"{self._source}: {where}", "give the folder into which all batches were unpacked")
        return where


def _homes(folder: Path, depth: int = 3) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders that hold patients' folders, with the names of those; what lies in those is not looked at."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    if patients := [name for name in names if PATIENT.fullmatch(name)]:
        yield folder, patients
    elif depth:
        for name in names:
            if (folder / name).is_dir():
                yield from _homes(folder / name, depth - 1)


def _any_case(path: Path) -> Path | None:
    """Return a file under the name that it has, whatever its case."""
    if os.path.isfile(path):  # which takes a name that is too long
        return path
    if not os.path.isdir(path.parent):
        return None
    return next((other for other in sorted(path.parent.iterdir()) if other.name.lower() == path.name.lower()), None)
