"""Tables of patients: which column, which spelling, which image."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthmed.data.prepare.columns import ColumnNames
from synthmed.data.prepare.groups import read_groups
from synthmed.data.prepare.releases import read_airogs, read_image_folders
from synthmed.errors import DataError, UsageError

IMAGES = ("benign/deep/1.tif", "benign/2.png", "malignant/1.png", "malignant/3.png")
PATHS = ("benign/deep/1.tif,1", "benign/2.png,2", "malignant/1.png,3", "malignant/3.png,3")


def make(folder: Path, table: str) -> tuple[Path, Path]:
    """Write class folders, and a table beside them."""
    for name in IMAGES:
        path = folder / "tiles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (folder / "groups.csv").write_text(table)
    return folder / "tiles", folder / "groups.csv"


def groups_of(folder: Path, table: str, **names: str) -> list[str]:
    source, groups = make(folder, table)
    release = read_image_folders(source, groups=groups, names=ColumnNames(**names))
    assert release.notes == []
    return [item.group for item in sorted(release.items, key=lambda item: IMAGES.index(item.source))]


def table_of(*rows: str, head: str = "image,group") -> str:
    return "\n".join([head, *rows])


@pytest.mark.parametrize(
    "names",
    [
        ["benign/deep/1.tif", "benign/2.png", "malignant/1.png", "malignant/3.png"],
        ["1.tif", "2.png", "1.png", "3.png"],
        ["benign/deep/1", "2", "malignant/1", "3"],
        ["deep/1", "./2.png", "malignant/1", "tiles/malignant/3.png"],
        [r"C:\data\tiles\benign\deep\1.tif", r"C:\data\tiles\benign\2.png", r"\\nas\x\malignant\1.png", r"malignant\3"],
        ["/data/tiles/benign/deep/1.tif", "/data/tiles/benign/2", "/data/malignant/1.png", "//malignant//3.png"],
        ["1.TIF", "Benign/2.PNG", "MALIGNANT/1", "3.Png"],
    ],
)
def test_images_are_named_by_any_end_of_their_path(tmp_path: Path, names: list[str]) -> None:
    rows = [f"{name},{group}" for name, group in zip(names, "7889", strict=True)]
    assert groups_of(tmp_path, table_of(*rows)) == ["7", "8", "8", "9"]


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("1,5", r"line 2: 1 may be benign/deep/1\.tif or malignant/1\.png \(name images by their path inside SOURCE\)"),
        ("benign/1,5", r"no group for 1 of 4 images, the first: benign/deep/1\.tif"),
        ("other/deep/1.tif,5", r"no group for 1 of 4 images, the first: benign/deep/1\.tif"),
        ("1.jpg,5", r"no group for 1 of 4 images, the first: benign/deep/1\.tif"),
        (",5", r"no group for 1 of 4 images, .*column 'image' has e\.g\. ''"),
        ("2.png,2", r"no group for 1 of 4 images"),
        ("2.png,5", r"line 3: benign/2\.png is in two groups: 5 and 2 \(see line 2\)"),
    ],
)
def test_name_that_may_be_another_image_is_refused(tmp_path: Path, first: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        groups_of(tmp_path, table_of(first, *PATHS[1:]))


def test_same_names_in_two_classes_are_not_one_patient(tmp_path: Path) -> None:
    (tmp_path / "tiles/malignant").mkdir(parents=True)
    (tmp_path / "tiles/malignant/2.png").write_bytes(b"")
    for name in ("2.png", "2"):
        with pytest.raises(DataError, match=r"2.* may be benign/2\.png or malignant/2\.png"):
            groups_of(tmp_path, table_of(PATHS[0], f"{name},2", *PATHS[2:]))


def test_rows_that_name_no_image_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert groups_of(tmp_path, table_of("9.png,4", *PATHS, ",5", PATHS[0])) == ["1", "2", "3", "3"]
    table = tmp_path / "groups.csv"
    assert capsys.readouterr().err == f"{table}: 2 of 7 rows name no image, the first in line 2: '9.png'\n"


@pytest.mark.parametrize("head", [",image,group", "Unnamed: 0,image,group", "index,Image_ID,group", "x,path,group"])
def test_numbers_of_rows_are_not_taken_for_images(tmp_path: Path, head: str) -> None:
    rows = [f"{number},{row}" for number, row in enumerate(PATHS)]
    assert groups_of(tmp_path, table_of(*rows, head=head)) == ["1", "2", "3", "3"]


@pytest.mark.parametrize("head", [",group", "Unnamed: 0,group", "group", "group,class", ",unnamed: 0.1,group"])
def test_table_without_a_column_of_images_is_refused(tmp_path: Path, head: str) -> None:
    rows = ["1,1,1"[: 2 * head.count(",") + 1]]
    with pytest.raises(DataError, match="has no column that names the image"):
        groups_of(tmp_path, table_of(*rows, head=head))


def test_first_of_unknown_columns_is_the_image_unless_it_may_number_rows(tmp_path: Path) -> None:
    table = table_of(*(row.replace(",", ",x,") for row in PATHS), head="scan,age,group")
    assert groups_of(tmp_path, table) == ["1", "2", "3", "3"]
    table = table_of("3,2.png,1", "1,1.tif,1", head="key,scan,group")
    with pytest.raises(DataError, match=r"column 'key' may name the images or only number the rows \(--image-column"):
        groups_of(tmp_path, table)
    with pytest.raises(DataError, match="no group for 2 of 4 images"):
        groups_of(tmp_path, table, image="scan")


def test_named_columns_are_used(tmp_path: Path) -> None:
    table = table_of(*(f"x,{row}" for row in PATHS), head="image,Scan,Patient_ID")
    assert groups_of(tmp_path, table, image="scan", group="patient id") == ["1", "2", "3", "3"]
    with pytest.raises(DataError, match=r"has no column 'patient' \(it has: image, Scan, Patient_ID\)"):
        groups_of(tmp_path, table, group="patient")


@pytest.mark.parametrize(
    "word", ["", " ", "nan", "NaN", "None", "NULL", "NA", "n/a", "-", "?", "<NA>", "#N/A", "unknown", "-1", "NaT"]
)
def test_word_for_nobody_is_no_patient(tmp_path: Path, word: str) -> None:
    with pytest.raises(DataError, match=r"column 'group' names nothing in 2 of 4 rows, the first in line 3"):
        groups_of(tmp_path, table_of(PATHS[0], f"2.png,{word}", PATHS[2], f"3.png,{word}"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"), ("1", "1.00"), ("1", '"1,0"'), ("7", "007"), ("P7", "P007"), ("P1", "p1"), ("Müller", "MÜLLER"),
        ("a-1", "a_1"), ("a 1", "a  1"), ("1", "１"), ("é", "e\u0301"), ("ﬁ", "fi"), ("1.0", "01.0"), ("P-07", "p 7"),
    ],
)  # fmt: skip
def test_two_spellings_of_one_patient_are_refused(tmp_path: Path, one: str, other: str) -> None:
    with pytest.raises(DataError, match=r"column 'group': '.*' in line 2 and '.*' in line 4 may be the same"):
        groups_of(tmp_path, table_of(f"benign/deep/1,{one}", "2.png,9", f"malignant/1.png,{other}", "3,8"))


@pytest.mark.parametrize(
    "groups", ["1 2 3 10", "1 11 12 3", "P1 P10 P01x 1P", "1.5 1.05 15 1", "1.2.840.1 1.2.840.10 1.2.8401 1.2.84"]
)
def test_different_patients_stay_different(tmp_path: Path, groups: str) -> None:
    rows = [f"{name},{group}" for name, group in zip(IMAGES, groups.split(), strict=True)]
    assert groups_of(tmp_path, table_of(*rows)) == groups.split()


def test_whole_numbers_that_became_floats_are_whole_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert groups_of(tmp_path, table_of(*(f"{row}.0" for row in PATHS))) == ["1", "2", "3", "3"]
    assert "column 'group' holds whole numbers as 1.0" in capsys.readouterr().err
    assert groups_of(tmp_path, table_of(*(row.replace(",", ", ") for row in PATHS))) == ["1", "2", "3", "3"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("cell", ["1.23E+11", "1e+05", '"a\nb"', "a\u200bb"])
def test_what_a_spreadsheet_or_a_terminal_changes_is_no_patient(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"column 'group', line [23]: '.*' is no name"):
        groups_of(tmp_path, table_of(f"benign/deep/1,{cell}", *PATHS[1:]))


def test_column_of_one_value_or_of_classes_is_no_column_of_patients(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'group' has one value only: 'x'"):
        groups_of(tmp_path, table_of(*(f"{name},x" for name in IMAGES)))
    with pytest.raises(DataError, match="column 'group' says the class, not the patient: B, M"):
        groups_of(tmp_path, table_of(*(f"{name},{name[0].upper()}" for name in IMAGES)))
    own = table_of(*(f"{name},{number}" for number, name in enumerate(IMAGES)))
    assert groups_of(tmp_path, own) == ["0", "1", "2", "3"]


def test_classes_in_a_table_of_patients_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["benign", "Benign", "malignant", ""]
    rows = [f"{row},{label}" for row, label in zip(PATHS, labels, strict=True)]
    assert groups_of(tmp_path, table_of(*rows, head="image,group,Class")) == ["1", "2", "3", "3"]
    assert capsys.readouterr().err == ""
    for word in ("malignant", "tumour"):
        rows[1] = f"{PATHS[1]},{word}"
        with pytest.raises(DataError, match=rf"line 3: benign/2\.png is {word}, but benign/2\.png is benign"):
            groups_of(tmp_path, table_of(*rows, head="image,group,label"))
    rows[1] = f"{PATHS[1]},benign"
    with pytest.raises(DataError, match=r"line 6: benign/2\.png is malignant, but benign/2\.png is benign"):
        groups_of(tmp_path, table_of(*rows, f"{PATHS[1]},malignant", head="image,group,label"))
    rows = [f"{row},{label}" for row, label in zip(PATHS, "0011", strict=True)]
    assert groups_of(tmp_path, table_of(*rows, head="image,group,label")) == ["1", "2", "3", "3"]
    assert "column 'label' is not used: 0, 1 is no class" in capsys.readouterr().err


def test_classes_of_airogs_are_compared_with_its_table_of_patients(tmp_path: Path) -> None:
    (tmp_path / "train_labels.csv").write_text("challenge_id,class\nA1,RG\nA2,NRG\nA3,NRG\n")
    table = tmp_path / "groups.csv"
    table.write_text("challenge_id,class,group\nA1.jpg,RG,1\nA2,NRG,1\nA3,NRG,2\n")
    assert [item.group for item in read_airogs(tmp_path, table).items] == ["1", "1", "2"]
    table.write_text("challenge_id,class,group\nA1,RG,1\nA2,RG,1\nA3,NRG,2\n")
    with pytest.raises(DataError, match=r"line 3: A2 is RG, but A2\.jpg is no-glaucoma"):
        read_airogs(tmp_path, table)


def test_columns_without_a_table_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without --labels"):
        ColumnNames(label="x").check_table(tmp_path)
    with pytest.raises(UsageError, match="without a table"):
        ColumnNames(image="x").check_table(None)
    ColumnNames(image="x", group="y").check_table(tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.text(max_size=6), st.text(st.sampled_from("01. Pp-\té\u0301e+nan"), max_size=5))),
    junk=st.binary(max_size=8),
)
def test_any_table_gives_groups_or_is_refused(tmp_path: Path, rows: list[tuple[str, str]], junk: bytes) -> None:
    text = "image,group\n" + "".join(f"{image},{group}\n" for image, group in rows)
    path = tmp_path / "groups.csv"
    path.write_bytes(text.encode("utf-8", "replace") + junk)
    try:
        table = read_groups(path)
    except DataError as error:
        assert "groups.csv" in str(error)
    else:
        assert all(row.group.strip() == row.group != "" for row in table.rows)
