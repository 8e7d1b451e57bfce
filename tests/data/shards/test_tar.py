"""Tars made to harm: whatever the headers say, memory and time stay bounded and the file is named."""

import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthmed.data.shards.read import open_folder
from synthmed.data.shards.samples import read_image_bytes
from synthmed.data.shards.tar import MAX_HEADER_BYTES, walk_tar
from synthmed.errors import DataError, SynthmedError


def header(
    name: str = "a.png", size: int = 0, kind: bytes = tarfile.REGTYPE, form: Any = tarfile.USTAR_FORMAT
) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(form)


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def pax(records: dict[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    data = b""
    for key, value in records.items():
        body = f" {key}={value}\n".encode()
        length = len(body)
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        data += str(length).encode() + body
    return header("pax", len(data), kind) + block(data)


def set_size(data: bytes, size: int) -> bytes:
    """Return a header with a size in base 256, as GNU writes what does not fit in octal."""
    field = (size % (1 << 95)).to_bytes(12, "big")
    data = data[:124] + bytes([0x80 if size >= 0 else 0xFF]) + field[1:] + data[136:]
    checksum = sum(data[:148]) + 8 * 32 + sum(data[156:512])
    return data[:148] + f"{checksum:06o}\0 ".encode() + data[156:]


SAMPLE = header("a.cls", 1) + block(b"0") + header("a.png", 3) + block(b"abc")
END = bytes(1024)


def walk(tmp_path: Path, data: bytes) -> list[tarfile.TarInfo]:
    path = tmp_path / "train-000000.tar"
    path.write_bytes(data)
    with path.open("rb") as file:
        return list(walk_tar(path, file))


def test_members_are_walked_whoever_wrote_them(tmp_path: Path) -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name in ("a.png", "b" * 99 + "/" + "c" * 99):
                info = tarfile.TarInfo(name)
                info.size = 700
                archive.addfile(info, io.BytesIO(bytes(700)))
        members = walk(tmp_path, buffer.getvalue())
        assert [(member.name, member.size) for member in members] == [("a.png", 700), ("b" * 99 + "/" + "c" * 99, 700)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: pax({"comment": "x" * 2 * MAX_HEADER_BYTES}),
        lambda: pax({"comment": "x" * 2 * MAX_HEADER_BYTES}, tarfile.XGLTYPE),
        lambda: header("long", 50_000_000, tarfile.GNUTYPE_LONGNAME) + bytes(50_000_000),
        lambda: header("long", 50_000_000, tarfile.GNUTYPE_LONGLINK) + bytes(50_000_000),
        lambda: (header("x", 1, tarfile.GNUTYPE_LONGNAME) + block(b"y")) * 20_000,
        lambda: b"".join(pax({f"k{number}": "v"}, tarfile.XGLTYPE) for number in range(5_000)),
        lambda: b"".join(pax({f"k{n}": "v"}, tarfile.XGLTYPE) + header(f"m{n}.txt") for n in range(5_000)),
        lambda: (
            pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
            + header("s", 5_000_192)
            + block(b"2400000\n" + b"1\n" * 2_500_000)
        ),
    ],
    ids=["pax", "global pax", "long name", "long link", "chain", "global chain", "global records", "sparse map"],
)
def test_headers_cannot_fill_the_memory(tmp_path: Path, build: Callable[[], bytes]) -> None:
    path = tmp_path / "train-000000.tar"
    path.write_bytes(build() + SAMPLE + END)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"train-000000\.tar is not a whole tar file"), path.open("rb") as file:
        for _ in walk_tar(path, file):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


@pytest.mark.parametrize("size", [-512, -1024, -(1 << 40)])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_negative_size_does_not_lead_round_in_circles(tmp_path: Path, size: int, kind: bytes) -> None:
    with pytest.raises(DataError, match=r"train-000000\.tar"):
        walk(tmp_path, SAMPLE + set_size(header("b.png", 0, kind), size) + SAMPLE + END)
    with pytest.raises(DataError, match=r"train-000000\.tar"):
        walk(tmp_path, pax({"size": str(size)}) + header("b.png") + SAMPLE + END)


