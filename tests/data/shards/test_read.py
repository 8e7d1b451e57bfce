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
from synthmed.data.sets.open_shards import open_shards
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


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "key", ["{}", "./{}", "eyes/{}", "a.b/c d/{}", "ä {}", "-{}", "x" * 150 + "/{}"], ids=lambda key: key[:9]
)
@pytest.mark.parametrize("extension", ["png", "PNG", "jpeg"])
def test_keys_are_those_of_webdataset(tmp_path: Path, key: str, extension: str) -> None:
    """The same samples under the same keys, from tars with folders, capital letters and more members than ours."""
    import webdataset

    members: list[Member] = []
    for k in range(3):
        name = key.format(k)
        members += [(f"{name}.{extension}", IMAGE + bytes([k])), (f"{name}.mask.png", IMAGE), (f"{name}.CLS", b"1")]
    path = tmp_path / "train-000000.tar"
    write_tar(path, members)
    with tarfile.open(path, "a") as archive:
        archive.addfile(_folder_member("eyes"))
    theirs = [
        (sample["__key__"], int(sample["cls"]), sample[extension.lower()])
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    read = open_folder(tmp_path, "train")
    assert [(entry.key, entry.label, read_image_bytes(entry)) for entry in read.entries] == theirs
    assert len(theirs) == 3


def _folder_member(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def test_shards_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in ("10", "9", "000011"):
        write_tar(tmp_path / f"train-{number}.tar", sample_members(f"s{number}", 0))
    assert [entry.key for entry in open_folder(tmp_path, "train").entries] == ["s9", "s10", "s000011"]


@pytest.mark.parametrize(
    ("name", "document", "message"),
    [
        ("sizes.json", {"train-000000.tar": 5}, r"train-000000\.tar holds 4 samples, but 5 are stated"),
        ("sizes.json", {"train-000001.tar": 6}, r"train-000001\.tar is missing, in which 6 samples are stated"),
        ("sizes.json", [5], r"sizes\.json does not list the samples"),
        ("sizes.json", {"train-000000.tar": "4"}, r"sizes\.json lists a shard without the number"),
        (
            "_info.json",
            {"splits": {"train": {"filenames": ["train-000000.tar"], "shard_lengths": [3]}}},
            "holds 4 samples, but 3 are stated",
        ),
        ("_info.json", {"splits": {"train": {"filenames": ["train-000000.tar"]}}}, r"_info\.json does not list"),
        ("_info.json", {"splits": []}, r"_info\.json does not list"),
    ],
)
def test_other_samples_than_stated_are_refused(tmp_path: Path, name: str, document: Any, message: str) -> None:
    """By what reads all at once and by what streams."""
    write_ours(tmp_path)
    write_json(tmp_path / name, document)
    for read in (lambda: open_folder(tmp_path, "train"), lambda: list(open_shards(tmp_path, "train"))):
        with pytest.raises(DataError, match=message):
            read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_samples": 5}, "holds 4 samples, but 5 are stated"),
        ({"shard": "train-000001.tar"}, r"train-000000\.json is not the stats file of train-000000\.tar"),
        ({"sha256": None}, "is not the stats file"),
        ({"class_counts": {"0": "x"}}, "is not the stats file"),
        ({"more": 1}, "is not the stats file"),
    ],
)
def test_stats_file_of_another_shard_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_ours(tmp_path)
    path = tmp_path / ".synthmed/train-000000.json"
    write_json(path, {**json.loads(path.read_bytes()), **change})
    with pytest.raises(DataError, match=message):
        open_folder(tmp_path, "train")


def test_shards_of_other_names_are_passed_over_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ours(tmp_path)
    write_tar(tmp_path / "eyes-train-000000.tar", sample_members("a", 0))
    assert find_splits(tmp_path) == ["train"]
    assert "1 tars are passed over, not called SPLIT-NUMBER.tar: eyes-train-000000.tar" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["eyes-train-000000.tar", "00000.tar", "train.tar", "train-x.tar"])
def test_rule_for_the_names_of_shards_is_said(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / name, sample_members("a", 0))
    with pytest.raises(DataError, match=rf"none is called SPLIT-NUMBER.tar.*{name} \(synthmed pack .* -o OUT"):
        open_folder(tmp_path, "train")
    with pytest.raises(DataError, match=r"is a file \(give the folder of shards; synthmed pack makes one of a"):
        open_folder(tmp_path / name, "train")


def test_folder_with_too_many_names_of_classes_is_refused(tmp_path: Path) -> None:
    write_ours(tmp_path)
    described = json.loads((tmp_path / RUN_FILE).read_text())["folder"]
    changes = {"classes": [f"c{k}" for k in range(10_001)], "aliases": {f"a{k}": "cat" for k in range(10_001)}}
    for name, change in changes.items():
        write_json(tmp_path / RUN_FILE, {"folder": {**described, name: change}})
        with pytest.raises(DataError, match=rf"run\.json cannot be used: there are {len(change)} {name}"):
            open_folder(tmp_path, "train")
    (tmp_path / RUN_FILE).write_text(json.dumps({"folder": {"classes": [f"c{k}" for k in range(1_000_000)]}}))
    with pytest.raises(DataError, match=r"run\.json is no file of JSON \(a file of at most 8 MiB"):
        open_folder(tmp_path, "train")


