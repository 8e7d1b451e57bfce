"""A folder of images with a table of labels."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from synthmed.data.images import encode_image
from synthmed.data.prepare.columns import ColumnNames
from synthmed.data.prepare.image_tables import read_image_table
from synthmed.data.prepare.raw import Release
from synthmed.errors import DataError, UsageError

NAMES = ("1.png", "2.png", "deep/3.png", "deep/4.jpg")


def make(folder: Path, table: str) -> tuple[Path, Path]:
    for name in NAMES:
        path = folder / "flat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    labels = folder / "flat" / "labels.csv"
    labels.write_text(table)
    return folder / "flat", labels


def read(folder: Path, *rows: str, head: str = "image,label", **names: str) -> Release:
    return read_image_table(*make(folder, "\n".join([head, *rows])), ColumnNames(**names))


def test_labels_and_patients_come_from_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ("1,mel,7", "2.png,nev,7", "3,mel,8", "flat/deep/4.jpg,nev,9")
    release = read(tmp_path, *rows, head="image_id,dx,Patient_ID")
    assert [(item.source, item.label, item.group, item.key) for item in release.items] == [
        ("1.png", 0, "7", "1"),
        ("2.png", 1, "7", "2"),
        ("deep/3.png", 0, "8", "deep-3"),
        ("deep/4.jpg", 1, "9", "deep-4"),
    ]
    assert all(item.path and item.path.is_file() for item in release.items)
    assert (release.info.name, release.info.classes.names, release.info.classes.positive) == (
        "flat",
        ("mel", "nev"),
        "nev",
    )
    assert release.notes == []
    assert (
        "image from column 'image_id', label from column 'dx', group from column 'Patient_ID'"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("head", "labels", "classes"),
    [
        ("image,label", "0110", ("0", "1")),
        ("image,label", ["0.0", "1.0", "1.0", "0.0"], ("0", "1")),
        ("filename,class", ["b", "B, c", "a", "b"], ("B, c", "a", "b")),
        (",file,Finding", "xyxy", ("x", "y")),
        ("id,diagnosis", "xyxy", ("x", "y")),
        ("path,category,age,notes", "xyxy", ("x", "y")),
    ],
)
def test_columns_are_guessed_where_there_is_no_doubt(
    tmp_path: Path, head: str, labels: list[str], classes: tuple[str, ...]
) -> None:
    index = "9," if head.startswith(",") else ""
    labels = [word.replace("B", "b") for word in labels] if "b" not in classes else list(labels)
    rows = [f'{index}{name},"{label}"' for name, label in zip(NAMES, labels, strict=True)]
    release = read(tmp_path, *rows, head=head)
    assert release.info.classes.names == classes
    assert [release.info.classes[item.label] for item in release.items] == [word.removesuffix(".0") for word in labels]
    assert [item.group for item in release.items] == list(NAMES)
    assert "give --groups, --group-column or --group-pattern" in release.notes[0]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("image,grade", r"the label is in no column called so \(--label-column says which it is: image, grade\)"),
        (
            "image,label,class",
            r"the label may be in one of 'label', 'class' \(--label-column says which it is: image, l",
        ),
        (
            "id,code,label",
            r"the image may be in one of 'id', 'code' \(--image-column says which it is: id, code, label",
        ),
        ("image,path,label", r"the image may be in one of 'image', 'path'"),
        ("image,patient,group,label", r"the group may be in one of 'patient', 'group' \(--group-column says"),
        (",label", "has no column that names the image"),
        ("label", "has no column that names the image"),
    ],
)
def test_doubt_about_columns_is_asked_about(tmp_path: Path, head: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, "1,1,1,1", head=head)


def test_named_columns_are_taken_whatever_they_are_called(tmp_path: Path) -> None:
    head = "label,image,grade,who,scan"
    release = read(
        tmp_path,
        "0,x,a,1,1",
        "0,x,b,1,2",
        "0,x,a,2,3",
        "0,x,b,3,4",
        head=head,
        image="scan",
        label="Grade",
        group="who",
    )
    assert release.info.classes.names == ("a", "b")
    assert [item.group for item in release.items] == ["1", "1", "2", "3"]
    with pytest.raises(DataError, match=r"has no column 'name' \(it has: label, image, grade, who, scan\)"):
        read(tmp_path, "0,x,a,1,1", head=head, image="name")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,a", "2,b", "3,"], r"column 'label' names nothing in 1 of 3 rows, the first in line 4: ''"),
        (["1,a", "2,b", "3,nan", "4,NaN"], r"column 'label' names nothing in 2 of 4 rows, the first in line 4: 'nan'"),
        (["1,a", "2,b", "3,A"], r"'a' in line 2 and 'A' in line 4 may be the same"),
        (["1,1", "2,0", "3,1.0"], r"'1' in line 2 and '1\.0' in line 4 may be the same"),
        (["1,a", "2,b", "1.png,b"], r"labels\.csv: 1\.png is a in line 2 and b in line 4"),
        (["1,a", "2,a"], "column 'label' has one value only: 'a'"),
        (
            ["x,a", "y,b"],
            r"none of 2 rows names an image below .*flat \(column 'image' has e\.g\. 'x', the folder 1\.png",
        ),
    ],
)
def test_labels_that_leave_a_doubt_are_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, *rows)


def test_missing_repeated_and_unlisted_images_are_told(tmp_path: Path) -> None:
    release = read(tmp_path, "1,a", "gone/9.png,b", "2,b", "1.png,a", ",b", "/,b", "..,b", "\\,b", f"{'x' * 300},b")
    assert [(item.source, item.path is None) for item in release.items] == [
        ("1.png", False),
        ("gone/9.png", True),
        ("2.png", False),
        ("line 6", True),
        ("/", True),
        ("..", True),
        ("\\", True),
        ("x" * 300, True),
    ]
    assert release.notes[0].endswith("labels.csv: 1 rows name an image again and say the same of it")
    assert release.notes[1] == "2 images are not listed in labels.csv and are not used, the first: deep/3.png"


def test_images_that_are_passed_over_or_broken_links_are_counted_once(tmp_path: Path) -> None:
    source, labels = make(tmp_path, "image,label\n1,a\n2,b\n3,a\n4,b\n5,a\n6,b\n")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/6.png").write_bytes(b"")
    (source / "disk").symlink_to(tmp_path / "disk")
    (source / "5.png").symlink_to("gone.png")
    (source / "1.dcm").write_bytes(b"")
    (source / "deep/Thumbs.db").write_bytes(b"")
    release = read_image_table(source, labels, exclude=["deep/3*"])
    assert [item.source for item in release.items] == ["1.png", "2.png", "deep/4.jpg", "disk/6.png"]
    assert [(problem.source, problem.reason) for problem in release.problems] == [("5.png", "missing")]
    assert release.notes[1:] == [
        "1 file is not read: 1 .dcm, e.g. 1.dcm",
        "2 files are passed over: 1 --exclude deep/3*, 1 Thumbs.db, e.g. deep/3.png",
    ]


def test_patients_come_from_elsewhere_where_that_is_said(tmp_path: Path) -> None:
    source, labels = make(tmp_path, "image,label,patient\n1,a,1\n2,b,2\n3,a,3\n4,b,4\n")
    release = read_image_table(source, labels, group_pattern="^deep|^.")
    assert [item.group for item in release.items] == ["1", "2", "deep", "deep"]
    groups = tmp_path / "groups.csv"
    groups.write_text("file,who,label\n1,x,a\n2,x,b\n3,x,a\n4,y,b\n")
    release = read_image_table(source, labels, ColumnNames(group="who"), groups=groups)
    assert [item.group for item in release.items] == ["x", "x", "x", "y"]
    groups.write_text("file,group,label\n1,x,b\n2,x,b\n3,x,a\n4,y,b\n")
    with pytest.raises(DataError, match=r"groups\.csv, line 2: 1 is b, but 1\.png is a"):
        read_image_table(source, labels, groups=groups)
    with pytest.raises(UsageError, match="--group-pattern and --group-column were both given"):
        read_image_table(source, labels, ColumnNames(group="patient"), group_pattern=".")
    with pytest.raises(UsageError, match="--group-pattern and --groups were both given"):
        read_image_table(source, labels, groups=groups, group_pattern=".")


def test_column_of_patients_is_looked_at_as_in_a_table_of_patients(tmp_path: Path) -> None:
    for patients, message in (
        (("1", "nan", "2", "3"), "column 'patient' names nothing in 1 of 4 rows, the first in line 3: 'nan'"),
        (("1", "1.0", "2", "3"), "'1' in line 2 and '1.0' in line 3 may be the same"),
        (("1", "1", "1", "1"), "column 'patient' has one value only"),
        (("x", "y", "x", "y"), "column 'patient' says the class, not the patient: x, y"),
    ):
        rows = [f"{name},{label},{who}" for name, label, who in zip(NAMES, "abab", patients, strict=True)]
        with pytest.raises(DataError, match=message):
            read(tmp_path, *rows, head="image,label,patient")


def test_command_prepares_a_flat_folder(tmp_path: Path, run_program: Callable[..., tuple[int, str, str]]) -> None:
    rows = ["name;grade;patient"]
    (tmp_path / "flat").mkdir()
    for number in range(40):
        image = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        (tmp_path / f"flat/{number}.png").write_bytes(encode_image(image, "png"))
        rows.append(f"{number};{number % 2};p{number // 2}")
    labels = tmp_path / "flat/labels.csv"
    labels.write_text("\n".join(rows))
    words = ("prepare", "images", tmp_path / "flat", "-o", tmp_path / "out", "--size", 16)
    code, _, stderr = run_program(*words)
    assert (code, stderr.count("\n")) == (3, 1)
    assert (
        "not used: 40, e.g. 0.png (one a class is needed, two at least; where a table holds the labels: --labels"
        in stderr
    )
    code, stdout, stderr = run_program(*words, "--labels", labels, "--label-column", "grade", "--json")
    assert code == 0, stderr
    assert stderr.splitlines() == [
        f"{labels} is read as semicolon-separated text",
        f"{labels}: image from column 'name', label from column 'grade', group from column 'patient'",
    ]
    result = json.loads(stdout)
    assert result["splits"] == {
        "train": {"0": 12, "1": 12},
        "validation": {"0": 2, "1": 2},
        "test": {"0": 6, "1": 6},
    }
    assert Counter(result["groups"]) == {"train": 12, "validation": 2, "test": 6}
    assert run_program(*words, "--label-column", "grade")[0] == 2
