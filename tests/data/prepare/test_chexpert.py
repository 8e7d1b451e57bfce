"""CheXpert in one folder and in batches."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from synthmed.data.prepare.chexpert import read_chexpert
from synthmed.data.prepare.raw import RawItem
from synthmed.errors import DataError, UsageError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


CHEXPERT_ROWS = (
    ("patient00001/study1/view1_frontal.jpg", "Frontal", "1.0"),
    ("patient00001/study1/view2_lateral.jpg", "Lateral", "1.0"),
    ("patient00002/study1/view1_frontal.jpg", "Frontal", "0.0"),
    ("patient00002/study2/view1_frontal.jpg", "Frontal", "-1.0"),
    ("patient00003/study1/view1_frontal.jpg", "Frontal", ""),
)


def write_chexpert(root: Path, rows: tuple[tuple[str, str, str], ...] = CHEXPERT_ROWS) -> Path:
    lines = ["Path,Sex,Frontal/Lateral,Cardiomegaly,Edema"]
    for path, view, value in rows:
        touch(root / "train" / path)
        lines.append(f"CheXpert-v1.0-small/train/{path},Female,{view},{value},")
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, [1, 0, 1, 0]),
        ({"uncertain": "negative"}, [1, 0, 0, 0]),
        ({"uncertain": "drop"}, [1, 0, 0]),
        ({"blank": "drop"}, [1, 0, 1]),
        ({"uncertain": "drop", "blank": "drop"}, [1, 0]),
    ],
)
def test_chexpert_rules_for_uncertain_and_blank(tmp_path: Path, options: dict[str, Any], labels: list[int]) -> None:
    release = read_chexpert(write_chexpert(tmp_path), **options)
    assert [item.label for item in release.items] == labels


@pytest.mark.parametrize("above", [False, True])
def test_chexpert_is_found_from_its_folder_and_from_the_one_above(tmp_path: Path, above: bool) -> None:
    root = write_chexpert(tmp_path / "CheXpert-v1.0-small")
    release = read_chexpert(tmp_path if above else root)
    assert all(item.path is not None for item in release.items)
    assert [item.group for item in release.items] == ["patient00001", "patient00002", "patient00002", "patient00003"]


def test_chexpert_counts_frontal_views_under_the_published_names(tmp_path: Path) -> None:
    assert read_chexpert(write_chexpert(tmp_path)).counts == {
        "images": 5,
        "frontal": 4,
        "frontal patients": 3,
        "positive": 1,
        "uncertain": 1,
        "negative": 1,
        "blank": 1,
    }


def test_chexpert_paths_do_not_leave_the_release(tmp_path: Path) -> None:
    touch(tmp_path / "secret/patient00009/study1/view1_frontal.jpg")
    rows = [
        ("../../secret/patient00009/study1/view1_frontal.jpg", "Frontal", "1.0"),
        ("patient00002/../../../secret/patient00009/study1/view1_frontal.jpg", "Frontal", "1.0"),
    ]
    root = tmp_path / "release"
    (root / "train").mkdir(parents=True)
    table = write_chexpert(root, (*CHEXPERT_ROWS, *rows)) / "train.csv"
    table.write_text(table.read_text() + f"train/patient00001/study1/{'x' * 300}.jpg,F,Frontal,,\n")
    assert [item.path is None for item in read_chexpert(root).items] == [False] * 4 + [True] * 3


def test_chexpert_without_what_is_excluded(tmp_path: Path) -> None:
    release = read_chexpert(write_chexpert(tmp_path), exclude=["patient00002"], blank="negative")
    assert [item.group for item in release.items] == ["patient00001", "patient00003"]
    assert release.notes == ["2 listed images are passed over by --exclude"]


def test_chexpert_errors_name_the_column_and_the_line(tmp_path: Path) -> None:
    write_chexpert(tmp_path)
    with pytest.raises(DataError, match=r"train\.csv has no column 'Fracture'"):
        read_chexpert(tmp_path, "Fracture")
    with pytest.raises(UsageError, match="unknown finding: 'Fractures'"):
        read_chexpert(tmp_path, "Fractures")
    write_chexpert(tmp_path, (("patient00001/study1/view1_frontal.jpg", "Frontal", "maybe"),))
    with pytest.raises(DataError, match="line 2, column Cardiomegaly: not a finding: 'maybe'"):
        read_chexpert(tmp_path)


def plain(tmp_path: Path) -> list[RawItem]:
    return read_chexpert(write_chexpert(tmp_path / "plain")).items


def as_listed(items: list[RawItem]) -> list[tuple[str, str, int, str]]:
    return [(item.source, item.key, item.label, item.group) for item in items]


def write_batches(source: Path, tables: Path | None = None) -> Path:
    """Write the release as its authors' download unpacks, the patients in two batches."""
    write_chexpert(source)
    for patient in sorted((source / "train").iterdir()):
        number = 3 if patient.name == "patient00003" else 2
        batch = source / f"CheXpert-v1.0 batch {number} (train {number - 1})"
        batch.mkdir(exist_ok=True)
        patient.rename(batch / patient.name)
    (source / "train").rmdir()
    first = source / "CheXpert-v1.0 batch 1 (validate & csv)"
    touch(first / "valid/patient64541/study1/view1_frontal.jpg", first / "valid.csv", source / "train_cheXbert.csv")
    (source / "train.csv").rename((tables or first) / "train.csv")
    return source


