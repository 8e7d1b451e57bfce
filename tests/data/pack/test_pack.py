"""Images of other programs into shards: every kind of source and label, resume, and sources made to harm."""

import io
import json
import os
import re
import signal
import stat
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from synthmed.data.images import decode_image, encode_image
from synthmed.data.pack.labels import read_labels
from synthmed.data.pack.pack import PackConfig, PackReport, pack_images
from synthmed.data.pack.samples import Packer
from synthmed.data.pack.sources import open_source
from synthmed.data.shards.plan import shard_name
from synthmed.data.shards.read import open_folder
from synthmed.data.shards.samples import read_image_bytes
from synthmed.data.verify.folder import verify_folder
from synthmed.errors import DataError, Interrupted, ResumeError, SynthmedError, UsageError

Files = dict[str, bytes]


def picture(number: int, image_format: Any = "png", size: tuple[int, int] = (16, 16)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    return encode_image(pixels, image_format)


X = picture(0)


def class_folders(count: int = 20) -> Files:
    return {f"{('cat', 'dog')[k % 2]}/deep/er/{k:03d}.png": picture(k) for k in range(count)}


def write_folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: Files, mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


WRITERS: dict[str, Callable[[Path, Files], Path]] = {"folder": write_folder, "zip": write_zip, "tar": write_tar}


def pack(source: Path, output: Path, **settings: Any) -> PackReport:
    return pack_images(source, output, PackConfig(**settings), threads=2)


def packed(output: Path, split: str = "train") -> dict[str, tuple[int, bytes]]:
    """Return source name -> (label, image) of every sample."""
    rows = [json.loads(line) for line in (output / ".synthmed/manifest.jsonl").read_text().splitlines()]
    by_key = {row["key"]: row["source"] for row in rows}
    return {by_key[entry.key]: (entry.label, read_image_bytes(entry)) for entry in open_folder(output, split).entries}


def pixels(data: bytes) -> np.ndarray:
    return decode_image(data, "image")


# ------------------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("kind", WRITERS)
def test_class_folders_of_every_kind_of_source(tmp_path: Path, kind: str) -> None:
    files = class_folders()
    source = WRITERS[kind](tmp_path / "pets.src", files)
    report = pack(source, tmp_path / "out", workers=2, ranks=2)
    assert report.images == {"cat": 10, "dog": 10}
    assert (report.shards, report.dataset, report.width, report.height) == (8, "pets", 16, 16)
    found = packed(tmp_path / "out")
    assert found.keys() == files.keys()
    for name, (label, data) in found.items():
        assert label == name.startswith("dog")
        assert (pixels(data) == pixels(files[name])).all()
        with Image.open(io.BytesIO(data)) as image:
            assert image.info["synthetic"] == "true"
            assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
    checked = verify_folder(tmp_path / "out")
    assert checked.problems == ()
    assert checked.departure["train"] < 1


def test_samples_say_where_they_come_from(tmp_path: Path) -> None:
    pack(write_zip(tmp_path / "gan images.zip", class_folders(4)), tmp_path / "out")
    folder = open_folder(tmp_path / "out", "train")
    assert (folder.kind, folder.dataset, folder.classes.positive) == ("synthetic", "gan-images", "dog")
    row = json.loads((tmp_path / "out/.synthmed/manifest.jsonl").read_text().splitlines()[0])
    assert {name: row[name] for name in ("packed_from", "source", "split", "synthetic", "label_name", "dataset")} == {
        "packed_from": "gan images.zip",
        "source": "cat/deep/er/000.png",
        "split": "train",
        "synthetic": True,
        "label_name": "cat",
        "dataset": "gan-images",
    }
    card = (tmp_path / "out/README.md").read_text()
    assert "images are synthetic" in card
    assert "`gan images.zip`" in card


def test_real_images_carry_no_mark(tmp_path: Path) -> None:
    pack(write_folder(tmp_path / "pets", class_folders(4)), tmp_path / "out", kind="real", split="test", positive="cat")
    folder = open_folder(tmp_path / "out", "test")
    assert (folder.kind, folder.classes.positive) == ("real", "cat")
    for _, data in packed(tmp_path / "out", "test").values():
        with Image.open(io.BytesIO(data)) as image:
            assert "synthetic" not in image.info


@pytest.mark.parametrize("image_format", ["png", "webp", "jpg"])
def test_bytes_are_kept(tmp_path: Path, image_format: str) -> None:
    # The extension in the name does not count, the bytes do.
    files = {f"{'ab'[k % 2]}/{k}.png": picture(k, image_format) for k in range(10)}
    report = pack(write_tar(tmp_path / "x.tar", files), tmp_path / "out", image_format="keep")
    assert report.image_format == image_format
    assert {name: data for name, (_, data) in packed(tmp_path / "out").items()} == files
    assert "carry no mark" in (tmp_path / "out/README.md").read_text()
    assert verify_folder(tmp_path / "out").problems == ()


def test_kept_formats_may_not_be_mixed(tmp_path: Path) -> None:
    files = {**class_folders(18), "cat/x.jpg": picture(99, "jpg"), "dog/y.jpg": picture(98, "jpg")}
    source = write_folder(tmp_path / "pets", files)
    with pytest.raises(DataError, match=r"2 of 20 images .* cannot be used: 2 other format"):
        pack(source, tmp_path / "out", image_format="keep")
    assert pack(source, tmp_path / "out2").images == {"cat": 10, "dog": 10}
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(buffer, "TIFF")
    source = write_zip(tmp_path / "tiff.zip", {"a/x.tif": buffer.getvalue(), "b/y.tif": buffer.getvalue()})
    with pytest.raises(DataError, match="shards may not hold"):
        pack(source, tmp_path / "out3", image_format="keep")


def test_hidden_and_other_files_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        **class_folders(6),
        "__MACOSX/cat/._000.png": b"x",
        "cat/.hidden.png": b"x",
        "model.pkl": b"cos\nsystem\n.",
    }
    report = pack(write_zip(tmp_path / "x.zip", files), tmp_path / "out")
    assert report.images == {"cat": 3, "dog": 3}
    assert report.left_out == {}
    said = capsys.readouterr().err
    assert "1 file is not read: 1 .pkl, e.g. model.pkl" in said
    assert "2 files are passed over: 1 __MACOSX, 1 hidden, e.g. __MACOSX/cat/._000.png" in said


