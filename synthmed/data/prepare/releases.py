"""Releases as their authors publish them: which image has which label and which patient.

One reader per layout; each gives a `Release` and opens no image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from synthmed.data.datasets import AIROGS, CRCDX, DataSetInfo, folder_info
from synthmed.data.images import IMAGE_SUFFIXES
from synthmed.data.prepare.columns import BY_HEADER, ColumnNames
from synthmed.data.prepare.groups import OWN_GROUP_NOTE, compile_pattern, give_groups, match_group
from synthmed.data.prepare.raw import MAX_ID_BYTES, Problem, RawItem, Release, path_key
from synthmed.data.prepare.tables import find_images, find_table, read_table
from synthmed.data.shards.plan import safe_key
from synthmed.errors import DataError, UsageError

PATIENT_BARCODE = re.compile(r"TCGA-[A-Za-z0-9]{2}-[A-Za-z0-9]{4}")


def read_airogs(source: Path, groups: Path | None = None) -> Release:
    """Read AIROGS: `train_labels.csv` and `<challenge_id>.jpg` in any depth of sub-folders.

    Args:
        source: Folder of the release.
        groups: CSV of `challenge_id` and `group`; the release has no patients, so each image is its own without it.

    Raises:
        DataError: The CSV is missing, has not the columns, or a class that is not NRG or RG.
    """
    table = find_table(source, "train_labels.csv")
    rows, problems = _airogs_rows(table)
    files: dict[str, list[Path]] = {}
    for file in find_images(source):
        files.setdefault(file.stem, []).append(file)
    items = []
    for name, label in rows.items():
        paths = files.pop(name, [])
        path = paths[0] if paths else None
        where = path.relative_to(source).as_posix() if path else f"{name}.jpg"
        items.append(RawItem(path, where, safe_key(name, max_bytes=MAX_ID_BYTES), label, name))
        for other in paths[1:]:
            problems.append(Problem(other.relative_to(source).as_posix(), "duplicate", f"a second file of {name}"))
    counts = Counter(AIROGS.classes[item.label] for item in items)
    for name in AIROGS.classes:
        if not counts[name]:
            raise DataError(f"{table} lists no image of class {name!r}", "every class must occur")
    if groups:
        items = give_groups(items, AIROGS.classes, groups, BY_HEADER)
    notes = [] if groups else [OWN_GROUP_NOTE]
    if others := [path for paths in files.values() for path in paths]:
        first = others[0].relative_to(source).as_posix()
        notes.append(f"{len(others)} images are not listed in {table.name} and are not used, the first: {first}")
    return Release(
        AIROGS, items, problems, {"images": len(items), **{name: counts[name] for name in AIROGS.classes}}, notes
    )


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
    path = PurePosixPath(text.replace("\\", "/"))
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def read_crcdx(source: Path) -> Release:
    """Read CRCDX: tiles in folders MSIH and nonMSIH, in any depth, patient from the TCGA barcode in the tile's name.

    A tile below a folder with "train" or "test" in its name stays in that split; validation is taken from train.

    Raises:
        DataError: No such folders, or a patient is in both train and test.
    """
    items, problems = [], []
    for path in find_images(source):
        inside = path.relative_to(source)
        labels = [label for part in inside.parts[:-1] if (label := _folder_label(part, CRCDX)) is not None]
        if not labels:
            continue
        barcode = PATIENT_BARCODE.search(path.name)
        if barcode is None:
            problems.append(Problem(inside.as_posix(), "no patient", "no TCGA barcode in the name"))
            continue
        key = safe_key(path.stem, max_bytes=MAX_ID_BYTES)
        split = _own_split(inside.parts[:-1])
        items.append(RawItem(path, inside.as_posix(), key, labels[-1], barcode[0].upper(), split))
    if not items:
        found = f"{len(problems)} tiles without a TCGA barcode" if problems else "no tiles in folders MSIH and nonMSIH"
        raise DataError(f"{source} is not CRCDX: {found}", "give the folder into which the release was unpacked")
    _check_own_splits(items)
    counts = Counter(f"{item.split or 'train'} {CRCDX.classes[item.label]}" for item in items)
    return Release(CRCDX, items, problems, {name: counts[name] for name in CRCDX.published})


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

    Raises:
        UsageError: The pattern is no regular expression, or both ways to patients are given.
        DataError: Fewer than two class folders, or an image has no group.
    """
    pattern = compile_pattern(group_pattern, groups)
    folders = sorted(path for path in _folders(source) if path.is_dir() and not path.name.startswith("."))
    classes = [folder.name for folder in folders if any(find_images(folder))]
    if len(classes) < 2:
        raise DataError(
            f"{source} has {len(classes)} folders with images",
            "one a class is needed, two at least; where a table holds the labels: --labels CSV",
        )
    items = [
        _folder_item(source, path, label, pattern)
        for label, class_name in enumerate(classes)
        for path in find_images(source / class_name)
    ]
    info = folder_info(name or source.resolve().name, classes, positive)
    if groups:
        items = give_groups(items, info.classes, groups, names)
    notes = [] if pattern or groups else [OWN_GROUP_NOTE + " or --group-pattern"]
    return Release(info, items, notes=notes)


def _folder_item(source: Path, path: Path, label: int, pattern: re.Pattern[str] | None) -> RawItem:
    """Return an image of a class folder, with the patient that the pattern finds, else as a patient of its own."""
    name = path.relative_to(source).as_posix()
    group = name if pattern is None else match_group(pattern, name.partition("/")[2])
    return RawItem(path, name, path_key(name), label, group)


def _folders(source: Path) -> list[Path]:
    if not source.is_dir():
        raise DataError(f"no such folder: {source}")
    return list(source.iterdir())


def _label_of(word: str, info: DataSetInfo, where: str) -> int:
    try:
        return info.classes.resolve(word)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from error
