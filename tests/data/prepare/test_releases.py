"""Releases in the layouts of their authors."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from synthmed.data.prepare.chexpert import read_chexpert
from synthmed.data.prepare.releases import read_airogs, read_crcdx, read_image_folders
from synthmed.errors import DataError, UsageError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write_airogs(source: Path, rows: str = "A1,RG\nA2,NRG\nA3,NRG\n", head: str = "challenge_id,class\n") -> Path:
    touch(source / "0/A1.jpg", source / "1/deep/A2.jpg", source / "A3.JPG")
    (source / "train_labels.csv").write_text(head + rows)
    return source


def test_airogs_finds_images_in_any_depth(tmp_path: Path) -> None:
    release = read_airogs(write_airogs(tmp_path))
    assert [(item.source, item.label, item.key) for item in release.items] == [
        ("0/A1.jpg", 1, "A1"),
        ("1/deep/A2.jpg", 0, "A2"),
        ("A3.JPG", 0, "A3"),
    ]
    assert release.counts == {"images": 3, "no-glaucoma": 2, "glaucoma": 1}
    assert release.problems == []


def test_airogs_without_groups_says_that_images_are_their_own(tmp_path: Path) -> None:
    release = read_airogs(write_airogs(tmp_path))
    assert [item.group for item in release.items] == ["A1", "A2", "A3"]
    assert "each image is its own group" in release.notes[0]


def test_airogs_takes_patients_from_a_csv(tmp_path: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("challenge_id,group\nA1,7\nA2,7\nA3,8\n")
    release = read_airogs(write_airogs(tmp_path), groups)
    assert [item.group for item in release.items] == ["7", "7", "8"]
    assert release.notes == []
    groups.write_text("challenge_id,group\nA1,7\nA2,7\n")
    with pytest.raises(DataError, match=r"groups\.csv has no group for A3\.JPG"):
        read_airogs(tmp_path, groups)


def test_airogs_keeps_listed_images_that_are_missing_and_tells_of_unlisted_ones(tmp_path: Path) -> None:
    touch(tmp_path / "extra.jpg")
    release = read_airogs(write_airogs(tmp_path, "A1,RG\nA9,NRG\n"))
    assert [item.path is None for item in release.items] == [False, True]
    assert "3 images are not listed in train_labels.csv" in release.notes[1]


def test_airogs_leaves_out_what_is_there_twice(tmp_path: Path) -> None:
    touch(tmp_path / "2/A1.png")
    release = read_airogs(write_airogs(tmp_path, "A1,RG\nA1,NRG\nA2,NRG\nA3,NRG\n"))
    assert [(item.source, item.label) for item in release.items if item.key == "A1"] == [("0/A1.jpg", 1)]
    assert [(problem.source, problem.reason) for problem in release.problems] == [
        ("A1", "duplicate"),
        ("2/A1.png", "duplicate"),
    ]


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        ("challenge_id,label\n", "A1,RG\n", r"train_labels\.csv has no column 'class' \(it has: challenge_id, label\)"),
        ("", "", r"train_labels\.csv has no column 'challenge_id' \(it has: none\)"),
        ("challenge_id,class\n", "", r"train_labels\.csv has no rows"),
        ("challenge_id,class\n", "A1,RG\nA2,XX\n", r"train_labels\.csv, line 3: unknown label: 'XX'"),
        ("challenge_id,class\n", "A1\n", r"line 2: unknown label: ''"),
    ],
)
def test_airogs_table_that_cannot_be_used_is_named(tmp_path: Path, head: str, rows: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_airogs(write_airogs(tmp_path, rows, head))


def test_missing_or_binary_table_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*train_labels\.csv"):
        read_airogs(tmp_path)
    (tmp_path / "train_labels.csv").write_bytes(b"challenge_id,class\n\xff\xfe,RG\n")
    with pytest.raises(DataError, match="as CSV"):
        read_airogs(tmp_path)


def test_table_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    release = read_airogs(write_airogs(tmp_path, head="\ufeffchallenge_id,class\n"))
    assert len(release.items) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("challenge_id,patient\nA1,1\n", "has no column 'group'"),
        ("group\n1\n", "has no column that names the image"),
        ("challenge_id,group\nA1,\n", "A1 has an empty group"),
        ("challenge_id,group\nA1,1\nA1,2\n", "A1 is in two groups: 1 and 2"),
    ],
)
def test_groups_table_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_airogs(write_airogs(tmp_path), tmp_path / "groups.csv")


def tile(patient: str, number: int = 0) -> str:
    return f"blk-{number:04d}-TCGA-{patient}-01Z-00-DX1.png"


def test_crcdx_takes_labels_splits_and_patients_from_names(tmp_path: Path) -> None:
    touch(
        tmp_path / "CRC_DX_TRAIN/CRC_DX_TRAIN/MSIH" / tile("AA-0001"),
        tmp_path / "CRC_DX_TRAIN/CRC_DX_TRAIN/nonMSIH" / tile("AA-0002"),
        tmp_path / "CRC_DX_TEST/CRC_DX_TEST/nonMSIH" / tile("AA-0003"),
        tmp_path / "CRC_DX_TEST/CRC_DX_TEST/MSIH" / "no-barcode.png",
        tmp_path / "elsewhere" / tile("AA-0004"),
    )
    release = read_crcdx(tmp_path)
    assert {(item.group, item.label, item.split) for item in release.items} == {
        ("TCGA-AA-0001", 0, "train"),
        ("TCGA-AA-0002", 1, "train"),
        ("TCGA-AA-0003", 1, "test"),
    }
    assert release.counts == {"train MSIH": 1, "train nonMSIH": 1}
    assert [problem.reason for problem in release.problems] == ["no patient"]


def test_crcdx_without_split_folders_leaves_the_split_to_us(tmp_path: Path) -> None:
    touch(tmp_path / "MSIH" / tile("AA-0001"), tmp_path / "nonMSIH" / tile("AA-0002"))
    assert {item.split for item in read_crcdx(tmp_path).items} == {None}


def test_crcdx_patient_in_train_and_test_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "train/MSIH" / tile("AA-0001", 1), tmp_path / "test/nonMSIH" / tile("AA-0001", 2))
    with pytest.raises(DataError, match="patient TCGA-AA-0001 is in two splits"):
        read_crcdx(tmp_path)


def test_folder_that_is_not_crcdx_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "other/a.png")
    with pytest.raises(DataError, match="is not CRCDX: no tiles in folders MSIH and nonMSIH"):
        read_crcdx(tmp_path)


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
        ({"finding": "edema"}, [0, 0, 0, 0]),
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
    rows = (("../../secret/patient00009/study1/view1_frontal.jpg", "Frontal", "1.0"),)
    root = tmp_path / "release"
    (root / "train").mkdir(parents=True)
    release = read_chexpert(write_chexpert(root, rows))
    assert release.items[0].path is None


def test_chexpert_errors_name_the_column_and_the_line(tmp_path: Path) -> None:
    write_chexpert(tmp_path)
    with pytest.raises(DataError, match=r"train\.csv has no column 'Fracture'"):
        read_chexpert(tmp_path, "Fracture")
    with pytest.raises(UsageError, match="unknown finding: 'Fractures'"):
        read_chexpert(tmp_path, "Fractures")
    write_chexpert(tmp_path, (("patient00001/study1/view1_frontal.jpg", "Frontal", "maybe"),))
    with pytest.raises(DataError, match="line 2, column Cardiomegaly: not a finding: 'maybe'"):
        read_chexpert(tmp_path)


def write_folders(source: Path) -> Path:
    for name in ("p1_s1_a", "p1_s1_b", "p2_s1_a"):
        touch(source / "malignant" / f"{name}.png", source / "benign/deep" / f"{name}.tif")
    touch(source / "benign/notes.txt", source / ".hidden/a.png", source / "benign/.a.png")
    (source / "empty").mkdir()
    return source


def test_image_folders_give_labels_in_sorted_order(tmp_path: Path) -> None:
    release = read_image_folders(write_folders(tmp_path / "tiles"))
    assert release.info.name == "tiles"
    assert release.info.classes.names == ("benign", "malignant")
    assert Counter(item.label for item in release.items) == {0: 3, 1: 3}
    assert len({item.group for item in release.items}) == 6
    assert "each image is its own group" in release.notes[0]


@pytest.mark.parametrize("pattern", ["^(deep/)?p[0-9]", "p([0-9])_", "p[0-9]"])
def test_group_pattern_gives_patients(tmp_path: Path, pattern: str) -> None:
    release = read_image_folders(write_folders(tmp_path), group_pattern=pattern.replace("(deep/)?", "(?:deep/)?"))
    groups = Counter(item.group.removeprefix("deep/").removeprefix("p") for item in release.items)
    assert groups == {"1": 4, "2": 2}
    assert release.notes == []


@pytest.mark.parametrize("column", ["{folder}/{name}.{ending}", "{name}.{ending}", "{name}"])
def test_groups_csv_names_images_by_path_name_or_stem(tmp_path: Path, column: str) -> None:
    source = write_folders(tmp_path / "tiles")
    lines = ["image,group"]
    for folder, ending in (("benign/deep", "tif"), ("malignant", "png")):
        for name, group in (("p1_s1_a", "1"), ("p1_s1_b", "1"), ("p2_s1_a", "2")):
            lines.append(f"{column.format(folder=folder, name=name, ending=ending)},{group}")
    (tmp_path / "groups.csv").write_text("\n".join(lines))
    release = read_image_folders(source, groups=tmp_path / "groups.csv")
    assert Counter(item.group for item in release.items) == {"1": 4, "2": 2}


def test_group_options_that_cannot_work_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path)
    with pytest.raises(UsageError, match="is not a regular expression: '\\('"):
        read_image_folders(tmp_path, group_pattern="(")
    with pytest.raises(
        DataError, match="--group-pattern 'x[0-9]' finds no group in 'deep/p1_s1_a.tif'".replace("[", r"\[")
    ):
        read_image_folders(tmp_path, group_pattern="x[0-9]")
    with pytest.raises(UsageError, match="both given"):
        read_image_folders(tmp_path, group_pattern="p", groups=tmp_path / "groups.csv")


def test_fewer_than_two_class_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "only/a.png")
    with pytest.raises(DataError, match="has 1 folders with images"):
        read_image_folders(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_image_folders(tmp_path / "nowhere")


def test_images_of_equal_names_have_different_keys(tmp_path: Path) -> None:
    touch(tmp_path / "a/x.png", tmp_path / "b/x.png", tmp_path / "a/y 1.png", tmp_path / "a/y.1.png")
    keys = [item.key for item in read_image_folders(tmp_path).items]
    assert len(set(keys)) == 4