def test_copies_are_kept_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {**class_folders(6), "cat/copy.png": picture(0), "dog/copy.png": picture(0)}
    report = pack(write_folder(tmp_path / "x", files), tmp_path / "out")
    assert (sum(report.images.values()), report.duplicates) == (8, 2)
    assert "2 images have the same pixels as another one; they are kept" in capsys.readouterr().err


def test_same_pixels_in_two_classes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {**class_folders(6), "dog/copy.png": picture(0), "dog/again.png": picture(0)}
    pack(write_folder(tmp_path / "x", files), tmp_path / "out")
    said = capsys.readouterr().err
    assert "3 images have the same pixels as one of another class, e.g. cat/deep/er/000.png and dog/again.png" in said


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_written_on_windows_are_read(tmp_path: Path, kind: str) -> None:
    files = {name.replace("/", "\\"): data for name, data in class_folders().items()}
    labels = {"labels": [[name, int(name.startswith("dog"))] for name in files]}
    pack(WRITERS[kind](tmp_path / "x.src", files), tmp_path / "out")
    assert packed(tmp_path / "out").keys() == class_folders().keys()
    files[".\\dataset.json"] = json.dumps(labels).encode()
    assert pack(WRITERS[kind](tmp_path / "y.src", files), tmp_path / "listed").images == {"class0": 10, "class1": 10}


def test_source_whose_images_are_all_refused_says_why(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"a/1.png": X, "b/2.png": X, "b/notes.txt": b""})
    data = bytearray(source.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for found in re.finditer(re.escape(mark), bytes(data)):
            data[found.start() + place] |= 1
    source.write_bytes(data)
    with pytest.raises(DataError, match=r"2 images refused, the first: a/1.png: it is encrypted; 1 \.txt$"):
        pack(source, tmp_path / "out")
    source = write_tar(tmp_path / "x.tar", {"../1.png": X, "../2.png": X})
    with pytest.raises(DataError, match=r"no images that can be read: 2 images refused, the first: \.\./1\.png: its"):
        pack(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"holds no images that can be read: 2 \.dcm \(PNG, JPEG"):
        pack(write_folder(tmp_path / "x", {"a/1.dcm": X, "b/2.dcm": X}), tmp_path / "out")
    with pytest.raises(DataError, match=r"has no class folders: 1 \.dcm \(one folder a class"):
        pack(write_folder(tmp_path / "y", {"a/1.png": X, "b/2.dcm": X}), tmp_path / "out")


def test_many_refused_images_end_the_run_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packer, "check", None)
    source = write_folder(tmp_path / "x", class_folders())
    (source / "cat/gone.png").symlink_to("/mnt/gone.png")
    with pytest.raises(DataError, match=r"1 of 21 images .* 1 missing; the first: cat/gone.png: it is a link to /mnt"):
        pack(source, tmp_path / "out")


