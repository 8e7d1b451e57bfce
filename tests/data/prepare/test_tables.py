"""CSV tables in the dialects of spreadsheets, and what is no table."""

import csv
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthmed.data.prepare import tables
from synthmed.data.prepare.tables import SEPARATORS, read_table
from synthmed.errors import DataError

PLAIN = "image,group\na.png,1\nb c.png,é 2\n"
ROWS = [("a.png", "1"), ("b c.png", "é 2")]


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for _, row in read_table(path, ("image", "group"))]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (PLAIN, ""),
        (PLAIN.replace(",", ";"), "semicolon-separated text"),
        (PLAIN.replace(",", "\t"), "tab-separated text"),
        (PLAIN.replace(",", "|"), "bar-separated text"),
        (PLAIN.encode("utf-8-sig"), ""),
        (PLAIN.encode("utf-16"), "UTF-16 text"),
        (b"\xff\xfe" + PLAIN.replace(",", "\t").encode("utf-16-le"), "tab-separated UTF-16 text"),
        (b"\xfe\xff" + PLAIN.encode("utf-16-be"), "UTF-16 text"),
        (PLAIN.replace(",", ";").encode("latin-1"), "semicolon-separated Windows-1252 text"),
        (PLAIN.replace("\n", "\r\n"), ""),
        (PLAIN.replace("\n", "\r"), ""),
        (PLAIN.rstrip(), ""),
        (PLAIN.replace("\n", "\n\n \n"), ""),
        (f"\n\n{PLAIN}", ""),
        (PLAIN.replace("\n", ",,\n"), ""),
        (PLAIN.replace("2\n", "2,,\n,,\n"), ""),
        (PLAIN.replace("image,group", " Image , GROUP "), ""),
        (PLAIN.replace("image,", "group.1,IMAGE,").replace("a.png", "x,a.png").replace("b c", "y,b c"), ""),
        (PLAIN.replace("image,group", "image,group,image_2,Note,note"), ""),
        (PLAIN.replace("a.png,1", '"a.png", "1"'), ""),
        ("sep=;\r\n" + PLAIN.replace(",", ";"), "semicolon-separated text"),
        ("sep=;\r\nimage;a,b;group\r\na.png;x,y;1\r\nb c.png;;é 2", "semicolon-separated text"),
        ('"sep=,"\n' + PLAIN, ""),
        ("sep=,,\n" + PLAIN, ""),
        ("group;image\n1;a.png\né 2;b c.png\n", "semicolon-separated text"),
        ('image;group;size, mm\na.png;1;"3,5"\nb c.png;é 2;4,5\n', "semicolon-separated text"),
    ],
)
def test_dialects_are_read_alike_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | bytes, told: str
) -> None:
    path = write(tmp_path, content)
    assert read(path) == ROWS
    assert capsys.readouterr().err == (f"{path} is read as {told}\n" if told else "")


def workbook() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"has no column 'image' \(it has: none\)"),
        ("\n\n", r"has no column 'image' \(it has: none\)"),
        ("image,group\n", "has no rows"),
        ("image,group\n,,\n \n", "has no rows"),
        ("image:group\na:1\n", r"has no column 'image' \(it has: image:group\)"),
        ("image;name;patient\na;b;1\n", r"has no column 'group' \(it has: image, name, patient\)"),
        ("image,group,Group\na,1,2\n", "has 2 columns called 'group'"),
        ("image,group,image\na,1,b\n", "has 2 columns called 'image'"),
        ("image,group,;image;group\na,1\n", "may be separated by comma or semicolon"),
        ("image,group\na,1\nDoe, John,2\n", r"line 3 has 3 cells, the header 2 \(it has: image, group\)"),
        ("image,group\na,1\nb\n", "line 3 has 1 cells, the header 2"),
        ("image,group\na;1\n", "line 2 has 1 cells, the header 2"),
        ('image,group\na,"1\nb,2\n', "line 3 is no row of a CSV: unexpected end of data"),
        ('image,group\n"a"b,1\n', "line 2 is no row of a CSV: ',' expected after '\"'"),
        ("image,group\na,\0\n", "holds a NUL byte in line 2"),
        (PLAIN.encode("utf-16-le"), "holds a NUL byte in line 1"),
        (b"\xff\xfe" + PLAIN.encode("utf-16-le")[:-1], "cannot read .* as CSV: it is no text in UTF-16"),
        (PLAIN.encode("utf-8-sig") + b"\xff,1\n", "it is no text in UTF-8-sig"),
        (b"image,group\n\xff\x81,1\n", "it is no text in UTF-8 or Windows-1252"),
        ("image,group\na," + "x" * 200_000, "line 2 is no row of a CSV: field larger than field limit"),
        ("image,group\na," + "x" * 2**20, "line 2 is no row of a CSV: it has over 1048576 characters"),
        (workbook(), "is no CSV: it is an Excel workbook or a zip"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "is no CSV: it is an old Excel workbook"),
        (b"\x1f\x8b\x08\0", "is no CSV: it is compressed with gzip"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"has no column 'image' \(it has: ‰PNG\)"),
        ("<!DOCTYPE html>\n<html>Log in</html>\n", r"has no column 'image' \(it has: <!DOCTYPE html>\)"),
        (",".join(f"column{number}" for number in range(99)) + "\n", r"column11 and 87 more\)"),
        ("x" * 5000 + "\n1\n", r"\(it has: x{57}\.\.\.\)"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert "table.csv" in str(error.value)
    assert len(str(error.value)) < 1000 + len(str(path))


def test_folder_device_and_missing_file_are_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 1000)
    with pytest.raises(DataError, match=r"^no such file: .*none\.csv$"):
        read(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"is a folder \(a CSV is needed\)"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .* as CSV: Not a directory"):
        read(write(tmp_path, PLAIN) / "table.csv")
    with pytest.raises(DataError, match=r"is too large for a table"):
        read(Path("/dev/zero"))


def test_tables_have_a_limit_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 2)
    assert len(read(write(tmp_path, PLAIN))) == 2
    with pytest.raises(DataError, match="has over 2 rows"):
        read(write(tmp_path, PLAIN + "c,1\n"))


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path, 'sep=,\n\nimage,group,note\na,1,"two\nlines"\n\nb,2,\n')
    assert [line for line, _ in read_table(path, ("image", "group"))] == [5, 7]


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(FUZZ, max_examples=150)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5),
    separator=st.sampled_from(list(SEPARATORS)),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_written_cells_are_read_back(
    tmp_path: Path, rows: list[tuple[str, ...]], separator: str, encoding: str
) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows([("image", "group", "note"), *rows])
    path = write(tmp_path, text.getvalue().encode(encoding))
    found = [tuple(row.values()) for _, row in _read_all(path)]
    assert found == [stripped for row in rows if any(stripped := tuple(cell.strip() for cell in row))]


def _read_all(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        return list(read_table(path, ("image", "group", "note")))
    except DataError as error:
        assert "has no rows" in str(error)  # where all are empty
        return []


@settings(FUZZ, max_examples=300)
@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.builds(lambda start, rest: start + rest, st.sampled_from([b"image,group\n", b"\xff\xfei\0"]), st.binary()),
        st.text(st.sampled_from('image,group;\t|"\n\r sep=1.0')).map(lambda text: f"image,group\n{text}".encode()),
    )
)
def test_any_bytes_are_a_table_or_refused(tmp_path: Path, content: bytes) -> None:
    try:
        for line, row in read_table(write(tmp_path, content), ("image", "group")):
            assert line > 1
            assert any(row.values())
    except DataError as error:
        assert "table.csv" in str(error)
