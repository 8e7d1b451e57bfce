"""Shards of other writers into shards in the contract's form: every place a label may stand, and what is refused."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthmed.data.images import encode_image
from synthmed.data.labels import MAX_CLASSES
from synthmed.data.pack.labels import read_labels
from synthmed.data.pack.pack import PackConfig, PackReport, pack_images
from synthmed.data.pack.sources import open_source
from synthmed.data.sets.sources import list_images
from synthmed.data.shards.read import open_folder
from synthmed.data.verify.folder import verify_folder
from synthmed.errors import DataError, SynthmedError, UsageError

Members = list[tuple[str, bytes]]
IMAGES = [encode_image(np.random.default_rng(k).integers(0, 256, (16, 16, 3), dtype=np.uint8), "png") for k in range(4)]


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(
    key: str = "{:06d}", cls: Callable[[int], str] | None = lambda k: str(k % 2), **known: Callable[[int], Any]
) -> Members:
    """Return four samples: an image, a `.cls` unless that is None, and a `.json` if something is known."""
    members: Members = []
    for k in range(4):
        members.append((f"{key.format(k)}.png", IMAGES[k]))
        if cls:
            members.append((f"{key.format(k)}.cls", cls(k).encode()))
        if known:
            row = {name: value(k) for name, value in known.items()}
            members.append((f"{key.format(k)}.json", json.dumps(row).encode()))
    return members


def as_json(members: Members) -> Members:
    """Return the members with every `.cls` as the field `cls` of a `.json`."""
    return [
        (name.replace(".cls", ".json"), json.dumps({"cls": int(data)}).encode() if name.endswith(".cls") else data)
        for name, data in members
    ]


def pack(source: Path, output: Path, **config: Any) -> PackReport:
    return pack_images(source, output, PackConfig(**config), threads=1)


@pytest.mark.parametrize(
    ("file", "members", "classes"),
    [
        ("train-000000.tar", samples("./{:06d}"), "class0 class1"),
        ("train-000000.tar", samples("eyes/left/{:06d}"), "class0 class1"),
        ("train-000000.tar", samples("eye.{:03d}"), "class0 class1"),
        ("eyes-train-000000.tar", samples(), "class0 class1"),
        ("00000.tar", sorted(samples(), key=lambda member: member[0][-3:]), "class0 class1"),
        ("0.tar", samples(cls=lambda k: f" {k % 2}\n"), "class0 class1"),
        ("0.tar", samples(cls=lambda k: "ab"[k % 2]), "a b"),
        ("0.tar", samples(cls=None, label=lambda k: k % 2), "class0 class1"),
        ("0.tar", as_json(samples()), "class0 class1"),
        ("0.tar", samples(cls=None, label=lambda k: "ab"[k % 2]), "a b"),
        ("0.tar", samples(cls=None, label=lambda k: k % 2, label_name=lambda k: "ab"[k % 2]), "a b"),
        ("0.tar", samples(label=lambda k: "ab"[k % 2]), "a b"),
        ("0.tar", [m for name, data in samples() for m in ((f"._{name}", b"x"), (name, data))], "class0 class1"),
        ("0.tar", [*samples(), *((f"{k:06d}.mask.png", IMAGES[k]) for k in range(4))], "class0 class1"),
    ],
)
def test_label_is_found_wherever_it_stands(tmp_path: Path, file: str, members: Members, classes: str) -> None:
    """From one shard and from the folder it lies in."""
    shard = write_tar(tmp_path / "in" / file, members)
    for number, source in enumerate((shard, shard.parent)):
        output = tmp_path / f"out{number}"
        assert pack(source, output).images == dict.fromkeys(classes.split(), 2)
        assert verify_folder(output).problems == ()
        rows = [json.loads(line) for line in (output / ".synthmed/manifest.jsonl").read_text().splitlines()]
        assert sorted(row["label"] for row in rows) == [0, 0, 1, 1]
        assert len({row["sha256"] for row in rows}) == 4
        assert all(row["label"] == int(row["source"][-5]) % 2 for row in rows)


def test_folder_of_shards_is_one_source_with_names_and_groups(tmp_path: Path) -> None:
    for number in range(3):
        members = samples(group=lambda k: f"patient {k // 2}")
        write_tar(tmp_path / "in" / f"{number:05d}.tar", members)
    (tmp_path / "in" / "classes.txt").write_text("healthy\n\nill\n")
    assert pack(tmp_path / "in", tmp_path / "out").images == {"healthy": 6, "ill": 6}
    packed = open_folder(tmp_path / "out", "train")
    assert {entry.group for entry in packed.entries} == {"patient 0", "patient 1"}
    named = pack(tmp_path / "in", tmp_path / "named", classes=("no", "yes"))
    assert named.images == {"no": 6, "yes": 6}
    assert list_images(str(tmp_path / "in")).classes.names == ("healthy", "ill")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (samples(cls=lambda k: "-1"), "no image with a label; the first: 000000.png: 000000.cls has no label: '-1'"),
        (samples(cls=lambda k: "1.0"), "000000.cls has no label: '1.0'"),
        (samples(cls=lambda k: ""), "000000.cls has no label: ''"),
        (samples(cls=lambda k: str(MAX_CLASSES)), "000000.cls has no label: 10000"),
        (samples(cls=lambda k: "9" * 40), "000000.cls has 40 bytes"),
        (samples(cls=None, label=lambda k: 1.0), "000000.json has no label: 1.0"),
        (samples(cls=None, label=lambda k: True), "000000.json has no label: True"),
        (samples(cls=None, label=lambda k: [1]), r"000000.json has no label: \[1\]"),
        (samples(age=lambda k: float("nan")), "000000.json is not JSON: the number NaN is not finite"),
        (samples(label=lambda k: 1 - k % 2), "000000.cls is 0, but the .json says 1"),
        (samples(cls=None), "no class folders .*beside each image of a shard"),
        (samples(cls=None, age=lambda k: 3), "no class folders"),
    ],
)
def test_shard_without_labels_says_why(tmp_path: Path, members: Members, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pack(write_tar(tmp_path / "0.tar", members), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sample_without_a_label_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = write_tar(tmp_path / "0.tar", [member for member in samples() if member[0] != "000001.cls"])
    report = pack(shard, tmp_path / "out", max_bad=0.3)
    assert (report.images, report.left_out) == ({"class0": 2, "class1": 1}, {"no label": 1})
    assert "left out: 000001.png: no label: neither a .cls nor a label in a .json" in capsys.readouterr().err


def test_splits_are_not_mixed(tmp_path: Path) -> None:
    for name in ("eyes-train-000000.tar", "eyes-validation-000000.tar", "eyes-test-000000.tar"):
        write_tar(tmp_path / name, samples())
    with pytest.raises(DataError, match="shards of several splits: test, train, val"):
        pack(tmp_path, tmp_path / "out")


def test_what_shards_call_real_is_not_packed_as_synthetic(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "0.tar", samples(synthetic=lambda k: False))
    with pytest.raises(UsageError, match=r"says that its images are real, not synthetic \(--kind real\)"):
        pack(shard, tmp_path / "out")
    pack(shard, tmp_path / "out", kind="real")


def test_too_many_class_names_are_refused(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "0.tar", samples())
    (tmp_path / "classes.txt").write_text("\n".join(f"c{k}" for k in range(MAX_CLASSES + 1)))
    with pytest.raises(DataError, match=f"there are {MAX_CLASSES + 1} classes"):
        pack(shard, tmp_path / "out")
    (tmp_path / "classes.txt").write_bytes(b"a\n" * 600_000)
    with pytest.raises(DataError, match=r"classes\.txt is too large"):
        pack(shard, tmp_path / "out")


NAMES = st.builds(
    lambda folder, key, extension: f"{folder}{key}{extension}",
    st.sampled_from(["", "./", "a/", "a.b/", "../", "/", ".h/", "__x__/"]),
    st.sampled_from(["0", "0", "1", "a.b", "._0", "ä", "\x1b", "\udcff", "x" * 300, ""]),
    st.sampled_from([".png", ".cls", ".json", ".PNG", ".CLS", ".mask.png", "", ".pkl", "."]),
)
DATA = st.sampled_from(
    [IMAGES[0], b"0", b"1\n", b"-1", b"a", b"", b'{"label": 1}', b'{"cls": "a"}', b"[" * 300, b"\xff"]
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(members=st.lists(st.tuples(NAMES, DATA), max_size=8))
def test_no_names_or_labels_raise_anything_but_our_errors(tmp_path: Path, members: Members) -> None:
    shard = write_tar(tmp_path / "train-000000.tar", members)
    for read in (lambda: open_folder(tmp_path, "train"), lambda: _list(shard)):
        try:
            read()
        except SynthmedError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000


def _list(shard: Path) -> None:
    with open_source(shard) as source:
        for name in read_labels(source).labels:
            source.read(name)