@pytest.mark.parametrize("size", [-1, [1], [1, 2, 3], [1, -2], [1, 2.5], "32", 1.5])
def test_size_that_is_none_is_refused(tmp_path: Path, size: Any) -> None:
    write_ours(tmp_path)
    described = json.loads((tmp_path / RUN_FILE).read_text())["folder"]
    write_json(tmp_path / RUN_FILE, {"folder": {**described, "size": size}})
    with pytest.raises(DataError, match="does not describe the folder"):
        open_folder(tmp_path, "train")


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
        ([("eyes/../a.png", IMAGE)], r"'eyes/../a.png' is not named"),
        ([("__meta__/a.png", IMAGE)], r"'__meta__/a.png' is not named"),
        ([(".a.png", IMAGE)], r"'.a.png' is not named"),
        ([("a\x1b.png", IMAGE)], "is not named"),
        ([("../a.png", IMAGE)], r"'../a.png' is not named"),
        ([("/etc/a.png", IMAGE)], r"'/etc/a.png' is not named"),
        ([("a.b.png", IMAGE), ("a.b.cls", b"0")], r"sample a needs .* holds: b.png, b.cls \(a key holds no dot"),
        ([("x" * 1001 + ".png", IMAGE)], "is not named"),
        ([("a.png", IMAGE), ("a.PNG", IMAGE)], "holds a.PNG twice"),
        ([("a.png", b""), ("a.cls", b"0")], "a.png is empty"),
        ([("a.png", IMAGE), ("a.json", b'{"label": 1}')], r"sample a needs one image and a .cls.*synthmed pack"),
        ([("a.png", IMAGE), ("a.cls", b"1.0")], "a.cls is not a label: '1.0'"),
        ([("a.png", IMAGE), ("a.cls", b"")], "a.cls is not a label: ''"),
        ([("a.png", IMAGE), ("a.cls", b"0"), ("a.json", b'{"a": NaN}')], "a.json is not JSON: the number NaN"),
        ([("a.png", IMAGE), ("a.cls", b"0"), ("a.json", b'{"a": 1, "a": 1}')], "the key 'a' stands twice"),
        ([("a.png", IMAGE), ("a.cls", b"0"), ("a.json", b"\xef\xbb\xbf{}")], "a.json is not JSON: .*BOM"),
        ([("a.png", IMAGE), ("a.seg.pkl", b"0")], "'a.seg.pkl' may be code"),
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


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
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


@pytest.mark.parametrize("zeros_from", [0, 512, 5, 20])
def test_zeros_in_the_place_of_members_are_refused(tmp_path: Path, zeros_from: int) -> None:
    """What a power cut leaves: a file of the right size, of which the last blocks were never written."""
    path = tmp_path / "train-000000.tar"
    write_tar(path, [member for k in range(30) for member in sample_members(f"s{k:02d}", 0)])
    with tarfile.open(path) as archive:
        start = zeros_from if zeros_from in (0, 512) else archive.getmembers()[3 * zeros_from].offset
    data = path.read_bytes()
    path.write_bytes(data[:start] + bytes(len(data) - start))
    message = "bytes of zeros" if start != 512 else "not a whole tar"
    with pytest.raises(DataError, match=rf"train-000000\.tar.*{message}"):
        open_folder(tmp_path, "train")


def test_zeros_within_the_last_record_are_known_by_the_stated_number(tmp_path: Path) -> None:
    write_ours(tmp_path, numbers=range(6))
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path) as archive:
        start = archive.getmembers()[-3].offset
    data = path.read_bytes()
    path.write_bytes(data[:start] + bytes(len(data) - start))
    with pytest.raises(DataError, match=r"train-000000\.tar holds 5 samples, but 6 are stated"):
        open_folder(tmp_path, "train")


def test_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_ours(tmp_path, numbers=range(6))
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        end = max(member.offset_data + 512 * -(-member.size // 512) for member in archive)
    # One block of zeros is not yet an end, and neither is half a block behind two.
    for length in [*range(0, end, 512), *range(100, end, 700), end, end + 512, end + 1100]:
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
        with pytest.raises(DataError, match="is not the stats file of"):
            open_folder(tmp_path, "train")


def test_run_file_that_does_not_describe_the_folder_is_named(tmp_path: Path) -> None:
    write_ours(tmp_path)
    write_json(tmp_path / RUN_FILE, {"something": "else"})
    with pytest.raises(DataError, match="does not describe the folder"):
        open_folder(tmp_path, "train")