@pytest.mark.parametrize("size", [1 << 20, 1 << 62, 1 << 80])
def test_size_beyond_the_end_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(DataError, match=r"train-000000\.tar is not a whole tar file.* after member 'b\.png'"):
        walk(tmp_path, SAMPLE + set_size(header("b.png"), size) + SAMPLE + END)


def test_data_behind_the_end_is_refused(tmp_path: Path) -> None:
    assert len(walk(tmp_path, SAMPLE + bytes(10_240))) == 2
    with pytest.raises(DataError, match=r"goes on behind its end at byte 2048, after member 'a\.png'"):
        walk(tmp_path, SAMPLE + END + SAMPLE + END)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pax({"path": "../../etc/a.png"}) + header("a.png"), r"'../../etc/a.png' is not named"),
        (pax({"path": "/a.png"}) + header("a.png"), r"'/a.png' is not named"),
        (pax({"linkpath": "/etc/passwd"}) + header("a.png", 0, tarfile.SYMTYPE), "'a.png' is not a plain file"),
        (
            header("x", 12, tarfile.GNUTYPE_LONGNAME) + block(b"../x/../a.b\0") + header("a.png"),
            r"'../x/../a.b' is not",
        ),
        (pax({"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}) + header("a.png"), "'a.png' is not a plain file"),
        (header("a.png", 0, tarfile.GNUTYPE_SPARSE, tarfile.GNU_FORMAT), "'a.png' is not a plain file"),
        (header("a.png", 0, tarfile.BLKTYPE), "'a.png' is not a plain file"),
        (header("a.png", 0, tarfile.CONTTYPE) + header("a.pyd", 3) + block(b"abc"), "'a.pyd' may be code"),
        (header("a.pkl", 3) + block(b"abc"), "'a.pkl' may be code"),
        (header("a.pth", 3) + block(b"abc"), "'a.pth' may be code"),
        (header("a.pickle", 3) + block(b"abc"), "'a.pickle' may be code"),
        (header("a.cls", 10_000_000) + block(b"1" * 10_000_000) + header("a.png"), "a.cls has 10000000 bytes"),
        (SAMPLE + header("a.json", 40_005) + block(b'{"a":' + b"[" * 20_000 + b"]" * 20_000), "a.json is not JSON"),
    ],
)
def test_hostile_member_is_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "train-000000.tar").write_bytes(data + END)
    with pytest.raises(DataError, match=message):
        open_folder(tmp_path, "train")


def test_pipe_under_a_shards_name_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-000000.tar")
    with pytest.raises(DataError, match="is not a file"):
        open_folder(tmp_path, "train")


PARTS = st.one_of(
    st.just(SAMPLE),
    st.just(END),
    st.binary(max_size=700),
    st.builds(
        lambda records: pax(records) + header(),
        st.dictionaries(
            st.sampled_from(
                ["path", "size", "GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.name", "mtime", "hdrcharset"]
            ),
            st.sampled_from(["0", "-1", "1", "x", "9" * 30, "BINARY", "0,1", "a.png", "1.5", ""]),
            max_size=3,
        ),
    ),
    st.builds(
        lambda name, size, kind: set_size(header(name, 0, kind, tarfile.GNU_FORMAT), size) + bytes(512),
        st.sampled_from(["a.png", "b.json", "b.cls", "../x"]),
        st.sampled_from([0, 1, 512, 700, -1, -512, 1 << 33, 1 << 90]),
        st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"5", b"7", b"x", b"g", b"L", b"K", b"S", b"X", b"Z"]),
    ),
)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    parts=st.lists(PARTS, max_size=6),
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 4000),
)
def test_no_tar_raises_anything_but_our_errors(
    tmp_path: Path, parts: list[bytes], flips: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(b"".join(parts) + SAMPLE + END)
    for place, value in flips:
        if place < len(data):
            data[place] = value
    (tmp_path / "train-000000.tar").write_bytes(data[: len(data) - cut] if cut < 1000 else data)
    try:
        for entry in open_folder(tmp_path, "train").entries:
            read_image_bytes(entry)
    except SynthmedError as error:
        assert str(tmp_path) in str(error) or "the shards hold no samples" in str(error)
