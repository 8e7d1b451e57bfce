"""Releases in the layouts of their authors."""

from collections import Counter
from pathlib import Path

import pytest

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
    with pytest.raises(DataError, match=r"groups\.csv has no group for 1 of 3 images, the first: A3\.JPG"):
        read_airogs(tmp_path, groups)


def test_airogs_keeps_listed_images_that_are_missing_and_tells_of_unlisted_ones(tmp_path: Path) -> None:
    touch(tmp_path / "extra.jpg")
    release = read_airogs(write_airogs(tmp_path, "A1,RG\nA9,NRG\n"))
    assert [item.path is None for item in release.items] == [False, True]
    assert release.notes[1].startswith(
        "3 images are not listed in train_labels.csv and are not used, the first: A3.JPG"
    )


def test_airogs_on_linked_disks_without_what_is_excluded(tmp_path: Path) -> None:
    source = write_airogs(tmp_path / "airogs")
    touch(tmp_path / "disk/B1.jpg", tmp_path / "disk/@eaDir/A1.jpg", source / "masks/A1.png", source / "C1.jpg")
    (source / "2").symlink_to(tmp_path / "disk")
    (source / "A4.jpg").symlink_to("/mnt/gone.jpg")
    with (source / "train_labels.csv").open("a") as table:
        table.write("A4,RG\nB1,RG\nC1,NRG\n")
    release = read_airogs(source, exclude=["masks", "C?.jpg"])
    assert [(item.source, item.path is None) for item in release.items] == [
        *(("0/A1.jpg", False), ("1/deep/A2.jpg", False), ("A3.JPG", False)),
        *(("A4.jpg", True), ("2/B1.jpg", False)),
    ]
    assert (release.problems, release.counts["images"]) == ([], 5)
    assert release.notes[1:] == [
        "3 files are passed over: 1 --exclude C?.jpg, 1 --exclude masks, 1 @eaDir, e.g. 2/@eaDir/A1.jpg"
    ]


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
        ("challenge_id,class\n", "A1\n", r"line 2 has 1 cells, the header 2 \(it has: challenge_id, class\)"),
        ("challenge_id,class\n", "A1,\n", r"line 2: unknown label: ''"),
        ("challenge_id,class\n", "A1,1\nA2,0\n", r"line 2: unknown label: '1' \(valid: no-glaucoma \(or NRG"),
        ("challenge_id,class\n", "A1,NRG\nA2,NRG\n", r"train_labels\.csv lists no image of class 'glaucoma'"),
    ],
)
def test_airogs_table_that_cannot_be_used_is_named(tmp_path: Path, head: str, rows: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_airogs(write_airogs(tmp_path, rows, head))


def test_airogs_table_may_lie_in_a_folder_and_name_files(tmp_path: Path) -> None:
    write_airogs(tmp_path, "0/A1.jpg;RG\nA2.JPG;NRG\n1\\A3;nrg\n", "Challenge_ID;Class\n")
    (tmp_path / "tables").mkdir()
    (tmp_path / "train_labels.csv").rename(tmp_path / "tables/train_labels.csv")
    release = read_airogs(tmp_path)
    assert [(item.source, item.label, item.key) for item in release.items] == [
        ("0/A1.jpg", 1, "A1"),
        ("1/deep/A2.jpg", 0, "A2"),
        ("A3.JPG", 0, "A3"),
    ]


def test_airogs_without_its_table_is_told_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*train_labels\.csv \(give the folder .* unpacked\)"):
        read_airogs(tmp_path)
    touch(tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"unpacked; its tables: labels\.csv"):
        read_airogs(tmp_path)
    touch(tmp_path / "a/train_labels.csv", tmp_path / "b/train_labels.csv")
    with pytest.raises(DataError, match=r"several train_labels\.csv: a/train_labels\.csv, b/train_labels\.csv"):
        read_airogs(tmp_path)


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


def test_crcdx_on_linked_disks_says_what_is_not_used(tmp_path: Path) -> None:
    disk, source = tmp_path / "disk", tmp_path / "crc"
    touch(disk / "MSIH" / tile("AA-0001"), disk / "MSIH" / tile("AA-0002"), disk / "nonMSIH" / tile("AA-0003", 7))
    touch(disk / "other/1.png", disk / "nonMSIH/Thumbs.db", disk / "slide.svs", source / "x.txt")
    (source / "CRC_DX_TEST").symlink_to(disk)
    release = read_crcdx(source, ["*AA-0002*"])
    assert {(item.group, item.label, item.split) for item in release.items} == {
        ("TCGA-AA-0001", 0, "test"),
        ("TCGA-AA-0003", 1, "test"),
    }
    assert release.notes == [
        "2 files are not read: 1 .svs, 1 .txt, e.g. CRC_DX_TEST/slide.svs",
        f"2 files are passed over: 1 --exclude *AA-0002*, 1 Thumbs.db, e.g. CRC_DX_TEST/MSIH/{tile('AA-0002')}",
        "images in no folder MSIH or nonMSIH are not used: 1, e.g. CRC_DX_TEST/other/1.png",
    ]
    with pytest.raises(DataError, match=r"is not CRCDX: no tiles in folders MSIH and nonMSIH: 1 \.svs, 1 \.txt; "):
        read_crcdx(source, ["MSIH", "nonMSIH", "other"])


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


def write_folders(source: Path) -> Path:
    for name in ("p1_s1_a", "p1_s1_b", "p2_s1_a"):
        touch(source / "malignant" / f"{name}.png", source / "benign/deep" / f"{name}.tif")
    touch(source / "benign/notes.txt", source / ".hidden/a.png", source / "benign/.a.png")
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
    assert release.notes == [
        "1 file is not read: 1 .txt, e.g. benign/notes.txt",
        "2 files are passed over: 2 hidden, e.g. .hidden/a.png",
    ]


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


def test_images_beside_the_class_folders_are_said(tmp_path: Path) -> None:
    touch(write_folders(tmp_path) / "x.png", tmp_path / "1.png")
    release = read_image_folders(tmp_path, group_pattern="p[0-9]")
    assert len(release.items) == 6
    assert release.notes[0] == "images beside the class folders are not used: 2, e.g. 1.png"


def test_fewer_than_two_class_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "only/a.png")
    with pytest.raises(DataError, match=r"has 1 folders with images .* where a table holds the labels: --labels CSV"):
        read_image_folders(tmp_path)
    touch(tmp_path / "1.png", tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"has 1 folders with images: 1 \.csv; images beside the class folders are not"):
        read_image_folders(tmp_path)
    touch(tmp_path / "test/a.png")
    with pytest.raises(DataError, match="splits by their name, not classes: test"):
        read_image_folders(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_image_folders(tmp_path / "nowhere")


def test_images_of_equal_names_have_different_keys(tmp_path: Path) -> None:
    touch(tmp_path / "a/x.png", tmp_path / "b/x.png", tmp_path / "a/y 1.png", tmp_path / "a/y.1.png")
    keys = [item.key for item in read_image_folders(tmp_path).items]
    assert len(set(keys)) == 4
