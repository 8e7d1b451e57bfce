"""What lies in a source, whether it is a folder, a zip or a tar: nothing is dropped without a word, no link is lost."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from synthmed.data.folders import MAX_LINKS, Contents, read_folder
from synthmed.data.pack.sources import open_source
from synthmed.errors import DataError

CLASSES = ("a/1.png", "a/2.JPG", "b/deep/er/1.tif")


def write_folder(path: Path, names: Iterable[str]) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (path / name).mkdir()
        else:
            (path / name).write_bytes(b"x")
    return path


def write_zip(path: Path, names: Iterable[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else b"x")
    return path


def write_tar(path: Path, names: Iterable[str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.size = (tarfile.DIRTYPE, 0) if name.endswith("/") else (tarfile.REGTYPE, 1)
            archive.addfile(info, io.BytesIO(b"x"))
    return path


WRITERS: dict[str, Callable[[Path, Iterable[str]], Path]] = {"folder": write_folder, "zip": write_zip, "tar": write_tar}


@pytest.fixture(params=WRITERS)
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Contents]:
    """Return a function that writes files of these names, as every kind of source, and reads what lies there."""

    def write_and_read(names: Iterable[str], exclude: Iterable[str] = ()) -> Contents:
        try:
            path = WRITERS[request.param](tmp_path / "source", names)
        except UnicodeEncodeError:
            pytest.skip("a zip cannot hold such a name")
        with open_source(path, tuple(exclude)) as source:
            return source

    return write_and_read


Read = Callable[..., Contents]


def test_files_are_sorted_by_what_becomes_of_them(read: Read) -> None:
    others = ["a/1.dcm", "a/2.dcm", "c.xml", "b/deep/README", "a/@eaDir/1.png/T.jpg", "b/.x.png", "a/m_mask.png"]
    found = read([*CLASSES, "metadata.jsonl", *others], ["*_mask.png", "nothing"])
    assert sorted(found.images()) == sorted(CLASSES)
    assert found.files.keys() == {*CLASSES, "metadata.jsonl"}
    assert found.class_folders() == ["a", "b"]
    assert found.notes() == [
        "4 files are not read: 2 .dcm, 1 .xml, 1 without ending, e.g. a/1.dcm",
        "3 files are passed over: 1 --exclude *_mask.png, 1 @eaDir, 1 hidden, e.g. a/@eaDir/1.png/T.jpg",
        f"--exclude nothing fits no file in {found.path}",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["c/1.dcm", "c/x/2.dcm", "c/x.xml"], r"class folder 'c' of .* can be read: 2 \.dcm, 1 \.xml \(--exclude 'c'"),
        (["c/"], r"class folder 'c' of .* holds no image that can be read \(--exclude"),
        (["c/.DS_Store"], r"class folder 'c' .* can be read: 1 \.DS_Store passed over"),
        (["c/\udcfc.png"], r"class folder 'c' .*: 1 image refused, the first: c/\\udcfc.png: its name is not UTF-8"),
        (
            ["test/1.png"],
            r"splits by their name, not classes: test \(rename it if it is a class, else --exclude",
        ),
        (["A/1.png"], "names mean the same: 'A' and 'a'"),
        (["\x1b[2J/1.png"], "cannot be printed"),
    ],
)
def test_folder_that_is_no_class_is_refused_or_excluded(read: Read, names: list[str], message: str) -> None:
    found = read([*CLASSES, *names])
    with pytest.raises(DataError, match=message):
        found.class_folders()


def test_excluded_folder_is_no_class(read: Read) -> None:
    found = read([*CLASSES, "c/1.dcm", "test/1.png", "d/"], ["c", "tes?", "d/"])
    assert found.class_folders() == ["a", "b"]
    assert sorted(found.excluded()) == ["c/1.dcm", "test/1.png"]


def test_classes_may_lie_below_a_folder(read: Read) -> None:
    found = read([*(f"in/side/{name}" for name in CLASSES), "docs/x.pdf", "in/x.txt"])
    assert found.class_folders("in/side/") == ["a", "b"]
    with pytest.raises(DataError, match=r"class folder 'docs' .*: 1 \.pdf"):
        found.class_folders()


def test_splits_inside_classes_are_said(read: Read) -> None:
    found = read(["a/train/1.png", "a/test/1.png", "b/train/1.png"])
    assert found.class_folders() == ["a", "b"]
    assert found.notes() == ["folders inside the class folders are no splits here: test, train"]


# ------------------------------------------------------------------------------------------- links, in folders alone


def test_links_are_followed_to_files_folders_and_out_of_the_source(tmp_path: Path) -> None:
    disk = write_folder(tmp_path / "disk", ["b/1.png", "b/@eaDir/1.png", "more/2.png", "3.png"])
    source = write_folder(tmp_path / "source", ["a/1.png"])
    (source / "b").symlink_to(disk / "b")
    (source / "a/more").symlink_to("../../disk/more")
    (source / "a/3.png").symlink_to(disk / "3.png")
    (tmp_path / "linked").symlink_to(source)
    for place in (source, tmp_path / "linked"):
        found = read_folder(place)
        assert found.images() == ["a/1.png", "a/3.png", "a/more/2.png", "b/1.png"]
        assert found.class_folders() == ["a", "b"]
        assert found.notes() == ["1 file is passed over: 1 @eaDir, e.g. b/@eaDir/1.png"]


@pytest.mark.parametrize(
    ("links", "loops"),
    [
        ({"again": ""}, ["again"]),
        ({"a/up": ".."}, ["a/up"]),
        ({"b/deep/er/self": "b/deep/er"}, ["b/deep/er/self"]),
        ({"a/x": "b", "b/y": "a"}, ["a/x", "b/y"]),
        ({"a/x": "b", "b/y": "", "b/z": "a"}, ["a/x", "b/y", "b/z"]),
    ],
)
def test_links_that_lead_back_are_named_and_list_nothing_twice(
    tmp_path: Path, links: dict[str, str], loops: list[str]
) -> None:
    source = write_folder(tmp_path / "source", CLASSES)
    write_folder(tmp_path, ["elsewhere.png"])
    for name, target in links.items():
        (source / name).symlink_to(source / target)
    found = read_folder(source)
    assert found.images() == list(CLASSES)
    assert sorted(found.loops) == loops
    assert found.class_folders() == ["a", "b"]
    assert (
        f"back to a folder above {'are' if len(loops) > 1 else 'is'} not followed: {', '.join(loops)}"
        in found.notes()[0]
    )


def test_disk_with_a_link_back_is_read_all_the_same(tmp_path: Path) -> None:
    source, disk = write_folder(tmp_path / "source", CLASSES), write_folder(tmp_path / "disk", ["3.png", "sub/4.png"])
    (source / "a/more").symlink_to(disk)
    (disk / "back").symlink_to(source)
    (disk / "sub/round").symlink_to(disk)
    found = read_folder(source)
    assert {"a/more/3.png", "a/more/sub/4.png"} == {*found.images()} - {*CLASSES}
    assert found.loops == {"a/more/back", "a/more/sub/round"}


def test_links_to_links_do_not_multiply(tmp_path: Path) -> None:
    for number in range(40):
        for name in ("x", "y"):
            (tmp_path / str(number)).mkdir(exist_ok=True)
            (tmp_path / str(number) / name).symlink_to(tmp_path / str(number + 1))
    (tmp_path / "40").mkdir()
    with pytest.raises(DataError, match=f"more than {MAX_LINKS} links to"):
        read_folder(tmp_path / "0")


def test_links_that_lead_nowhere_and_what_is_no_file_are_problems(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", CLASSES)
    (source / "a/gone.png").symlink_to(tmp_path / "gone.png")
    (source / "a/disk2").symlink_to("/mnt/gone")
    (source / "a/loop.png").symlink_to("loop.png")
    (source / "a/zero.png").symlink_to("/dev/zero")
    (source / "a/.gone").symlink_to("gone")
    os.mkfifo(source / "b/pipe.png")
    found = read_folder(source)
    assert [(problem.source, problem.reason, problem.detail) for problem in found.problems] == [
        ("a/disk2", "missing", "it is a link to /mnt/gone, which is not there"),
        ("a/gone.png", "missing", f"it is a link to {tmp_path}/gone.png, which is not there"),
        ("a/loop.png", "missing", "it is a link to loop.png, which is not there"),
        ("a/zero.png", "refused", "it is not a file"),
        ("b/pipe.png", "refused", "it is not a file"),
    ]
    assert found.class_folders() == ["a", "b"]
    (source / "c").symlink_to("/mnt/gone")
    with pytest.raises(DataError, match=r"class folder 'c' .* it is a link to /mnt/gone, which is not there"):
        read_folder(source).class_folders()


def test_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, scandir = write_folder(tmp_path, CLASSES), os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "deep":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cannot read the folder .*/b/deep: Permission denied \(--exclude leaves"):
        read_folder(source)


def test_snapshots_are_not_looked_into(tmp_path: Path) -> None:
    found = read_folder(write_folder(tmp_path, [*CLASSES, ".snapshot/daily/a/1.png", ".snapshot/weekly/a/1.png"]))
    assert found.notes() == ["1 file is passed over: 1 .snapshot, e.g. .snapshot"]


def test_images_come_in_the_order_of_folders(tmp_path: Path) -> None:
    names = ["b/2.png", "b/a/1.png", "a-b/1.png", "a/b/1.png", "a/c.png", "0.png"]
    assert read_folder(write_folder(tmp_path, names)).images() == [
        "0.png",
        "a/c.png",
        "a/b/1.png",
        "a-b/1.png",
        "b/2.png",
        "b/a/1.png",
    ]
