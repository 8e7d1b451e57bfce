"""Reading shards, whoever made them and whatever is wrong with them."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthmed.data.images import decode_image, encode_image
from synthmed.data.labels import Classes
from synthmed.data.shards.card import FolderInfo
from synthmed.data.shards.plan import RUN_FILE
from synthmed.data.shards.read import find_splits, open_folder
from synthmed.data.shards.samples import read_image_bytes
from synthmed.data.shards.write import Sample, write_shard
from synthmed.errors import DataError
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_file, read_json

IMAGE = encode_image(np.zeros((8, 8, 3), dtype=np.uint8), "png")
Member = tuple[str, bytes]


def write_tar(path: Path, members: Sequence[Member], change: Callable[[tarfile.TarInfo], None] | None = None) -> None:
    """Write a tar as another program might."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            if change is not None:
                change(info)
            archive.addfile(info, io.BytesIO(data))


def sample_members(key: str, label: int, **metadata: object) -> list[Member]:
    text = json.dumps({"label_name": ("cat", "dog")[label], **metadata}).encode()
    return [(f"{key}.png", IMAGE), (f"{key}.cls", str(label).encode()), (f"{key}.json", text)]


def write_ours(folder: Path, kind: str = "real", numbers: range = range(4)) -> None:
    classes = Classes(("cat", "dog", "owl"), {"D": "dog"}, positive="dog")
    info = FolderInfo(kind=kind, dataset="pets", classes=classes)  # type: ignore[arg-type]
    write_json(folder / RUN_FILE, {"folder": info.as_config()})
    images = {k: encode_image(np.full((8, 8, 3), k, dtype=np.uint8), "webp") for k in numbers}
    samples = [Sample(f"s-{k}", images[k], "webp", k % 2, {"group": f"g{k}", "label": k % 2}) for k in numbers]
    write_shard(folder / "train-000000.tar", samples)


def test_folder_of_ours_is_read_back(tmp_path: Path) -> None:
    write_ours(tmp_path)
    read = open_folder(tmp_path, "train")
    assert (read.dataset, read.classes.names, read.classes.positive, read.kind, read.synthetic) == (
        "pets",
        ("cat", "dog", "owl"),
        "dog",
        "real",
        False,
    )
    assert read.classes.aliases == {"D": "dog"}
    assert [(entry.key, entry.label, entry.group) for entry in read.entries] == [
        ("s-0", 0, "g0"),
        ("s-1", 1, "g1"),
        ("s-2", 0, "g2"),
        ("s-3", 1, "g3"),
    ]
    for value, entry in enumerate(read.entries):
        assert (decode_image(read_image_bytes(entry), entry.key) == value).all()


@pytest.mark.parametrize(("kind", "synthetic"), [("real", False), ("phantom", False), ("synthetic", True)])
def test_folder_says_whether_a_model_made_it(tmp_path: Path, kind: str, synthetic: bool) -> None:
    write_ours(tmp_path, kind)
    assert open_folder(tmp_path, "train").synthetic is synthetic


def test_shards_of_another_program_are_read(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "train-000000.tar", sample_members("a", 1, synthetic=True) + sample_members("b", 0, synthetic=True)
    )
    write_tar(tmp_path / "train-000001.tar", sample_members("c", 1, synthetic=True, group=7))
    read = open_folder(tmp_path, "train")
    assert read.classes.names == ("cat", "dog")
    assert (read.dataset, read.classes.positive, read.synthetic) == (None, None, True)
    assert [(entry.key, entry.label, entry.group) for entry in read.entries] == [
        ("a", 1, ""),
        ("b", 0, ""),
        ("c", 1, "7"),
    ]
    assert read_image_bytes(read.entries[2]) == IMAGE


