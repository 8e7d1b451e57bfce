"""Releases as their authors publish them: which image has which label and which patient.

One reader per layout; each gives a `Release` and opens no image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from synthmed.data.datasets import AIROGS, CRCDX, DataSetInfo, chexpert_info, finding_column, folder_info
from synthmed.data.folders import read_folder
from synthmed.data.names import excluded_by
from synthmed.data.prepare.raw import Problem, RawItem, Release
from synthmed.data.prepare.tables import read_groups, read_table
from synthmed.data.shards.plan import safe_key
from synthmed.errors import DataError, UsageError

MAX_ID_BYTES = 60  # split and number stand before it in a sample's key
PATIENT_BARCODE = re.compile(r"TCGA-[A-Za-z0-9]{2}-[A-Za-z0-9]{4}")
OWN_GROUP_NOTE = (
    "no patients are known: each image is its own group; if a patient can have several images, give --groups"
)
CHEXPERT_PATIENT = re.compile(r"(?:^|/)(patient[0-9]+)/")


def read_airogs(source: Path, groups: Path | None = None, exclude: Sequence[str] = ()) -> Release:
    """Read AIROGS: `train_labels.csv` and `<challenge_id>.jpg` in any depth of sub-folders.

    Args:
        source: Folder of the release.
        groups: CSV of `challenge_id` and `group`; the release has no patients, so each image is its own without it.
        exclude: Shell patterns of files and folders to pass over; see `data.names.excluded_by`.

    Raises:
        DataError: The CSV is missing, has not the columns, or a class that is not NRG or RG.
    """
    table = source / "train_labels.csv"
    patients = read_groups(groups) if groups else None
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
        if image in excluded:
            continue
        names = files.pop(image, [])
        where = names[0] if names else f"{image}.jpg"
        path = source / where if names else None
        item = RawItem(path, where, safe_key(image, max_bytes=MAX_ID_BYTES), label, image)
        items.append(item if patients is None else _regroup(item, patients, groups, (image,)))
        problems += [Problem(other, "duplicate", f"a second file of {image}") for other in names[1:]]
    notes = [OWN_GROUP_NOTE] if patients is None else []
    if files:
        notes.append(f"{sum(map(len, files.values()))} images are not listed in {table.name} and are not used")
    counts = {"images": len(items), **_class_counts(AIROGS, items)}
    return Release(AIROGS, items, problems, counts, [*notes, *found.notes()])


def _airogs_rows(table: Path) -> tuple[dict[str, int], list[Problem]]:
    """Return image -> label, and a problem for every image that is listed again; the first row counts."""
    labels: dict[str, int] = {}
    problems = []
    for line, row in read_table(table, ("challenge_id", "class")):
        name = row["challenge_id"].strip()
        label = _label_of(row["class"], AIROGS, f"{table}, line {line}")
        if name in labels:
            problems.append(Problem(name, "duplicate", f"listed again in line {line} of {table.name}"))
        labels.setdefault(name, label)
    return labels, problems


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


def read_chexpert(
    source: Path,
    finding: str = "Cardiomegaly",
    uncertain: Literal["positive", "negative", "drop"] = "positive",
    blank: Literal["negative", "drop"] = "negative",
    exclude: Sequence[str] = (),
) -> Release:
    """Read CheXpert's `train.csv`: frontal views only, patient from the path.

    Args:
        source: The folder that holds `train.csv`, or the one above it, from which its paths start.
        finding: One of the 14 columns of findings.
        uncertain: What -1 counts as.
        blank: What an empty cell counts as.
        exclude: Shell patterns of listed images to pass over; see `data.names.excluded_by`.

    Raises:
        UsageError: No such finding.
        DataError: The CSV is missing, has not the columns, or a value that is none of 1, 0, -1 and blank.
    """
    info = chexpert_info(finding)
    table = _find_table(source, "train.csv")
    labels = {"positive": 1, "negative": 0}
    meanings = {**labels, "uncertain": labels.get(uncertain), "blank": labels.get(blank)}
    rows, problems, counts = _chexpert_rows(table, finding_column(info))
    used = [
        _chexpert_item(table.parent, listed, label, patient)
        for listed, (value, patient) in rows.items()
        if (label := meanings[value]) is not None
    ]
    kept = [item for item in used if not excluded_by(item.source, exclude)]
    notes = [f"{len(used) - len(kept)} listed images are passed over by --exclude"] if exclude else []
    return Release(info, kept, problems, {name: counts[name] for name in info.published}, notes)


def _chexpert_rows(table: Path, column: str) -> tuple[dict[str, tuple[str, str]], list[Problem], Counter[str]]:
    """Return frontal image -> (finding in words, patient), a problem for each that cannot be used, and the counts."""
    rows: dict[str, tuple[str, str]] = {}
    problems = []
    counts: Counter[str] = Counter()
    for line, row in read_table(table, ("Path", "Frontal/Lateral", column)):
        listed, value = row["Path"].strip(), _finding_value(row[column], f"{table}, line {line}, column {column}")
        patient = CHEXPERT_PATIENT.search(listed)
        frontal = row["Frontal/Lateral"].strip().lower() == "frontal"
        counts.update(["images", "frontal", value] if frontal else ["images"])
        if not frontal:
            continue
        if patient is None or listed in rows:
            reason = "duplicate" if patient else "no patient"
            problems.append(Problem(listed, reason, f"line {line} of {table.name}"))
        else:
            rows[listed] = value, patient[1]
    counts["frontal patients"] = len({patient for _, patient in rows.values()})
    return rows, problems, counts


def _chexpert_item(root: Path, listed: str, label: int, patient: str) -> RawItem:
    inside = re.sub(r"^CheXpert-v1\.0[^/]*/", "", listed)
    stays_inside = ".." not in Path(inside).parts and not Path(inside).is_absolute()
    path = root / inside
    key = safe_key(Path(inside).with_suffix("").as_posix().replace("/", "-"), max_bytes=MAX_ID_BYTES)
    return RawItem(path if stays_inside and path.is_file() else None, inside, key, label, patient)


def _finding_value(text: str, where: str) -> str:
    names = {1.0: "positive", 0.0: "negative", -1.0: "uncertain"}
    if not text.strip():
        return "blank"
    try:
        return names[float(text)]
    except (ValueError, KeyError) as error:
        raise DataError(f"{where}: not a finding: {text!r}", "1, 0, -1 or blank") from error


def _find_table(source: Path, name: str) -> Path:
    """Return the table in `source`, or in one of its folders where `source` is the folder above the release."""
    here = source / name
    below = sorted(path for path in source.glob(f"*/{name}") if path.is_file())
    return here if here.is_file() or not below else below[0]


def read_image_folders(
    source: Path,
    name: str | None = None,
    group_pattern: str | None = None,
    groups: Path | None = None,
    positive: str | None = None,
    exclude: Sequence[str] = (),
) -> Release:
    """Read one folder per class; sorted folder names give the labels.

    Args:
        source: Holds the class folders, images in any depth below them.
        name: Of the data set; the folder's name by default.
        group_pattern: Regular expression searched in an image's path below its class folder; its first group, or the
            whole match without one, is the patient.
        groups: CSV whose column `group` holds the patient and whose first other column the image: its path inside
            `source`, its file name, or that without the ending.
        positive: Class whose score AUROC ranks.
        exclude: Shell patterns of files and folders to pass over; see `data.names.excluded_by`.

    Raises:
        UsageError: The pattern is no regular expression, or both ways to patients are given.
        DataError: Fewer than two class folders, one that is a split by its name or holds no image, or an image has no
            group.
    """
    if group_pattern is not None and groups is not None:
        raise UsageError("--group-pattern and --groups were both given", "one of them says which patient an image has")
    found = read_folder(source, exclude)
    classes = found.class_folders()
    beside = [name for name in found.images() if "/" not in name]
    stray = [f"images beside the class folders are not used: {len(beside)}, e.g. {beside[0]}"] if beside else []
    if len(classes) < 2:
        raise DataError(
            f"{source} has {len(classes)} folders with images{found.explain()}{''.join(f'; {note}' for note in stray)}",
            "one a class is needed, two at least",
        )
    pattern = _compile(group_pattern)
    patients = read_groups(groups) if groups else None
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    items = []
    for path in found.images()[len(beside) :]:  # those at the top come first
        item = _folder_item(source, path, label_of[path.partition("/")[0]], pattern)
        names = (item.source, PurePosixPath(path).name, PurePosixPath(path).stem)
        items.append(item if patients is None else _regroup(item, patients, groups, names))
    info = folder_info(name or source.resolve().name, classes, positive)
    notes = [] if pattern or groups else [OWN_GROUP_NOTE + " or --group-pattern"]
    return Release(info, items, found.problems, notes=[*notes, *stray, *found.notes()])


def _folder_item(source: Path, name: str, label: int, pattern: re.Pattern[str] | None) -> RawItem:
    """Return an image of a class folder, with the patient that the pattern finds, else as a patient of its own."""
    key = safe_key(PurePosixPath(name).with_suffix("").as_posix().replace("/", "-"), max_bytes=MAX_ID_BYTES)
    group = name if pattern is None else _match_group(pattern, name.partition("/")[2])
    return RawItem(source / name, name, key, label, group)


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group-pattern is not a regular expression: {pattern!r}: {error}") from error


def _match_group(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    group = match and (match[1] if pattern.groups else match[0])
    if not group:
        raise DataError(f"--group-pattern {pattern.pattern!r} finds no group in {text!r}")
    return group


def _regroup(item: RawItem, groups: Mapping[str, str], table: Path | None, names: Iterable[str]) -> RawItem:
    group = next((groups[name] for name in names if name in groups), None)
    if group is None:
        raise DataError(f"{table} has no group for {item.source}", "every image needs a row")
    return replace(item, group=group)


def _label_of(word: str, info: DataSetInfo, where: str) -> int:
    try:
        return info.classes.resolve(word)
    except UsageError as error:
        raise DataError(f"{where}: {error}") from error


def _class_counts(info: DataSetInfo, items: Iterable[RawItem]) -> dict[str, int]:
    counts = Counter(item.label for item in items)
    return {name: counts[label] for label, name in enumerate(info.classes)}