def test_chosen_classes_may_be_called_like_a_split_but_not_all_of_them(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", {f"{name}/{k}.png": picture(k) for k in range(4) for name in ("cat", "test")})
    assert pack(source, tmp_path / "out", classes=("cat", "test")).images == {"cat": 4, "test": 4}
    with pytest.raises(DataError, match="splits by their name"):
        pack(source, tmp_path / "other", classes=("test",))


def test_chosen_class_is_found_however_its_accents_are_stored(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", {"c\u0327a/1.png": picture(1), "b/1.png": picture(2)})
    assert pack(source, tmp_path / "out", classes=("ça", "b")).images == {"ça": 1, "b": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a whole tar file"),
        (b"7z\xbc\xaf\x27\x1c", "is compressed with 7-Zip"),
        (b"Rar!\x1a\x07\x01\x00", "is compressed with RAR"),
        (b"hello" * 1000, "is not a whole tar file"),
        (b"PK\x03\x04hello", "is a broken zip file"),
        (b"\x1f\x8b" + bytes(600), "is compressed with gzip"),
        (b"BZh9" + bytes(600), "is compressed with bzip2"),
    ],
)
def test_source_that_is_none(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(DataError, match=message):
        pack(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_empty_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder, zip or tar"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        pack(tmp_path / "empty", tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no such folder, zip or tar"):
        pack(tmp_path / "pipe", tmp_path / "out")


# -------------------------------------------------------------------------------------------------------------- labels


def labels_of(tmp_path: Path, files: Files, chosen: tuple[str, ...] = ()) -> tuple[tuple[str, ...], dict[str, int]]:
    with open_source(write_zip(tmp_path / "labels.zip", files)) as source:
        found = read_labels(source, chosen)
    return found.classes.names, found.labels


@pytest.mark.parametrize(
    ("names", "chosen", "classes", "labels"),
    [
        (["b/1.png", "a/2.png"], (), ("a", "b"), [1, 0]),
        (["set/b/1.png", "set/a/x/2.png", "set/a/y/3.png"], (), ("a", "b"), [1, 0, 0]),
        (["b/1.png", "a/2.png"], ("b", "a"), ("b", "a"), [0, 1]),
        (["x/1/b/1.png", "x/2/a/2.png", "x/2/b/2.png"], ("b", "a"), ("b", "a"), [0, 1, 0]),
        (["only/1.png", "only/2.png"], ("only",), ("only",), [0, 0]),
    ],
)
def test_folders_name_the_classes(
    tmp_path: Path, names: list[str], chosen: tuple[str, ...], classes: tuple[str, ...], labels: list[int]
) -> None:
    assert labels_of(tmp_path, dict.fromkeys(names, X), chosen) == (classes, dict(zip(names, labels, strict=True)))


@pytest.mark.parametrize("place", ["", "wrapped/"])
@pytest.mark.parametrize("as_object", [False, True])
def test_labels_of_stylegan(tmp_path: Path, place: str, as_object: bool) -> None:
    pairs: Any = [["00000/img0.png", 2], ["00000/img1.png", 0], ["00001/img2.png", 0]]
    text = json.dumps({"labels": dict(pairs) if as_object else pairs}).encode()
    files = {f"{place}{name}": X for name, _ in pairs} | {f"{place}dataset.json": text}
    expected = {f"{place}{name}": label for name, label in pairs}
    assert labels_of(tmp_path, files) == (("class0", "class1", "class2"), expected)
    assert labels_of(tmp_path, files, ("a", "b", "c"))[0] == ("a", "b", "c")
    with pytest.raises(UsageError, match=r"--class gives 2 names, but .*dataset\.json has labels up to 2"):
        labels_of(tmp_path, files, ("a", "b"))


def test_labels_of_a_metadata_file(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"file_name": "a.png", "label": 1, "label_name": "dog"},
        {"file_name": "b.png", "label": 0, "label_name": "cat"},
    ]
    files = {"a.png": X, "b.png": X, "metadata.jsonl": "\n".join(map(json.dumps, rows)).encode() + b"\n\n"}
    assert labels_of(tmp_path, files) == (("cat", "dog"), {"a.png": 1, "b.png": 0})
    rows = [{"file_name": "a.png", "label": "dog"}, {"file_name": "b.png", "label": "cat"}]
    files["metadata.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    assert labels_of(tmp_path, files) == (("cat", "dog"), {"a.png": 1, "b.png": 0})
    assert labels_of(tmp_path, files, ("dog", "cat")) == (("dog", "cat"), {"a.png": 0, "b.png": 1})
    with pytest.raises(UsageError, match="--class does not name 'cat'"):
        labels_of(tmp_path, files, ("dog",))


def test_groups_are_taken_if_all_images_have_one(tmp_path: Path) -> None:
    rows = [{"file_name": f"{k}.png", "label": k % 2, "group": f"patient{k // 2}"} for k in range(8)]
    files = {f"{k}.png": picture(k) for k in range(8)}
    for place, known in enumerate((rows, [*rows[:7], {"file_name": "7.png", "label": 1}])):
        files["metadata.jsonl"] = "\n".join(map(json.dumps, known)).encode()
        pack(write_zip(tmp_path / "x.zip", files), tmp_path / f"{place}", kind="real")
        groups = sorted(entry.group for entry in open_folder(tmp_path / f"{place}", "train").entries)
        assert groups == ([f"patient{k // 2}" for k in range(8)] if place == 0 else [""] * 8)


def test_metadata_without_labels_leaves_it_to_the_folders(tmp_path: Path) -> None:
    files = {"a/1.png": X, "b/2.png": X, "metadata.jsonl": b'{"file_name": "a/1.png", "text": "an eye"}\n'}
    assert labels_of(tmp_path, files) == (("a", "b"), {"a/1.png": 0, "b/2.png": 1})


def test_listed_images_that_are_missing_count_as_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [[f"{k}.png", k % 2] for k in range(10)] + [["gone.png", 1]]
    files = {f"{k}.png": picture(k) for k in range(12)} | {"dataset.json": json.dumps({"labels": listed}).encode()}
    source = write_zip(tmp_path / "x.zip", files)
    with pytest.raises(DataError, match=r"1 of 11 images .* 1 missing; the first: gone.png"):
        pack(source, tmp_path / "out")
    report = pack(source, tmp_path / "out", max_bad=0.1)
    assert (report.left_out, report.images) == ({"missing": 1}, {"class0": 5, "class1": 5})
    assert "2 images are not listed and are not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": X, "2.png": X}, "has no class folders"),
        (
            {"train/cat/1.png": X, "test/cat/2.png": X},
            "folders that are splits by their name, not classes: test, train",
        ),
        ({"1.png": X, "dataset.json": b"{"}, "dataset.json is not JSON"),
        ({"1.png": X, "dataset.json": b"[" * 100_000}, "dataset.json is not JSON"),
        ({"1.png": X, "dataset.json": b'{"labels": null}'}, "dataset.json has no labels"),
        ({"1.png": X, "dataset.json": b"[]"}, "dataset.json has no labels"),
        ({"1.png": X, "dataset.json": b'{"labels": [["1.png"]]}'}, "entry 0 is not an image and its label"),
        ({"1.png": X, "dataset.json": b'{"labels": [["1.png", [0.5, 0.5]]]}'}, r"'1.png' has no label: \[0.5, 0.5\]"),
        ({"1.png": X, "dataset.json": b'{"labels": [["1.png", -1]]}'}, "has no label: -1"),
        ({"1.png": X, "dataset.json": b'{"labels": [["1.png", 99999999]]}'}, "has no label: 99999999"),
        ({"1.png": X, "dataset.json": b'{"labels": [["1.png", true]]}'}, "has no label: True"),
        ({"1.png": X, "dataset.json": b'{"labels": [["gone.png", 1]]}'}, "none of the images that are listed"),
        ({"1.png": X, "metadata.jsonl": b'{"label": 1}'}, "metadata.jsonl, line 1 has no file_name"),
        ({"1.png": X, "metadata.jsonl": b"[]"}, "metadata.jsonl, line 1 is not an object"),
        (
            {"1.png": X, "metadata.jsonl": b'{"file_name": "1.png", "label": 1}\n{"file_name": "2.png", "label": "x"}'},
            "both numbers and words",
        ),
        (
            {"1.png": X, "metadata.jsonl": b'{"file_name": "1.png", "label": "\\u001b[2J"}'},
            "cannot be the name of a class",
        ),
        (
            {"1.png": X, "metadata.jsonl": b'{"file_name": "1.png", "label": "\\ud800"}'},
            "cannot be the name of a class",
        ),
        (
            {
                "1.png": X,
                "metadata.jsonl": b'{"file_name": "1.png", "label": 0, "label_name": "x"}\n'
                b'{"file_name": "2.png", "label": 1, "label_name": "x"}',
            },
            "two classes have the same name: x",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path: Path, files: Files, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack(write_zip(tmp_path / "x.zip", files), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_chosen_class_without_images_is_named(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", class_folders(4))
    with pytest.raises(DataError, match=r"no images in a folder called 'owl' \(there are: cat, dog\)"):
        pack(source, tmp_path / "out", classes=("cat", "dog", "owl"))
    with pytest.raises(UsageError, match="unknown label: 'owl'"):
        pack(source, tmp_path / "out", positive="owl")


@pytest.mark.parametrize("change", [{"max_bad": -0.1}, {"max_bad": 2}, {"dataset": "../x"}, {"dataset": ""}])
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PackConfig(**change)


# ---------------------------------------------------------------------------------------------------------- bad images


def test_bad_images_are_counted_named_and_left_out(tmp_path: Path) -> None:
    bad = {
        "cat/text.png": b"no image",
        "cat/cut.png": picture(3)[:200],
        "cat/large.png": picture(4, size=(16, 17)),
        "no-class.png": picture(5),
    }
    source = write_tar(tmp_path / "x.tar", {**class_folders(), **bad})
    with pytest.raises(DataError, match=r"4 of 24 images .* cannot be used: 1 no class, 2 unreadable, 1 wrong size"):
        pack(source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))
    report = pack(source, tmp_path / "out", max_bad=0.2)
    assert report.left_out == {"no class": 1, "unreadable": 2, "wrong size": 1}
    rows = [json.loads(line) for line in (tmp_path / "out/.synthmed/left_out.jsonl").read_text().splitlines()]
    assert {row["source"] for row in rows} == bad.keys()
    assert packed(tmp_path / "out").keys() == class_folders().keys()


HOSTILE_NAMES = [
    "../evil.png",
    "cat/../../evil.png",
    "/etc/evil.png",
    "C:/evil.png",
    "cat\\..\\..\\evil.png",
    "\\\\server\\evil.png",
    "C:\\evil.png",
    f"cat/{'x' * 1000}/evil.png",
    "cat/\x1b[2J.png",
]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    files = {**class_folders(), **{name: picture(7) for name in HOSTILE_NAMES}}
    report = pack(WRITERS[kind](tmp_path / "x.src", files), tmp_path / "out" / "in", max_bad=0.5)
    assert report.left_out == {"refused": len(HOSTILE_NAMES)}
    rows = [json.loads(line) for line in (tmp_path / "out/in/.synthmed/left_out.jsonl").read_text().splitlines()]
    assert len(rows) == len(HOSTILE_NAMES)
    assert not list(tmp_path.rglob("evil*"))
    assert verify_folder(tmp_path / "out/in").problems == ()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    source = write_tar(tmp_path / "x.tar", class_folders())
    with tarfile.open(source, "a") as archive:
        info = tarfile.TarInfo("cat/link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
        # The same name again, as a file: it is one.
        info = tarfile.TarInfo("cat/link.png")
        info.size = len(picture(50))
        archive.addfile(info, io.BytesIO(picture(50)))
    report = pack(source, tmp_path / "out", max_bad=0.1)
    assert report.left_out == {"refused": 1}
    assert (pixels(packed(tmp_path / "out")["cat/link.png"][1]) == pixels(picture(50))).all()


def test_links_encrypted_and_double_members_of_a_zip_are_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", class_folders())
    with zipfile.ZipFile(source, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("cat/deep/er/000.png", picture(99))
        archive.writestr("cat/secret.png", picture(98))
        archive.getinfo("cat/secret.png").flag_bits |= 1
    report = pack(source, tmp_path / "out", max_bad=0.2)
    assert report.left_out == {"refused": 3}
    first = packed(tmp_path / "out")["cat/deep/er/000.png"][1]
    assert (pixels(first) == pixels(picture(0))).all(), "the first of two members counts"


def test_zip_bomb_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthmed.data.folders.MAX_IMAGE_BYTES", 100_000)
    source = write_zip(tmp_path / "x.zip", {**class_folders(), "cat/bomb.png": bytes(10_000_000)})
    assert source.stat().st_size < 50_000
    report = pack(source, tmp_path / "out", max_bad=0.1)
    assert report.left_out == {"refused": 1}


def test_zip_that_lies_about_a_size_gives_no_more(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {**class_folders(), "cat/bomb.png": bytes(10_000_000)})
    data = source.read_bytes()
    size = (10_000_000).to_bytes(4, "little")
    assert data.count(size) == 2
    source.write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    with open_source(source) as opened:
        tracemalloc.start()
        try:
            assert len(opened.read("cat/bomb.png")) <= 1000
        except DataError as error:
            assert "cat/bomb.png" in str(error)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000
    assert pack(source, tmp_path / "out", max_bad=0.1).left_out == {"unreadable": 1}


def test_links_in_a_folder_lead_to_files_alone(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", class_folders())
    (source / "cat/zero.png").symlink_to("/dev/zero")
    (source / "cat/gone.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(source / "cat/pipe.png")
    report = pack(source, tmp_path / "out", max_bad=0.2)
    assert report.left_out == {"missing": 1, "refused": 2}


def test_image_that_cannot_be_read_any_more_ends_the_run(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "x", class_folders())
    pack(source, tmp_path / "out")
    (tmp_path / "out" / shard_name("train", 0)).unlink()
    name = "cat/deep/er/000.png"
    (source / name).write_bytes(bytes(len(picture(0))))
    with pytest.raises(DataError, match=name):
        pack(source, tmp_path / "out")


# -------------------------------------------------------------------------------------------------------------- resume


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_zip(tmp_path / "x.zip", class_folders(40))
    pack(source, tmp_path / "whole")
    make, made = Packer.make, list[str]()

    def make_until_interrupted(packer: Packer, *place: Any) -> Any:
        made.append("")
        if len(made) == 22:
            os.kill(os.getpid(), signal.SIGINT)
        return make(packer, *place)

    monkeypatch.setattr(Packer, "make", make_until_interrupted)
    with pytest.raises(Interrupted, match="finished shards are whole"):
        pack(source, tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "out/train-000007.tar.part").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert 0 < len(kept) < 8
    pack(source, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", [{"kind": "real"}, {"image_format": "keep"}, {"ranks": 2}, {"dataset": "other"}])
def test_other_settings_are_not_mixed_in(tmp_path: Path, change: dict[str, Any]) -> None:
    source = write_zip(tmp_path / "x.zip", class_folders())
    pack(source, tmp_path / "out")
    with pytest.raises(ResumeError, match="was made with other settings"):
        pack(source, tmp_path / "out", **change)
    pack_images(source, tmp_path / "out", PackConfig(**change), overwrite=True)


def test_other_images_are_not_mixed_in(tmp_path: Path) -> None:
    pack(write_zip(tmp_path / "x.zip", class_folders()), tmp_path / "out")
    with pytest.raises(ResumeError, match="listed_images: 20 there, 22 asked for"):
        pack(write_zip(tmp_path / "x.zip", class_folders(22)), tmp_path / "out")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    kind=st.sampled_from(["zip", "tar"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.sampled_from([0, 0, 1, 100, 3000]),
)
def test_no_archive_raises_anything_but_our_errors(
    tmp_path: Path, kind: str, flips: list[tuple[float, int]], cut: int
) -> None:
    source = WRITERS[kind](tmp_path / f"x.{kind}", class_folders(4))
    data = bytearray(source.read_bytes())
    for place, value in flips:
        data[int(place * len(data))] = value
    source.write_bytes(data[: len(data) - cut])
    try:
        with open_source(source) as opened:
            labels = read_labels(opened)
            for name in labels.labels:
                decode_image(opened.read(name), name)
    except SynthmedError:
        pass


def test_every_class_is_spread_over_every_shard(tmp_path: Path) -> None:
    files = {f"{'abc'[k % 3 if k < 60 else 0]}/{k}.png": picture(k) for k in range(80)}
    pack(write_folder(tmp_path / "x", files), tmp_path / "out")
    of_shard: dict[str, set[int]] = {}
    for entry in open_folder(tmp_path / "out", "train").entries:
        of_shard.setdefault(entry.shard.name, set()).add(entry.label)
    assert of_shard == {shard_name("train", number): {0, 1, 2} for number in range(8)}
