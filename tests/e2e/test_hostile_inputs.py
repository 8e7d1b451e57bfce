"""What a download, a file server or an attacker hands in: the whole command, its exit code, its words, its memory.

Each row of the table is run as a user would run it, in a process of its own, in a folder of its own. Whatever the file
is, the command ends with the documented code and one line on stderr, never with a trace; it writes nothing outside its
folder, runs nothing out of the file, and takes memory in proportion to what it was given.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthmed.generators.registry import embedded_model

GIB_IN_KIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The process that forks the commands."""
    home = tmp_path_factory.mktemp("home")
    surroundings = {**os.environ, "SYNTHMED_HOME": str(home), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(Path(__file__).with_name("command_server.py"))]
    with subprocess.Popen(script, stdin=-1, stdout=-1, text=True, bufsize=1, env=surroundings) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def picture(seed: int, side: int = 32) -> bytes:
    """Return a PNG of random pixels."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def good_classes(folder: Path, count: int = 20) -> None:
    """Write two class folders of small pictures."""
    for label, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index}.png").write_bytes(picture(100 * label + index))


def png(width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8, colour: int = 2) -> bytes:
    """Return a PNG of these chunks behind a header that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


def flat_png(side: int, grey: int) -> bytes:
    """Return a small PNG of a large grey image."""
    return png(side, side, (b"IDAT", zlib.compress((b"\0" + bytes([grey]) * side) * side, 1)), colour=0)


def tiled_tiff(side: int, tile: int) -> bytes:
    """Return a small TIFF of a small image whose single tile claims to be huge."""
    entries = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (277, 1)]
    entries += [(322, tile), (323, tile), (324, 8), (325, tile * tile)]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)


def write_tar(path: Path, members: list[tuple[str, bytes, bytes]]) -> None:
    """Write a tar of (name, content, type)."""
    with tarfile.open(path, "w") as tar:
        for name, data, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            member.size = len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(data) if member.size else None)


def endless_directory(path: Path) -> None:
    """Write a sparse zip whose end record says that its directory takes 3 GB."""
    size = 3_000_000_000
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 60_000, 60_000, size - 4, 4, 0))


def sparse(path: Path, start: bytes, size: int) -> None:
    """Write a file of so many bytes that takes no room on the disk."""
    path.write_bytes(start)
    os.truncate(path, size)


def edited_model(path: Path, **changes: object) -> None:
    """Write the model that the package brings, with some fields of its header changed."""
    data = embedded_model("phantom-fundus").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + length])
    about = json.loads(table["__metadata__"]["synthmed"])
    about["config"] |= changes
    table["__metadata__"]["synthmed"] = json.dumps(about)
    raw_model(path, json.dumps(table).encode(), data[8 + length :])


def raw_model(path: Path, header: bytes, tensors: bytes = b"") -> None:
    """Write a safetensors file with any header."""
    path.write_bytes(struct.pack("<Q", len(header)) + header + tensors)


