"""Releases as their authors publish them: which image has which label and which patient.

One reader per layout; each gives a `Release` and opens no image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from synthmed.data.datasets import AIROGS, CRCDX, DataSetInfo, folder_info
from synthmed.data.folders import read_folder
from synthmed.data.images import IMAGE_SUFFIXES
from synthmed.data.names import plain_path
from synthmed.data.prepare.columns import BY_HEADER, ColumnNames
from synthmed.data.prepare.groups import OWN_GROUP_NOTE, compile_pattern, give_groups, match_group
from synthmed.data.prepare.raw import MAX_ID_BYTES, Problem, RawItem, Release, path_key
from synthmed.data.prepare.tables import find_table, read_table
from synthmed.data.shards.plan import safe_key
from synthmed.errors import DataError, UsageError

PATIENT_BARCODE = re.compile(r"TCGA-[A-Za-z0-9]{2}-[A-Za-z0-9]{4}")


def read_airogs(source: Path, groups: Path | None = None, exclude: Sequence[str] = ()) -> Release:
    """Read AIROGS: `train_labels.csv` and `<challenge_id>.jpg` in any depth of sub-folders.

    Args:
        source: Folder of the release.
        groups: CSV of `challenge_id` and `group`; the release has no patients, so each image is its own without it.
        exclude: Shell patterns of files and folders to pass over; see `data.names.excluded_by`.

    Raises:
        DataError: The CSV is missing, has not the columns, or a class that is not NRG or RG.
    """
    table = find_table(source, "train_labels.csv")
    rows, problems = _airogs_rows(table)
    found = read_folder(source, exclude, tables={table.name, groups.name if groups else table.name})
    files: dict[str, list[str]] = {}
    for name in found.images():
        files.setdefault(PurePosixPath(name).stem, []).append(name)
    # A listed image that cannot be read, or is not there, is counted once; one that is to be passed over is not.
    problems += [problem for problem in found.problems if PurePosixPath(problem.source).stem not in rows]
    excluded = {PurePosixPath(name).stem for name in found.excluded()} - files.keys()
    items = []
    for image, label in rows.items():
        if image not in excluded:
            names = files.pop(image, [])
            where = names[0] if names else f"{image}.jpg"
            path = source / where if names else None
            items.append(RawItem(path, where, safe_key(image, max_bytes=MAX_ID_BYTES), label, image))
            problems += [Problem(other, "duplicate", f"a second file of {image}") for other in names[1:]]
    counts = Counter(AIROGS.classes[item.label] for item in items)
    for name in AIROGS.classes:
        if not counts[name]:
            raise DataError(f"{table} lists no image of class {name!r}", "every class must occur")
    if groups:
        items = give_groups(items, AIROGS.classes, groups, BY_HEADER)
    notes = [] if groups else [OWN_GROUP_NOTE]
    if others := [name for names in files.values() for name in names]:
        notes.append(f"{len(others)} images are not listed in {table.name} and are not used, the first: {others[0]}")
    listed = {"images": len(items), **{name: counts[name] for name in AIROGS.classes}}
    return Release(AIROGS, items, problems, listed, [*notes, *found.notes()])


def _airogs_rows(table: Path) -> tuple[dict[str, int], list[Problem]]:
    """Return image -> label, and a problem for every image that is listed again; the first row counts."""
    labels: dict[str, int] = {}
    problems = []
    for line, row in read_table(table, ("challenge_id", "class")):
        name = _image_id(row["challenge_id"])
        label = _label_of(row["class"], AIROGS, f"{table}, line {line}")
        if name in labels:
            problems.append(Problem(name, "duplicate", f"listed again in line {line} of {table.name}"))
        labels.setdefault(name, label)
    return labels, problems


def _image_id(text: str) -> str:
    """Return the id of an image that may be listed with its folder and ending."""
    path = PurePosixPath(plain_path(text))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def read_crcdx(source: Path, exclude: Sequence[str] = ()) -> Release:
    """Read CRCDX: tiles in folders MSIH and nonMSIH, in any depth, patient from the TCGA barcode in the tile's name.

    A tile below a folder with "train" or "test" in its name stays in that split; validation is taken from train.

    Args:
        source: Folder of the release.
        exclude: Shell patterns of files and folders to pass over; see `data.names.excluded_by`.

    Raises:
        DataError: No such folders, or a patient is in both train and test.
    """
    found = read_folder(source, exclude)
    items, problems, elsewhere = [], list(found.problems), []
    for name in found.images():
        *folders, file = name.split("/")
        labels = [label for part in folders if (label := _folder_label(part, CRCDX)) is not None]
        if not labels:
            elsewhere.append(name)
            continue
        barcode = PATIENT_BARCODE.search(file)
        if barcode is None:
            problems.append(Problem(name, "no patient", "no TCGA barcode in the name"))
            continue
        key = safe_key(PurePosixPath(file).stem, max_bytes=MAX_ID_BYTES)
        items.append(RawItem(source / name, name, key, labels[-1], barcode[0].upper(), _own_split(folders)))
    if not items:
        without = len(problems) - len(found.problems)
        what = f"{without} tiles without a TCGA barcode" if without else "no tiles in folders MSIH and nonMSIH"
        raise DataError(
            f"{source} is not CRCDX: {what}{found.explain()}", "give the folder into which the release was unpacked"
        )
    _check_own_splits(items)
    counts = Counter(f"{item.split or 'train'} {CRCDX.classes[item.label]}" for item in items)
    notes = found.notes()
    if elsewhere:
        notes.append(f"images in no folder MSIH or nonMSIH are not used: {len(elsewhere)}, e.g. {min(elsewhere)}")
    return Release(CRCDX, items, problems, {name: counts[name] for name in CRCDX.published}, notes)


def _folder_label(name: str, info: DataSetInfo) -> int | None:
    return info.classes.find(name)


def _own_split(folders: Sequence[str]) -> str | None:
    """Return train or test, whichever word the innermost of the folders with just one of them has in its name."""
    for folder in reversed(folders):
        words = [word for word in ("train", "test") if word in folder.lower()]
        if len(words) == 1:
            return words[0]
    return None


def _check_own_splits(items: Iterable[RawItem]) -> None:
    of_group: dict[str, RawItem] = {}
    for item in items:
        other = of_group.setdefault(item.group, item)
        if other.split != item.split:
            raise DataError(f"patient {item.group} is in two splits of the release: {other.source} and {item.source}")


def read_image_folders(
    source: Path,
    name: str | None = None,
    group_pattern: str | None = None,
    groups: Path | None = None,
    positive: str | None = None,
    names: ColumnNames = BY_HEADER,
    exclude: Sequence[str] = (),
) -> Release:
    """Read one folder per class; sorted folder names give the labels.

    Args:
        source: Holds the class folders, images in any depth below them.
        name: Of the data set; the folder's name by default.
        group_pattern: Regular expression searched in an image's path below its class folder; its first group, or the
            whole match without one, is the patient.
        groups: CSV whose column `group` holds the patient and another one the image: the end of its path, with or
            without the ending.
        positive: Class whose score AUROC ranks.
        names: Columns of `groups` that the user named.
        exclude: Shell patterns of files and folders to pass over; see `data.names.excluded_by`.

    Raises:
        UsageError: The pattern is no regular expression, or both ways to patients are given.
        DataError: Fewer than two class folders, one that is a split by its name or holds no image, or an image has no
            group.
    """
    pattern = compile_pattern(group_pattern, groups)
    found = read_folder(source, exclude, tables={groups.name} if groups else ())
    classes = found.class_folders()
    beside = [image for image in found.images() if "/" not in image]
    stray = [f"images beside the class folders are not used: {len(beside)}, e.g. {beside[0]}"] if beside else []
    if len(classes) < 2:
        raise DataError(
            "; ".join([f"{source} has {len(classes)} folders with images{found.explain()}", *stray]),
            "one a class is needed, two at least; where a table holds the labels: --labels CSV",
        )
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    items = [
        _folder_item(source, image, label_of[image.partition("/")[0]], pattern)
        for image in found.images()[len(beside) :]  # those at the top come first
    ]
    info = folder_info(name or source.resolve().name, classes, positive)
    if groups:
        items = give_groups(items, info.classes, groups, names)
    notes = [] if pattern or groups else [OWN_GROUP_NOTE + " or --group-pattern"]
    return Release(info, items, found.problems, notes=[*notes, *stray, *found.notes()])


def _folder_item(source: Path, name: str, label: int, pattern: re.Pattern[str] | None) -> RawItem:
    """Return an image of a class folder, with the patient that the pattern finds, else as a patient of its own."""
    group = name if pattern is None else match_group(pattern, name.partition("/")[2])
    return RawItem(source / name, name, path_key(name), label, group)


def _label_of(word: str, info: DataSetInfo, where: str) -> int:
    try:
        return info.classes.resolve(word)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from error
