"""Names of files and folders: images, leftovers, patterns, splits and classes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthmed.data.names import check_class_names, ending, excluded_by, find_rule, plain_path, split_names
from synthmed.errors import DataError


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "@eaDir"),
        ("a/1.png@SynoEAStream", "*@SynoEAStream"),
        ("@Recycle/1.png", "@Recycle"),
        ("#recycle/1.png", "#recycle"),
        ("$RECYCLE.BIN/S-1-5/1.png", "$RECYCLE.BIN"),
        ("System Volume Information/1.png", "System Volume Information"),
        ("lost+found/1.png", "lost+found"),
        (".snapshot/daily/a/1.png", ".snapshot"),
        ("a/.@__thumb/1.png", ".@__thumb"),
        ("a/.thumbnails/normal/1.png", ".thumbnails"),
        ("a/Thumbs.db", "Thumbs.db"),
        ("a/THUMBS.DB", "Thumbs.db"),
        ("a/Desktop.ini", "desktop.ini"),
        ("a/.DS_Store", ".DS_Store"),
        ("a/._1.png", "._*"),
        ("__MACOSX/a/._1.png", "__MACOSX"),
        ("a/.ipynb_checkpoints/1-checkpoint.png", ".ipynb_checkpoints"),
        ("a/~$1.png", "~$*"),
        ("a/.hidden.png", "hidden"),
        (".git/1.png", "hidden"),
        # What a user may mean.
        ("a/thumbs/1.png", ""),
        ("a/my@eaDir/1.png", ""),
        ("a/Thumbs.db.png", ""),
        ("recycle/1.png", ""),
        ("a/1~.png", ""),
        ("a/v1.2/x.y.png", ""),
        ("../1.png", ""),
    ],
)
def test_leftovers_and_hidden_files_are_passed_over(name: str, rule: str) -> None:
    assert find_rule(name, ()) == rule


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*_mask.png", True),
        ("masks", True),
        ("masks/", True),
        ("./a/masks", True),
        ("a/m*", True),
        ("a/masks/*.png", True),
        ("[ab]", True),
        ("MASKS", False),
        ("mask", False),
        ("masks/1_mask.png", False),
        ("*.jpg", False),
    ],
)
def test_exclude_fits_the_path_a_folder_above_or_a_part(pattern: str, fits: bool) -> None:
    assert bool(excluded_by("a/masks/1_mask.png", [pattern])) == fits


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train", "test"], ["train", "test"]),
        (["Train", "VAL", "Testing", "valid", "hold-out", "held_out", "dev"], None),
        (["train_images", "test_images", "val set", "TrainSet", "test1", "trn"], None),
        (["fold1", "fold_2", "Fold-03", "split 4", "cv5"], None),
        (["CRC_DX_TRAIN", "CRC_DX_TEST"], None),
        (["cat", "dog", "test"], ["test"]),
        (["images_train", "masks_train", "labels_test"], ["images_train"]),
        (["PCR test positive", "PCR test negative", "stress-test", "contest", "manifold1", "skin fold"], []),
        (["a_test", "a", "dev_stage_1", "dev_stage_2", "1", "2", "", "vallée"], []),
    ],
)
def test_splits_are_told_from_classes(names: list[str], splits: list[str] | None) -> None:
    assert split_names(names) == (names if splits is None else splits)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "gutm\udcfctig"], r"not UTF-8 or cannot be printed: x/gutm.tig \(rename it\)"),
        (["a", "b\u202ec"], "cannot be printed"),
        (["ça", "c\u0327a"], r"names mean the same: '\\xe7a' and 'c\\u0327a'"),
        (["Normal", "Tumor", "normal"], "'Normal' and 'normal'"),
        (["no-tumor", "no_tumor"], "'no-tumor' and 'no_tumor'"),
    ],
)
def test_class_folders_have_names_that_can_be_told_apart(names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_class_names(names, Path("x"))
    check_class_names(["ça", "ca", "1", "日本", "a b"], Path("x"))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/1.DCM", ".dcm"),
        ("a/1.nii.gz", ".nii.gz"),
        ("a/1.gz", ".gz"),
        ("a/1.2.840.113619.2.5", "without ending"),
        ("a.b/IM0001", "without ending"),
        ("a/1.png ", "without ending"),
        ("a/1.png.crdownload", ".crdownload"),
    ],
)
def test_ending_of_a_file(name: str, found: str) -> None:
    assert ending(name) == found


@given(st.text(alphabet="ab./\\:", max_size=12))
def test_plain_path_has_no_empty_parts_and_keeps_what_leads_out(name: str) -> None:
    plain = plain_path(name)
    assert "\\" not in plain and "//" not in plain
    assert plain_path(plain) == plain
    assert plain.startswith("/") == name.startswith(("/", "\\"))
    assert plain.split("/").count("..") == name.replace("\\", "/").split("/").count("..")