def test_json_may_be_missing_and_then_classes_are_numbers(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000000.tar", [("a.jpg", b"x"), ("a.cls", b"2\n"), ("b.jpg", b"x"), ("b.cls", b"0")])
    read = open_folder(tmp_path, "train")
    assert read.classes.names == ("0", "1", "2")
    assert (read.kind, read.synthetic) == (None, None)


def test_inconsistent_label_names_are_not_believed(tmp_path: Path) -> None:
    members = sample_members("a", 0) + sample_members("b", 0, label_name="mouse")
    write_tar(tmp_path / "train-000000.tar", members)
    assert open_folder(tmp_path, "train").classes.names == ("0",)


def test_one_name_for_two_labels_is_not_believed(tmp_path: Path) -> None:
    members = sample_members("a", 0, label_name="mouse") + sample_members("b", 1, label_name="mouse")
    write_tar(tmp_path / "train-000000.tar", members)
    assert open_folder(tmp_path, "train").classes.names == ("0", "1")


@pytest.mark.parametrize("change", [{"classes": ["cat", "cat"]}, {"aliases": {"D": "bird"}}, {"positive": "bird"}])
def test_classes_that_contradict_each_other_are_refused_with_their_file(tmp_path: Path, change: dict[str, Any]) -> None:
    write_ours(tmp_path)
    described = json.loads((tmp_path / RUN_FILE).read_text())["folder"]
    write_json(tmp_path / RUN_FILE, {"folder": {**described, **change}})
    with pytest.raises(DataError, match=r"run\.json cannot be used: "):
        open_folder(tmp_path, "train")


def test_content_hash_follows_the_bytes_not_the_stats_files(tmp_path: Path) -> None:
    one, two, three = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    write_ours(one)
    write_ours(two)
    write_ours(three, numbers=range(3))
    (two / ".synthmed/train-000000.json").unlink()
    hashes = [open_folder(folder, "train").content_hash for folder in (one, two, three)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hash_file(one / "train-000000.tar") == hash_file(two / "train-000000.tar")


def test_missing_split_lists_those_there_are(tmp_path: Path) -> None:
    write_ours(tmp_path)
    write_tar(tmp_path / "validation-000000.tar", sample_members("v", 0))
    assert find_splits(tmp_path) == ["train", "validation"]
    with pytest.raises(DataError, match=r"has no split 'test' \(there are: train, validation\)"):
        open_folder(tmp_path, "test")


def test_missing_folder_and_folder_without_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder of shards"):
        open_folder(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="holds no shards"):
        open_folder(tmp_path, "train")


def test_key_in_two_shards_is_refused(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"train-00000{number}.tar", sample_members("same", 0))
    with pytest.raises(DataError, match="the key same stands twice"):
        open_folder(tmp_path, "train")


def test_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    write_ours(tmp_path)
    write_tar(tmp_path / "train-000001.tar", [("z.webp", b"x"), ("z.cls", b"3")])
    with pytest.raises(DataError, match="holds the label 3, but has 3 classes: cat, dog, owl"):
        open_folder(tmp_path, "train")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a/b.png", IMAGE)], r"'a/b.png' is not named"),
        ([("../a.png", IMAGE)], r"'../a.png' is not named"),
        ([("/etc/a.png", IMAGE)], r"'/etc/a.png' is not named"),
        ([("a.b.png", IMAGE)], r"'a.b.png' is not named"),
        ([("ä.png", IMAGE)], "is not named"),
        ([("x" * 91 + ".png", IMAGE)], "is not named"),
        ([("a.PNG", IMAGE)], "is not named"),
        ([("README", b"hello")], "is not named"),
        ([("a.png", IMAGE)], "sample a needs one image and a .cls, but holds: png"),
        ([("a.cls", b"0")], "sample a needs one image"),
        ([("a.png", IMAGE), ("a.jpg", IMAGE), ("a.cls", b"0")], "sample a needs one image"),
        ([("a.png", IMAGE), ("a.cls", b"0"), ("a.cls", b"1")], "a.cls twice"),
        ([("a.png", IMAGE), ("a.cls", b"one")], "a.cls is not a label: 'one'"),
        ([("a.png", IMAGE), ("a.cls", b"-1")], "a.cls is not a label"),
        ([("a.png", IMAGE), ("a.cls", b"10000")], "a.cls is not a label"),
        ([("a.png", IMAGE), ("a.cls", b"1" * 33)], "a.cls has 33 bytes"),
        ([("a.png", IMAGE), ("a.cls", "²".encode())], "a.cls is not a label"),
        ([("a.png", IMAGE), ("a.cls", b"0"), ("a.json", b"{")], "a.json is not JSON"),
        ([("a.png", IMAGE), ("a.cls", b"0"), ("a.json", b"[" * 60_000)], "a.json is not JSON"),
        ([("a.png", IMAGE), ("a.cls", b"0"), ("a.json", b"[]")], "a.json is not an object"),
        ([("a.png", IMAGE), ("a.cls", b"0"), ("a.json", b" " * 70_000)], "a.json has 70000 bytes"),
    ],
)
def test_member_outside_the_contract_is_refused_by_name(tmp_path: Path, members: list[Member], message: str) -> None:
    write_tar(tmp_path / "train-000000.tar", members)
    with pytest.raises(DataError, match=message) as error:
        open_folder(tmp_path, "train")
    assert "train-000000.tar" in str(error.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_devices_and_folders_are_refused(tmp_path: Path, kind: bytes) -> None:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    write_tar(tmp_path / "train-000000.tar", [("a.png", b"")], change)
    with pytest.raises(DataError, match=r"member 'a.png' is not a plain file"):
        open_folder(tmp_path, "train")


def test_interleaved_samples_are_refused(tmp_path: Path) -> None:
    first, second = sample_members("a", 0), sample_members("b", 0)
    write_tar(tmp_path / "train-000000.tar", [first[0], second[0], *first[1:], *second[1:]])
    with pytest.raises(DataError, match="sample a needs one image"):
        open_folder(tmp_path, "train")


def test_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_ours(tmp_path, numbers=range(6))
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        end = max(member.offset_data + 512 * -(-member.size // 512) for member in archive)
    for length in [*range(0, end, 512), *range(100, end, 700), end]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"train-000000\.tar"):
            open_folder(tmp_path, "train")


def test_broken_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_ours(tmp_path, numbers=range(6))
    with tarfile.open(path) as archive:
        offset = archive.getmembers()[6].offset
    data = bytearray(path.read_bytes())
    data[offset + 148 : offset + 156] = b"garbage!"
    path.write_bytes(data)
    with pytest.raises(DataError, match="cut short or broken"):
        open_folder(tmp_path, "train")


@pytest.mark.parametrize("data", [b"", b"not a tar file", bytes(10_240)])
def test_file_that_is_no_tar_or_empty_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "train-000000.tar").write_bytes(data)
    with pytest.raises(DataError):
        open_folder(tmp_path, "train")


def test_image_cut_after_indexing_is_refused(tmp_path: Path) -> None:
    write_ours(tmp_path)
    entry = open_folder(tmp_path, "train").entries[-1]
    path = tmp_path / "train-000000.tar"
    path.write_bytes(path.read_bytes()[: entry.offset + 3])
    with pytest.raises(DataError, match="has become shorter"):
        read_image_bytes(entry)
    path.unlink()
    with pytest.raises(DataError, match="cannot read"):
        read_image_bytes(entry)


def change_bytes(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert len(old) == len(new) and old in data
    path.write_bytes(data.replace(old, new, 1))


def test_image_that_its_stats_file_does_not_state_is_refused_when_it_is_read(tmp_path: Path) -> None:
    write_ours(tmp_path)
    path = tmp_path / "train-000000.tar"
    read = open_folder(tmp_path, "train")
    image = read_image_bytes(read.entries[0])
    other = bytes(255 - byte for byte in image)
    change_bytes(path, image, other)
    for entries in (read.entries, open_folder(tmp_path, "train").entries):
        with pytest.raises(DataError, match=r"train-000000\.tar has changed since it was written: \S+ is not what"):
            read_image_bytes(entries[0])
    (tmp_path / ".synthmed/train-000000.json").unlink()
    there = open_folder(tmp_path, "train")
    assert read_image_bytes(there.entries[0]) == other
    assert there.content_hash != read.content_hash


def test_labels_and_keys_that_a_stats_file_does_not_state_are_refused(tmp_path: Path) -> None:
    write_ours(tmp_path)
    path = tmp_path / "train-000000.tar"
    stats = read_json(tmp_path / ".synthmed/train-000000.json")
    for change in ({"label": 7}, {"key": "other"}, {"sha256": "no hash"}):
        rows = [{**stats["samples"][0], **change}, *stats["samples"][1:]]
        write_json(tmp_path / ".synthmed/train-000000.json", {**stats, "samples": rows})
        with pytest.raises(DataError, match="has changed since it was written"):
            open_folder(tmp_path, "train")
    more = [*stats["samples"], {**stats["samples"][0], "key": "zzz"}]
    write_json(tmp_path / ".synthmed/train-000000.json", {**stats, "samples": more})
    with pytest.raises(DataError, match=f"{path.name} has changed since it was written: zzz"):
        open_folder(tmp_path, "train")
    broken: Any
    for broken in (7, [7], [{}]):
        write_json(tmp_path / ".synthmed/train-000000.json", {**stats, "samples": broken})
        with pytest.raises(DataError, match="is not a shard's stats file"):
            open_folder(tmp_path, "train")


def test_run_file_that_does_not_describe_the_folder_is_named(tmp_path: Path) -> None:
    write_ours(tmp_path)
    write_json(tmp_path / RUN_FILE, {"something": "else"})
    with pytest.raises(DataError, match="does not describe the folder"):
        open_folder(tmp_path, "train")