@pytest.mark.parametrize("above", [0, 1])
@pytest.mark.parametrize("beside", [False, True])
def test_chexpert_in_batches_is_what_it_is_in_one_folder(tmp_path: Path, above: int, beside: bool) -> None:
    source = tmp_path / "in" / "chexpertchestxrays-u20210408"
    write_batches(source, source if beside else None)
    release = read_chexpert(source.parents[above - 1] if above else source)
    assert as_listed(release.items) == as_listed(plain(tmp_path))
    assert [item.path and item.path.is_file() for item in release.items] == [True] * 4
    assert release.notes == []


def test_chexpert_of_some_batches_names_them_and_what_is_missing(tmp_path: Path) -> None:
    source = write_batches(tmp_path / "in")
    shutil.rmtree(source / "CheXpert-v1.0 batch 3 (train 2)")
    release = read_chexpert(source)
    assert [item.path is None for item in release.items] == [False, False, False, True]
    assert release.notes == [
        "1 of 4 listed images are missing; patients are in: CheXpert-v1.0 batch 1 (validate & csv)/valid, "
        "CheXpert-v1.0 batch 2 (train 1)"
    ]
    with pytest.raises(DataError, match=r"4 of 4 listed images are missing.* \(give the folder into which all batches"):
        read_chexpert(source / "CheXpert-v1.0 batch 1 (validate & csv)")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CheXpert-v1.0-small/", ""),
        ("CheXpert-v1.0-small/train/", ""),
        ("CheXpert-v1.0-small/", "CheXpert-v1.0/"),
        ("CheXpert-v1.0-small/train/", "CheXpert-v1.0 batch 2 (train 1)/"),
        ("CheXpert-v1.0-small/", "/home/someone/data/CheXpert-v1.0/"),
        ("CheXpert-v1.0-small/train/", "CheXpert-v1.0-small\\train\\"),
        ("/study", "\\study"),
        ("CheXpert-v1.0-small/", "./"),
        (".jpg", ".JPG"),
        ("Frontal,", " FRONTAL ,"),
        (",", ";"),
    ],
)
def test_chexpert_paths_are_read_however_they_begin(tmp_path: Path, old: str, new: str) -> None:
    table = write_chexpert(tmp_path / "in") / "train.csv"
    table.write_text(table.read_text().replace(old, new))
    release = read_chexpert(tmp_path / "in")
    listed = as_listed(plain(tmp_path))
    if old == ".jpg":
        listed = [(source.replace(".jpg", ".JPG"), key, label, group) for source, key, label, group in listed]
    assert as_listed(release.items) == listed
    assert all(item.path is not None for item in release.items)


def test_chexpert_files_with_upper_case_endings_are_found(tmp_path: Path) -> None:
    root = write_chexpert(tmp_path)
    for path in sorted(root.rglob("*.jpg")):
        path.rename(path.with_suffix(".JPG"))
    assert [item.path and item.path.suffix for item in read_chexpert(root).items] == [".JPG"] * 4


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (["0", "1", "0", "0", "0"], "0 of 5 rows are Frontal; the values of Frontal/Lateral: 4 x 0, 1 x 1"),
        (["Frontal"] * 4 + [""], "4 of 5 rows are Frontal; the values of Frontal/Lateral: 4 x Frontal, 1 x blank"),
        (["Lateral"] * 5, "0 of 5 rows are Frontal; the values of Frontal/Lateral: 5 x Lateral"),
        (["F"] * 3 + ["AP", "PA"], "0 of 5 rows are Frontal; the values of Frontal/Lateral: 3 x F, 1 x AP, 1 x PA"),
    ],
)
def test_chexpert_of_other_views_names_the_values(tmp_path: Path, views: list[str], message: str) -> None:
    rows = tuple((path, view, value) for (path, _, value), view in zip(CHEXPERT_ROWS, views, strict=True))
    with pytest.raises(DataError, match=message):
        read_chexpert(write_chexpert(tmp_path, rows))


@pytest.mark.parametrize("value", ["nan", "NaN", "NA", "2", "1.5", "inf", "1,0", "-"])
def test_chexpert_values_that_pandas_would_not_write_are_refused(tmp_path: Path, value: str) -> None:
    table = write_chexpert(tmp_path) / "train.csv"
    table.write_text(table.read_text().replace("Frontal,1.0", f'Frontal,"{value}"'))
    with pytest.raises(DataError, match="line 2, column Cardiomegaly: not a finding: "):
        read_chexpert(tmp_path)


def test_chexpert_without_a_positive_image_says_how_the_column_is_filled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 'edema': 0 positive, 0 negative, 0 uncertain, 4 blank"):
        read_chexpert(write_chexpert(tmp_path), "edema")


def test_two_releases_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_chexpert(tmp_path / "CheXpert-v1.0")
    write_chexpert(tmp_path / "CheXpert-v1.0-small")
    with pytest.raises(DataError, match=r"has several train\.csv: CheXpert-v1\.0/train\.csv, CheXpert-v1\.0-small"):
        read_chexpert(tmp_path)
