"""Shards as plain files, and back again."""

import io
import json
import os
import re
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmed.data.images import encode_image
from synthmed.data.labels import Classes
from synthmed.data.pack import unpack as unpacking
from synthmed.data.pack.pack import PackConfig, pack_images
from synthmed.data.pack.unpack import LabelFile, unpack_folder
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.plan import RUN_FILE
from synthmed.data.shards.read import open_folder
from synthmed.data.shards.samples import read_image_bytes
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DataError, Interrupted, ResumeError
from synthmed.files.atomic import atomic_file, write_json
from synthmed.phantoms.release import phantom_release


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards") / "shards"
    prepare_release(phantom_release(40), path, PrepareConfig(size=32, image_format="webp"))
    return path


def write_classes(folder: Path, classes: tuple[str, ...], labels: list[int]) -> Path:
    """Write one shard with a sample for each label, of classes called so."""
    write_json(
        folder / RUN_FILE, {"folder": FolderInfo(kind="real", dataset="x", classes=Classes(classes)).as_config()}
    )
    samples = [
        Sample(f"k{number}", encode_image(np.full((16, 16, 3), number, dtype=np.uint8), "png"), "png", label, {"a": 1})
        for number, label in enumerate(labels)
    ]
    write_shard(folder / "train-000000.tar", samples)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images(folder: Path, split: str) -> dict[str, tuple[str, bytes]]:
    """Return key -> (class, bytes) of every sample."""
    opened = open_folder(folder, split)
    return {entry.key: (opened.classes[entry.label], read_image_bytes(entry)) for entry in opened.entries}


def test_every_image_lies_in_the_folder_of_its_class(folder: Path, tmp_path: Path) -> None:
    report = unpack_folder(folder, tmp_path / "out")
    assert report.splits == {
        "train": {"no-glaucoma": 12, "glaucoma": 12},
        "validation": {"no-glaucoma": 2, "glaucoma": 2},
        "test": {"no-glaucoma": 6, "glaucoma": 6},
    }
    files = contents(tmp_path / "out")
    expected = {
        f"{split}/{name}/{key}.webp": data
        for split in report.splits
        for key, (name, data) in images(folder, split).items()
    }
    assert {name: data for name, data in files.items() if name.endswith(".webp")} == expected
    rest = {name for name in files if not name.endswith(".webp")}
    assert rest == {
        ".synthmed/run.json",
        ".synthmed/inputs.json",
        *(f"{split}/metadata.jsonl" for split in report.splits),
    }


def test_metadata_rows_say_all_that_the_samples_say(folder: Path, tmp_path: Path) -> None:
    unpack_folder(folder, tmp_path / "out", splits=["test"])
    rows = [json.loads(line) for line in (tmp_path / "out/test/metadata.jsonl").read_text().splitlines()]
    with tarfile.open(folder / "test-000000.tar") as archive:
        known = json.loads(archive.extractfile(archive.getnames()[1]).read())  # type: ignore[union-attr]
    assert rows[0] == {
        **known,
        "key": rows[0]["key"],
        "file_name": f"{known['label_name']}/{rows[0]['key']}.webp",
        "label": known["label"],
    }
    assert len(rows) == 12
    assert all((tmp_path / "out/test" / row["file_name"]).is_file() for row in rows)
    assert len({frozenset((name, type(value)) for name, value in row.items()) for row in rows}) == 1


def test_labels_for_stylegan(folder: Path, tmp_path: Path) -> None:
    unpack_folder(folder, tmp_path / "out", splits=["train"], labels="stylegan")
    assert not (tmp_path / "out/train/metadata.jsonl").exists()
    listed = json.loads((tmp_path / "out/train/dataset.json").read_bytes())
    labels = dict(listed["labels"])
    files = {path.relative_to(tmp_path / "out/train").as_posix() for path in (tmp_path / "out").rglob("*.webp")}
    assert labels.keys() == files
    assert {(name.startswith("no-"), label) for name, label in labels.items()} == {(True, 0), (False, 1)}


@pytest.mark.parametrize("labels", ["folders", "stylegan"])
@pytest.mark.parametrize("image_format", ["keep", "png"])
def test_packing_what_was_unpacked_gives_the_same_images_and_labels(
    folder: Path, tmp_path: Path, labels: LabelFile, image_format: Any
) -> None:
    unpack_folder(folder, tmp_path / "files", labels=labels)
    config = PackConfig(image_format=image_format, kind="real")
    pack_images(tmp_path / "files/train", tmp_path / "packed", config)
    assert open_folder(tmp_path / "packed", "train").classes == open_folder(folder, "train").classes
    if labels == "folders":
        patients = [
            sorted(e.group for e in open_folder(each, "train").entries) for each in (folder, tmp_path / "packed")
        ]
        assert patients[0] == patients[1]
        assert all(patients[0])
    if image_format == "keep":
        before, after = (sorted(images(each, "train").values()) for each in (folder, tmp_path / "packed"))
    else:
        from synthmed.data.images import decode_image

        before, after = (
            sorted((name, decode_image(data, "image").tobytes()) for name, data in images(each, "train").values())
            for each in (folder, tmp_path / "packed")
        )
    assert before == after