class Opener:
    """Its pickle has a file opened by whoever unpickles it."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("touched", "w")


def shard(folder: Path, members: list[tuple[str, bytes]], split: str = "train") -> None:
    """Write a folder of one shard by hand."""
    folder.mkdir()
    write_tar(folder / f"{split}-000000.tar", [(name, data, tarfile.REGTYPE) for name, data in members])


def sample(key: str, image: bytes, label: bytes = b"0", table: bytes = b"{}") -> list[tuple[str, bytes]]:
    """Return the members of one sample."""
    return [(f"{key}.cls", label), (f"{key}.json", table), (f"{key}.png", image)]


@dataclass(frozen=True)
class Case:
    """One hostile or unlucky input."""

    name: str
    command: str
    """Words of the command; `{}` stands for nothing else than what `make` wrote into the working folder."""
    make: Callable[[Path], object]
    code: int
    words: str
    """Part of what stderr says."""


def bombs(folder: Path) -> None:
    good_classes(folder / "d")
    for index in range(4):
        (folder / "d" / "a" / f"x{index}.png").write_bytes(flat_png(8000, index))


def beside(data: bytes, name: str = "x.png") -> Callable[[Path], object]:
    """Return what writes two good class folders, and into the first of them this file."""

    def make(folder: Path) -> None:
        good_classes(folder / "d")
        (folder / "d" / "a" / name).write_bytes(data)

    return make


def model(**changes: object) -> Callable[[Path], object]:
    return lambda folder: edited_model(folder / "m.safetensors", **changes)


def header(text: bytes) -> Callable[[Path], object]:
    return lambda folder: raw_model(folder / "m.safetensors", text)


def tar(*members: tuple[str, bytes, bytes]) -> Callable[[Path], object]:
    return lambda folder: write_tar(folder / "s.tar", list(members))


def pickled(folder: Path) -> None:
    (folder / "m.ckpt").write_bytes(pickle.dumps({"state_dict": Opener()}))


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "s.zip", "w") as archive:
        for name in ("../x.png", "/abs/y.png", "C:\\z.png", "..\\..\\w.png"):
            archive.writestr(name, picture(1))


def linked(target: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        good_classes(folder / "d")
        (folder / "d" / "a" / "x.png").symlink_to(target)

    return make


def pipe(folder: Path) -> None:
    good_classes(folder / "d")
    os.mkfifo(folder / "d" / "a" / "x.png")


def zeros(folder: Path) -> None:
    (folder / "s").mkdir()
    (folder / "s" / "train-000000.tar").write_bytes(bytes(20_480))


def shard_of(*members: tuple[str, bytes]) -> Callable[[Path], object]:
    return lambda folder: shard(folder / "s", list(members))


def described(**fields: object) -> Callable[[Path], object]:
    """Return what writes a folder of one shard that says this of itself."""

    def make(folder: Path) -> None:
        shard(folder / "s", sample("train-0000000-x", picture(1)))
        (folder / "s" / ".synthmed").mkdir()
        (folder / "s" / ".synthmed" / "run.json").write_text(json.dumps({"folder": fields}))

    return make


def endless_table(folder: Path) -> None:
    good_classes(folder / "d")
    sparse(folder / "g.csv", b"image,group\n", 3_000_000_000)


def linked_folder(folder: Path) -> None:
    good_classes(folder / "d")
    (folder / "d" / "a" / "more").symlink_to(folder / "d")


def endless_recipe(folder: Path) -> None:
    good_classes(folder / "d")
    sparse(folder / "r.toml", b'dataset = "x"\n', 3_000_000_000)


def big_text() -> bytes:
    """Return a good image with a compressed text of 200 MB beside its pixels."""
    whole = picture(1000)
    text = b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(text[1])) + text[0] + text[1] + struct.pack(">I", zlib.crc32(text[0] + text[1]))
    return whole[:33] + chunk + whole[33:]


GENERATE = "generate --checkpoint m.safetensors --label glaucoma -n 2"
IMPORT = "checkpoints import m.ckpt --dataset airogs"
INFO = "checkpoints info m.safetensors"
PREPARE = "prepare images d -o o --size 32"
CASES = (
    Case("four images of 64 million pixels", f"{PREPARE} --workers 4", bombs, 0, ""),
    Case("image of 40 billion pixels", PREPARE, beside(png(200_000, 200_000)), 3, "too many pixels"),
    Case("text chunk of 200 MB", PREPARE, beside(big_text()), 0, ""),
    Case("tile of a billion pixels", PREPARE, beside(tiled_tiff(64, 32_768), "x.tif"), 3, "cannot be used"),
    Case("link to a device", PREPARE, linked("/dev/zero"), 3, "x.png"),
    Case("link to itself", PREPARE, linked("x.png"), 3, "x.png"),
    Case("pipe named as an image", PREPARE, pipe, 3, "x.png"),
    Case("folder that links to itself", PREPARE, linked_folder, 0, ""),
    Case("table of 3 GB", f"{PREPARE} --groups g.csv", endless_table, 3, "g.csv"),
    Case("zip with a directory of 3 GB", "pack s.zip -o o", lambda f: endless_directory(f / "s.zip"), 3, "s.zip"),
    Case("the same as a checkpoint", IMPORT, lambda f: endless_directory(f / "m.ckpt"), 3, "m.ckpt"),
    Case("zip that leads out", "pack s.zip -o o", zipped, 3, "4 images refused"),
    Case("tar that leads out", "pack s.tar -o o", tar(("../x.png", picture(1), tarfile.REGTYPE)), 3, "refused"),
    Case("tar of links", "pack s.tar -o o", tar(("a/x.png", b"", tarfile.SYMTYPE)), 3, "refused"),
    Case("pickle that opens a file", IMPORT, pickled, 3, "m.ckpt"),
    Case("model that writes elsewhere", GENERATE, model(dataset="../../x"), 3, "m.safetensors"),
    Case("model that writes to the root", GENERATE, model(dataset="/abs"), 3, "m.safetensors"),
    Case("model that writes to a store", GENERATE, model(dataset="s3://x"), 3, "m.safetensors"),
    Case("model that writes backwards", GENERATE, model(dataset="a\u202eb"), 3, "m.safetensors"),
    Case("model of a million pixels a side", GENERATE, model(size=1 << 20), 3, "m.safetensors"),
    Case("model that divides by nothing", GENERATE, model(latent_scale=1e-300), 3, "m.safetensors"),
    Case("model with a positive class of its own", GENERATE, model(positive="x"), 3, "m.safetensors"),
    Case("shape that is infinite", INFO, header(b'{"x":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}'), 3, ""),
    Case("header of a million brackets", INFO, header(b"[" * 1_000_000), 3, "m.safetensors"),
    Case("header of 9 exabytes", INFO, lambda f: (f / "m.safetensors").write_bytes(b"\xff" * 7 + b"\x7f"), 3, ""),
    Case("shard of zeros, inspected", "inspect s", zeros, 3, "train-000000.tar"),
    Case("shard of zeros, verified", "verify s", zeros, 3, "train-000000.tar"),
    Case("tiled TIFF in a shard", "verify s", shard_of(*sample("x", tiled_tiff(64, 32_768))), 3, "x.png"),
    Case("brackets in a shard", "verify s", shard_of(*sample("x", picture(1), table=b"[" * 100_000)), 3, "x.json"),
    Case("a million classes", "inspect s", described(classes=[f"class {n}" for n in range(1_000_000)]), 3, "run.json"),
    Case("recipe of 3 GB", "train --recipe r.toml --data d -o o", endless_recipe, 3, "r.toml"),
    Case("folder that writes elsewhere", "inspect s", described(dataset="../../x"), 3, "run.json"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_input_ends_in_one_line_or_is_used(case: Case, tmp_path: Path, server: subprocess.Popen[str]) -> None:
    folder, out = tmp_path / "work", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    case.make(folder)
    before = {path.name for path in folder.iterdir()}
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps({"words": case.command.split(), "folder": str(folder), "out": str(out)}) + "\n")
    code, peak = map(int, server.stdout.readline().split())
    said = (out / "stderr").read_text()
    print(f"{case.name} | {case.command} | exit {code} | {peak >> 10} MiB | {said.splitlines()[-1:]}")
    assert code == case.code, said
    assert case.words in said
    assert "Traceback" not in said
    if case.code:
        assert [line for line in said.splitlines() if line][-1].startswith("error: ")
    assert peak < GIB_IN_KIB
    # Nothing is left but the output, nothing outside the folder, and no file that content of the input named.
    assert {path.name for path in folder.iterdir()} - before <= {"o"}
    assert {path.name for path in tmp_path.iterdir()} == {"work", "out"}
