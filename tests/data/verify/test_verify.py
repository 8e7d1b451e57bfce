"""Verifying a folder: what is whole passes, and every fault is found and named with its file and key."""

import hashlib
import io
import json
import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from synthmed.data.images import decode_image, encode_image
from synthmed.data.prepare.prepare import PrepareConfig, prepare_release
from synthmed.data.shards.plan import interleave
from synthmed.data.shards.summary import summarise_folder
from synthmed.data.verify.findings import KEPT_A_FILE
from synthmed.data.verify.folder import MAX_LISTED, VerifyReport, verify_folder
from synthmed.errors import DataError
from synthmed.phantoms.release import phantom_release

Members = list[tuple[str, bytes]]
SHARD = "train-000003.tar"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ours: 48 training, 8 validation and 24 test images."""
    path = tmp_path_factory.mktemp("whole") / "shards"
    prepare_release(phantom_release(80), path, PrepareConfig(size=32))
    return path


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / "shards"))


@pytest.fixture
def foreign(folder: Path) -> Path:
    """The same shards as another program might hand them on: nothing beside them."""
    shutil.rmtree(folder / ".synthmed")
    for name in ("README.md", "_info.json", "sizes.json"):
        (folder / name).unlink()
    return folder


def read_members(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]


def write_members(path: Path, members: Members, form: int = tarfile.USTAR_FORMAT, **fields: Any) -> None:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))


def change(path: Path, edit: Callable[[Members], Members]) -> str:
    """Rewrite a shard with its members edited; return the key of its second sample."""
    members = read_members(path)
    write_members(path, edit(members))
    return members[3][0].partition(".")[0]


def replace(extension: str, data: bytes) -> Callable[[Members], Members]:
    """Return an edit that gives the second sample another member."""

    def edit(members: Members) -> Members:
        key = members[3][0].partition(".")[0]
        return [(name, data if name == f"{key}.{extension}" else old) for name, old in members]

    return edit


def found(report: VerifyReport, file: str, *words: str) -> None:
    """Check that one of the problems of a file holds all the words."""
    problems = [finding.problem for finding in report.problems if finding.file == file]
    assert any(all(word in problem for word in words) for problem in problems), report.problems


def test_whole_folder_has_no_problems(whole: Path) -> None:
    report = verify_folder(whole, workers=2)
    assert report.problems == ()
    assert report.num_problems == 0
    assert report.not_checked == ()
    assert report.splits == {
        "train": {"no-glaucoma": 24, "glaucoma": 24},
        "validation": {"no-glaucoma": 4, "glaucoma": 4},
        "test": {"no-glaucoma": 12, "glaucoma": 12},
    }
    assert report.shards == {"train": 8, "validation": 8, "test": 8}
    assert report.size == sum(path.stat().st_size for path in whole.glob("*.tar"))
    assert report.departure == {"train": 0.5, "validation": 0.5, "test": 0.5}


def test_foreign_folder_passes_and_says_what_was_not_checked(foreign: Path) -> None:
    report = verify_folder(foreign)
    assert report.problems == ()
    assert report.splits["train"] == {"0": 24, "1": 24}
    assert [line.rpartition(" ")[2] for line in report.not_checked] == [
        ".synthmed/run.json",
        ".synthmed/manifest.jsonl",
        "sizes.json",
        "_info.json",
        "README.md",
    ]


def test_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        verify_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no shards"):
        verify_folder(tmp_path)


# ------------------------------------------------------------------------------------------------------ broken shards


def test_truncated_shard(folder: Path) -> None:
    path = folder / SHARD
    members = read_members(path)
    with tarfile.open(path) as archive:
        cut = archive.getmembers()[4].offset + 512
    path.write_bytes(path.read_bytes()[:cut])
    report = verify_folder(folder)
    found(report, SHARD, "not a whole tar file", members[4][0])
    found(report, ".synthmed/train-000003.json", "sha256")


@pytest.mark.parametrize("which", ["folder", "foreign"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data, start: bytes(len(data)), "holds 40960 bytes of zeros, as a power cut leaves them"),
        (lambda data, start: data[:start] + bytes(len(data) - start), "bytes of zeros, after member"),
        (lambda data, start: data[:start], "is cut short or broken at byte"),
        (lambda data, start: data[:start] + bytes(512), "is cut short or broken behind byte"),
        (lambda data, start: data + b"garbage", "goes on behind its end"),
        (lambda data, start: data + bytes(100), "is cut short or broken behind byte"),
        (lambda data, start: b"", "empty file"),
        (lambda data, start: bytes(1024), "holds 1024 bytes of zeros"),
    ],
    ids=["zeros", "zeros from", "cut", "one block", "garbage", "half a block", "nothing", "empty tar"],
)
def test_relic_of_an_accident(
    request: pytest.FixtureRequest, which: str, damage: Callable[[bytes, int], bytes], problem: str
) -> None:
    """Found by verify, and by whatever opens the folder."""
    folder: Path = request.getfixturevalue(which)
    path = folder / SHARD
    with tarfile.open(path) as archive:
        start = archive.getmembers()[9].offset
    path.write_bytes(damage(path.read_bytes(), start))
    found(verify_folder(folder), SHARD, problem)
    with pytest.raises(DataError, match=problem) as caught:
        summarise_folder(folder)
    assert SHARD in str(caught.value)


def test_last_image_that_is_half_zeros_is_found_without_a_hash(foreign: Path) -> None:
    image = read_members(foreign / SHARD)[-1][1]
    half = image[: len(image) // 2] + bytes(len(image) - len(image) // 2)
    change(foreign / SHARD, lambda members: [*members[:-1], (members[-1][0], half)])
    found(verify_folder(foreign), SHARD, "is a broken image")
    with pytest.raises(DataError, match=r"is a broken image.*synthmed verify"):
        summarise_folder(foreign)


@pytest.mark.parametrize("edit", [lambda name: f"./{name}", lambda name: f"eyes/{name}", lambda name: f"ä{name}"])
def test_key_that_some_readers_do_not_take(foreign: Path, edit: Callable[[str], str]) -> None:
    change(foreign / SHARD, lambda members: [(edit(name), data) for name, data in members])
    report = verify_folder(foreign)
    found(report, SHARD, "some readers need keys of letters", "synthmed pack makes such names")
    assert report.splits["train"] == {"0": 24, "1": 24}
    assert report.num_problems <= 2, "said once a shard, beside the headers that such a name may need"


def test_extension_in_capitals(foreign: Path) -> None:
    change(foreign / SHARD, lambda members: [(name.replace(".png", ".PNG"), data) for name, data in members])
    found(verify_folder(foreign), SHARD, ".PNG: some readers need", "extensions in lower case")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"label": 1, "label": 1}', "the key 'label' stands twice"),
        (b'{"age": NaN}', "the number NaN is not finite"),
        (b'{"age": 1e999}', "the number 1e999 is not finite"),
        (b'{"age": %s}' % (b"9" * 5000), "is not finite"),
        (b'\xef\xbb\xbf{"label": 1}', "BOM"),
        ('{"label": 1}'.encode("utf-16"), "is not UTF-8"),
        (rb'{"name": "\udc00"}', "half a surrogate pair"),
        (b'{"label": 1} {}', "Extra data"),
        (b"[" * 200 + b"]" * 200, "nested more than 100 deep"),
    ],
)
def test_json_that_strict_readers_refuse(folder: Path, data: bytes, why: str) -> None:
    """In a member, a side file, the manifest and the description: each is named, and no reader takes it."""
    key = change(folder / SHARD, replace("json", data))
    (folder / "sizes.json").write_bytes(data)
    manifest = folder / ".synthmed/manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes() + data + b"\n")
    report = verify_folder(folder)
    found(report, SHARD, f"{key}.json is not JSON", why)
    found(report, "sizes.json", "sizes.json is not JSON", why)
    found(report, ".synthmed/manifest.jsonl", "line 81 is not JSON", why)
    with pytest.raises(DataError, match=r"sizes\.json is not JSON"):
        summarise_folder(folder)
    (folder / "sizes.json").unlink()
    with pytest.raises(DataError, match=rf"{SHARD}: {key}\.json is not JSON"):
        summarise_folder(folder)


def test_flipped_byte_in_an_image(folder: Path) -> None:
    path = folder / SHARD
    with tarfile.open(path) as archive:
        member = archive.getmembers()[5]
    data = bytearray(path.read_bytes())
    data[member.offset_data + member.size // 2] ^= 1
    path.write_bytes(data)
    report = verify_folder(folder)
    key = member.name.partition(".")[0]
    found(report, SHARD, member.name, "broken image")
    found(report, ".synthmed/train-000003.json", "sha256", SHARD)
    found(report, ".synthmed/train-000003.json", f"{key}: sha256")
    found(report, ".synthmed/manifest.jsonl", f"{key}: sha256")


def test_flipped_byte_that_decoding_does_not_see(foreign: Path) -> None:
    image = bytearray(read_members(foreign / SHARD)[5][1])
    # The checksum of the pixels, before the last chunk; no hash of the file is known.
    image[-13] ^= 1
    key = change(foreign / SHARD, replace("png", bytes(image)))
    decode_image(bytes(image), "decoding")
    found(verify_folder(foreign), SHARD, f"{key}.png is a broken image")


def test_flipped_byte_in_a_header(folder: Path) -> None:
    path = folder / SHARD
    with tarfile.open(path) as archive:
        before, member = archive.getmembers()[4:6]
    data = bytearray(path.read_bytes())
    data[member.offset + 3] ^= 1
    path.write_bytes(data)
    report = verify_folder(folder)
    found(report, SHARD, f"broken at byte {member.offset}", before.name)
    found(report, ".synthmed/manifest.jsonl", member.name.partition(".")[0], "no shard has")


@pytest.mark.parametrize("place", [3, 4, 5])
def test_dropped_member(folder: Path, place: int) -> None:
    extension = read_members(folder / SHARD)[place][0].partition(".")[2]
    key = change(folder / SHARD, lambda members: members[:place] + members[place + 1 :])
    report = verify_folder(folder)
    if extension == "json":
        found(report, SHARD, key, "has the members cls, png, most samples cls, json, png")
    else:
        found(report, SHARD, f"sample {key} needs one image and a .cls")


def test_doubled_member(folder: Path) -> None:
    key = change(folder / SHARD, lambda members: members[:6] + members[5:])
    found(verify_folder(folder), SHARD, f"holds {key}.png twice")


def test_doubled_sample(folder: Path) -> None:
    key = change(folder / SHARD, lambda members: [*members, *members[3:6]])
    report = verify_folder(folder)
    found(report, SHARD, f"sample {key} stands twice")
    found(report, SHARD, "not sorted", f"{key}.cls")


def test_renamed_member(folder: Path) -> None:
    key = change(folder / SHARD, lambda members: [*members[:5], ("zzz.png", members[5][1]), *members[6:]])
    report = verify_folder(folder)
    found(report, SHARD, f"sample {key} needs one image")
    found(report, SHARD, "sample zzz needs one image")
    found(report, ".synthmed/train-000003.json", key, "no shard has")


@pytest.mark.parametrize(
    ("name", "problem"),
    [("../../evil.png", "is not named"), ("__x__/b.png", "is not"), ("evil.pyd", "may be code"), ("x.pkl", "may be")],
)
def test_hostile_member(folder: Path, name: str, problem: str) -> None:
    change(folder / SHARD, lambda members: [*members, (name, b"cos\nsystem\n.")])
    found(verify_folder(folder), SHARD, repr(name), problem)


def test_link(folder: Path) -> None:
    members = read_members(folder / SHARD)
    with tarfile.open(folder / SHARD, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("zzz.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    found(verify_folder(folder), SHARD, "'zzz.png' is not a plain file")


def test_wrong_label(folder: Path) -> None:
    key = change(folder / SHARD, replace("cls", b"0"))
    report = verify_folder(folder)
    found(report, SHARD, f"{key}.json: label is 1, but should be 0")
    found(report, ".synthmed/manifest.jsonl", f"{key}: label is 1")
    found(report, ".synthmed/train-000003.json", "class_counts")


@pytest.mark.parametrize(("data", "problem"), [(b"7", "is 7, but there are 2 classes"), (b"one", "is not a label")])
def test_label_that_is_none(folder: Path, data: bytes, problem: str) -> None:
    key = change(folder / SHARD, replace("cls", data))
    found(verify_folder(folder), SHARD, f"{key}.cls", problem)


def test_label_of_ten_megabytes(folder: Path) -> None:
    key = change(folder / SHARD, replace("cls", b"1" * 10_000_000))
    found(verify_folder(folder), SHARD, f"{key}.cls has 10000000 bytes")


def bomb(side: int) -> bytes:
    """Return a PNG that says it has side x side pixels."""
    ihdr = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = b""
    for name, data in ((b"IHDR", ihdr), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"not an image", "is not an image"),
        (b"", "is empty"),
        (bomb(50_000), "has too many pixels"),
        (encode_image(np.zeros((16, 16, 3), dtype=np.uint8), "png"), "16 x 16 pixels, but 32 x 32 are stated"),
        (encode_image(np.zeros((32, 32, 3), dtype=np.uint8), "webp"), "is not what its extension says, but webp"),
    ],
    ids=["text", "empty", "bomb", "size", "format"],
)
def test_broken_image(folder: Path, data: bytes, problem: str) -> None:
    key = change(folder / SHARD, replace("png", data))
    found(verify_folder(folder), SHARD, f"{key}.png", problem)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda known: {**known, "extra": 1}, "has not the keys and types of most samples: extra (int)"),
        (lambda known: {**known, "cup_to_disc": "0.5"}, "cup_to_disc (text)"),
        (lambda known: {**known, "group": None}, "'group' is empty"),
        (lambda known: {**known, "label_name": "cat"}, "label_name is 'cat', but should be 'glaucoma'"),
        (lambda known: {**known, "split": "test"}, "split is 'test', but should be 'train'"),
        (lambda known: {**known, "generator": "gan"}, "says synthetic, but the folder is phantom"),
        (lambda known: [known], "is not an object"),
        (lambda known: {**known, "label": json.loads("[" * 90 + "]" * 90)}, "label is [[[["),
    ],
)
def test_metadata(folder: Path, edit: Callable[[Any], Any], problem: str) -> None:
    members = read_members(folder / SHARD)
    known = json.loads(members[4][1])
    key = change(folder / SHARD, replace("json", json.dumps(edit(known)).encode()))
    found(verify_folder(folder), SHARD, key, problem)


def test_key_in_two_shards(folder: Path) -> None:
    members = read_members(folder / "train-000000.tar")
    change(folder / SHARD, lambda old: sorted([*old, *members[:3]]))
    key = members[0][0].partition(".")[0]
    found(verify_folder(folder), SHARD, f"the key {key} stands in train-000000.tar as well")


@pytest.mark.parametrize(("form", "mtime"), [(tarfile.PAX_FORMAT, 1.5), (tarfile.GNU_FORMAT, 0)])
def test_headers_that_are_not_plain(foreign: Path, form: int, mtime: float) -> None:
    write_members(foreign / SHARD, read_members(foreign / SHARD), form, mtime=mtime)
    report = verify_folder(foreign)
    found(report, SHARD, "is not plain USTAR")
    assert report.num_problems == 1, "said once a shard"


def test_classes_one_after_the_other(folder: Path) -> None:
    members = [member for path in sorted(folder.glob("train-*.tar")) for member in read_members(path)]
    for path in sorted(folder.glob("train-*.tar"))[1:]:
        path.unlink()
    samples = [members[start : start + 3] for start in range(0, len(members), 3)]
    by_class = sorted(samples, key=lambda sample: sample[0][1])
    renamed = [
        (f"k{number:03d}.{name.partition('.')[2]}", data)
        for number, sample in enumerate(by_class)
        for name, data in sample
    ]
    write_members(folder / "train-000000.tar", renamed)
    report = verify_folder(folder)
    found(report, "train-000000.tar", "not spread evenly: 12.0 samples off")
    assert report.departure["train"] == 12


def test_departure_of_interleaved_classes_stays_below_the_limit() -> None:
    from synthmed.data.verify.folder import MAX_DEPARTURE

    for counts in ([300, 700], [1, 99, 3], [5, 0, 20], [33, 33, 34, 1]):
        labels = np.array([label for label, _ in interleave(counts)])
        for start in range(0, len(labels), 13):
            stretch = labels[start : start + 40]
            for label, count in enumerate(counts):
                share = count / len(labels) * np.arange(1, len(stretch) + 1)
                assert np.abs(np.cumsum(stretch == label) - share).max() < MAX_DEPARTURE


# --------------------------------------------------------------------------------------------------- broken side files


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    value = json.loads(path.read_bytes())
    edit(value)
    path.write_text(json.dumps(value))


def test_wrong_counts(folder: Path) -> None:
    edit_json(folder / ".synthmed/train-000003.json", lambda stats: stats.update(num_samples=7))
    edit_json(folder / "sizes.json", lambda sizes: sizes.update({SHARD: 7}))
    edit_json(folder / "_info.json", lambda info: info["splits"]["train"].update(num_samples=49))
    report = verify_folder(folder)
    found(report, ".synthmed/train-000003.json", "num_samples is 7", f"{SHARD} has 6")
    found(report, "sizes.json", f"{SHARD} is 7, but the shards have 6")
    found(report, "_info.json", "splits.train.num_samples is 49, but the shards have 48")
    assert report.num_problems == 3


def test_wrong_timm_index(folder: Path) -> None:
    edit_json(folder / "_info.json", lambda info: info["splits"]["test"]["filenames"].pop())
    edit_json(folder / "_info.json", lambda info: info["splits"].update(holdout={}))
    report = verify_folder(folder)
    found(report, "_info.json", "splits.test.filenames.7 is not listed: 'test-000007.tar'")
    found(report, "_info.json", "splits.holdout is listed")


@pytest.mark.parametrize("name", ["train-000003.tar", "train-000007.tar"])
def test_missing_shard(folder: Path, name: str) -> None:
    (folder / name).unlink()
    report = verify_folder(folder)
    found(report, name, "is missing: only .synthmed/")
    found(report, "sizes.json", f"{name} is listed")
    found(report, "_info.json", name)
    found(report, ".synthmed/manifest.jsonl", "no shard has")


def test_missing_shards_in_the_numbering(foreign: Path) -> None:
    for number in (0, 3, 4):
        (foreign / f"train-{number:06d}.tar").unlink()
    report = verify_folder(foreign)
    found(report, "train-000000.tar", "is missing")
    found(report, "train-000003.tar", "all shards up to train-000004.tar")


def test_number_beyond_all_shards_is_no_bomb(foreign: Path) -> None:
    (foreign / SHARD).rename(foreign / "train-999999999.tar")
    report = verify_folder(foreign)
    found(report, "train-999999999.tar", "does not have 6 digits")
    assert report.num_problems == 3


def test_foreign_files_and_parts(folder: Path) -> None:
    for name in (
        "notes.txt",
        "index.parquet",
        "train-000008.tar.part",
        ".synthmed/run.json.part",
        ".hidden",
        "cat.tar",
    ):
        (folder / name).write_bytes(b"x")
    report = verify_folder(folder)
    found(report, "notes.txt", "does not belong")
    found(report, "index.parquet", "does not belong")
    found(report, "cat.tar", "does not belong")
    found(report, "train-000008.tar.part", "interrupted")
    found(report, ".synthmed/run.json.part", "interrupted")
    assert report.num_problems == 5


def test_half_written_manifest(folder: Path) -> None:
    path = folder / ".synthmed/manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    key = json.loads(lines[40])["key"]
    path.write_bytes(b"".join(lines[:40]) + lines[40][:50])
    report = verify_folder(folder)
    found(report, ".synthmed/manifest.jsonl", "line 41 is cut short")
    found(report, ".synthmed/manifest.jsonl", f"{key} of", "is not listed")
    found(report, ".synthmed/manifest.jsonl", f"and {1 + 40 - KEPT_A_FILE} more")
    assert report.num_problems == 1 + 40


def test_manifest_with_other_rows(folder: Path) -> None:
    path = folder / ".synthmed/manifest.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    keys = [row["key"] for row in rows]
    rows[3]["shard"] = "train-000099.tar"
    rows[4]["label"] = 5
    rows[5] = rows[6]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "[]\nnot json\n"
    path.write_text(text)
    report = verify_folder(folder)
    found(report, ".synthmed/manifest.jsonl", f"{keys[3]}: shard is 'train-000099.tar'")
    found(report, ".synthmed/manifest.jsonl", f"{keys[4]}: label is 5")
    found(report, ".synthmed/manifest.jsonl", f"{keys[6]!r} is listed twice")
    found(report, ".synthmed/manifest.jsonl", f"{keys[5]} of", "is not listed")
    found(report, ".synthmed/manifest.jsonl", "row 81 has no key")
    found(report, ".synthmed/manifest.jsonl", "line 82 is not JSON")


def test_data_card_with_other_splits(folder: Path) -> None:
    path = folder / "README.md"
    path.write_text(path.read_text().replace("path: test-*.tar", "path: train-*.tar"))
    report = verify_folder(folder)
    found(report, "README.md", "does not pin test-*.tar to the split test")
    path.write_text("# hello")
    assert verify_folder(folder).num_problems == 3


@pytest.mark.parametrize("name", ["README.md", "_info.json", "sizes.json", ".synthmed/manifest.jsonl"])
def test_missing_side_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    found(verify_folder(folder), name, "is missing")


def test_missing_stats_and_description(folder: Path) -> None:
    (folder / ".synthmed/train-000003.json").unlink()
    (folder / ".synthmed/run.json").unlink()
    report = verify_folder(folder)
    found(report, ".synthmed/train-000003.json", "train-000003.tar is not finished")
    found(report, ".synthmed/run.json", "is missing")


@pytest.mark.parametrize("name", ["_info.json", "sizes.json", ".synthmed/train-000003.json", ".synthmed/run.json"])
@pytest.mark.parametrize(
    "text", ["", "[]", "null", '"x"', "{", "[" * 100_000, '{"samples": 3, "folder": {"classes": 3}}']
)
def test_side_file_that_is_not_what_it_should_be(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    found(verify_folder(folder), name)


def test_pipe_in_the_place_of_a_side_file(folder: Path) -> None:
    for name in ("README.md", "sizes.json", ".synthmed/manifest.jsonl", ".synthmed/train-000003.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        found(verify_folder(folder), name)


def test_problems_are_bounded_and_all_counted(foreign: Path) -> None:
    for path in foreign.glob("*.tar"):
        write_members(path, [(f".{name}", data) for name, data in read_members(path)])
    report = verify_folder(foreign)
    assert len(report.problems) == MAX_LISTED
    assert report.num_problems == 3 * 80


# ---------------------------------------------------------------------------------------------------------------- any


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), file=st.integers(0, 10_000))
def test_any_flipped_bit_of_a_shard_is_found(folder: Path, place: float, bit: int, file: int) -> None:
    paths = sorted(folder.glob("train-*.tar"))
    path = paths[file % len(paths)]
    old = path.read_bytes()
    data = bytearray(old)
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        report = verify_folder(folder, workers=1)
        assert any(path.stem in finding.file for finding in report.problems)
    finally:
        path.write_bytes(old)


def test_nothing_is_changed(folder: Path) -> None:
    def state() -> dict[str, str]:
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}

    before = state()
    verify_folder(folder)
    assert state() == before


def test_image_of_another_kind_is_never_decoded(foreign: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "TIFF")
    key = change(foreign / SHARD, replace("png", buffer.getvalue()))
    found(verify_folder(foreign), SHARD, f"{key}.png is not an image but TIFF (PNG, WebP and JPEG are read)")