@pytest.mark.parametrize("labels", ["folders", "stylegan"])
def test_class_order_survives_the_round_trip(tmp_path: Path, labels: LabelFile) -> None:
    classes = ("zebra", "ant", "owl/../..", "ANT")
    folder = write_classes(tmp_path / "x", classes, [0, 1, 2, 3, 0, 1])
    unpack_folder(folder, tmp_path / "files", labels=labels)
    pack_images(tmp_path / "files/train", tmp_path / "packed", PackConfig(image_format="keep"))
    assert open_folder(tmp_path / "packed", "train").classes.names == classes
    assert sorted(images(tmp_path / "packed", "train").values()) == sorted(images(folder, "train").values())


def test_class_names_cannot_lead_out(tmp_path: Path) -> None:
    classes = ("../../evil", "/etc/evil", "a/b", ".", "..", "x" * 200, "ok", "OK")
    folder = write_classes(tmp_path / "x", classes, list(range(8)))
    unpack_folder(folder, tmp_path / "deep/er/out")
    made = [path for path in tmp_path.rglob("*.png") if path.is_file()]
    assert len(made) == 8
    assert all(path.parent.parent == tmp_path / "deep/er/out/train" for path in made)
    names = {path.parent.name.casefold() for path in made}
    assert len(names) == 8, "not even where upper and lower case are one"
    assert all(len(name) <= 62 for name in names)


def test_foreign_shards_without_metadata(tmp_path: Path) -> None:
    image = encode_image(np.zeros((16, 16, 3), dtype=np.uint8), "jpg")
    (tmp_path / "x").mkdir()
    with tarfile.open(tmp_path / "x/train-000000.tar", "w") as archive:
        for name, data in (("a.cls", b"1"), ("a.jpg", image)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            import io

            archive.addfile(info, io.BytesIO(data))
    unpack_folder(tmp_path / "x", tmp_path / "out")
    row = json.loads((tmp_path / "out/train/metadata.jsonl").read_text())
    assert row == {"file_name": "1/a.jpg", "key": "a", "label": 1, "label_name": "1"}


def test_stopped_run_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack_folder(folder, tmp_path / "whole")
    write, written = unpacking._write_image, list[Path]()

    def interrupt(path: Path, entry: Any) -> None:
        written.append(path)
        if len(written) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        write(path, entry)

    monkeypatch.setattr(unpacking, "_write_image", interrupt)
    with pytest.raises(Interrupted, match="run the same command again"):
        unpack_folder(folder, tmp_path / "out")
    assert not (tmp_path / "out/train/metadata.jsonl").exists()
    assert len(list((tmp_path / "out").rglob("*.webp"))) == 10
    monkeypatch.undo()
    # As a power cut may leave them.
    written[3].write_bytes(b"")
    written[4].write_bytes(bytes(written[4].stat().st_size))
    kept = {path: path.stat().st_mtime_ns for path in written[5:10]}
    unpack_folder(folder, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_work_is_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    unpack_folder(folder, tmp_path / "out", splits=["test"])
    with pytest.raises(ResumeError, match="labels: "):
        unpack_folder(folder, tmp_path / "out", splits=["test"], labels="stylegan")
    with pytest.raises(ResumeError, match=r"splits\.train: null there"):
        unpack_folder(folder, tmp_path / "out", splits=["train"])
    unpack_folder(folder, tmp_path / "out", splits=["train"], overwrite=True)
    assert not (tmp_path / "out/test").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(ResumeError, match="was not made by this command"):
        unpack_folder(folder, tmp_path / "mine")


def test_folder_and_split_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder of shards"):
        unpack_folder(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match="no split 'holdout'"):
        unpack_folder(folder, tmp_path / "out", splits=["train", "holdout"])
    assert not (tmp_path / "out").exists()


def test_temporary_files_of_a_killed_run_go_and_those_of_a_running_one_stay(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "out" / "train" / "glaucoma"
    unpack_folder(folder, tmp_path / "out", splits=["train"])
    before = contents(tmp_path / "out")
    (place / "a.webp.1234abcd.part").write_bytes(b"half")
    with atomic_file(place / "b.webp") as file:
        file.write(b"half")
        unpack_folder(folder, tmp_path / "out", splits=["train"])
        assert [path.name[:6] for path in place.glob("*.part")] == ["b.webp"]
    (place / "b.webp").unlink()
    assert contents(tmp_path / "out") == before


def test_key_in_folders_becomes_a_file_in_the_folder_of_its_class(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-000000.tar", "w") as archive:
        for key in ("./eyes/0", "eyes/0", "a b"):
            for extension, data in (("png", b"image"), ("cls", b"0")):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    unpack_folder(tmp_path, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/train/metadata.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == ["./eyes/0", "eyes/0", "a b"]
    assert len({row["file_name"] for row in rows}) == 3
    for row in rows:
        assert re.fullmatch(r"0/[a-z0-9-]+\.png", row["file_name"])
        assert (tmp_path / "out/train" / row["file_name"]).read_bytes() == b"image"
