"""A folder, a zip or a tar of images as one thing: names, sizes, and the bytes of one file at a time.

Archives are never unpacked, and nothing but images and label files is ever read.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synthmed.data.folders import Contents
from synthmed.data.names import plain_path
from synthmed.data.prepare.scan import read_file
from synthmed.data.shards.tar import walk_tar
from synthmed.errors import DataError

STYLEGAN_FILE = "dataset.json"
METADATA_FILE = "metadata.jsonl"
LABEL_FILES = (STYLEGAN_FILE, METADATA_FILE)
MAX_NAME = 1000
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
}

_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    IndexError,
    KeyError,
    OverflowError,
)


@dataclass
class ImageSource(Contents):
    """Images by name, wherever they lie."""

    read_member: Callable[[str], bytes] = field(kw_only=True)

    def read(self, name: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            DataError: It cannot be read.
        """
        try:
            return self.read_member(name)
        except _BROKEN_ZIP as error:
            raise DataError(f"{name} cannot be read: {error}") from error
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror or error}") from error

    def add_member(self, path: str, size: int, *, is_folder: bool, problem: str) -> bool:
        """Put a member of an archive in its place, and return whether it is a file to read."""
        if len(path) > MAX_NAME:
            path, problem = path[-MAX_NAME:], "its name is too long"
        elif path.startswith("/") or ".." in path.split("/") or re.match("[A-Za-z]:", path):
            problem = "its name leads out of the source"
        elif folder := path if is_folder else path.rpartition("/")[0]:
            self.folders.add(folder)
        return not is_folder and self.add(path, size, problem)


@contextlib.contextmanager
def open_source(path: Path, exclude: Sequence[str] = ()) -> Iterator[ImageSource]:
    """Open a folder, a zip or an uncompressed tar of images.

    Args:
        path: The source.
        exclude: Shell patterns of what to pass over; see `data.names.excluded_by`.

    Raises:
        DataError: It is none of them, or broken.
    """
    if path.is_dir():
        source = ImageSource(path, exclude, LABEL_FILES, read_member=lambda name: read_file(path / name, name))
        source.walk()
        yield source
        return
    if not path.is_file():
        raise DataError(f"no such folder, zip or tar: {path}")
    with contextlib.ExitStack() as stack:
        try:
            with path.open("rb") as archive:
                start = archive.read(8)
            opened = _open_zip(path, exclude) if start.startswith(b"PK") else _open_tar(path, start, exclude)
            source = stack.enter_context(opened)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        yield source


@contextlib.contextmanager
def _open_zip(path: Path, exclude: Sequence[str]) -> Iterator[ImageSource]:
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
        except _BROKEN_ZIP as error:
            raise DataError(f"{path} is a broken zip file: {error}") from error
        members: dict[str, zipfile.ZipInfo] = {}
        source = ImageSource(path, exclude, LABEL_FILES, read_member=lambda name: _read_zip(archive, members[name]))
        for info in archive.infolist():
            name, is_folder = plain_path(info.filename), info.filename.endswith(("/", "\\"))
            if source.add_member(name, info.file_size, is_folder=is_folder, problem=_zip_problem(info)):
                members[name] = info
        yield source


def _zip_problem(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "it is a link or a device"
    return "it is encrypted" if info.flag_bits & 1 else ""


def _read_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    # No more than the size in the directory, which was checked, whatever the compressed data would give.
    with archive.open(info) as file:
        return file.read(info.file_size)


@contextlib.contextmanager
def _open_tar(path: Path, start: bytes, exclude: Sequence[str]) -> Iterator[ImageSource]:
    for magic, program in COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(f"{path} is compressed with {program}", "decompress it: images are read in any order")
    with path.open("rb") as file:
        places: dict[str, tuple[int, int]] = {}
        # Threads read at the same time, so nobody may move a position that others rely on.
        source = ImageSource(
            path, exclude, LABEL_FILES, read_member=lambda name: os.pread(file.fileno(), *places[name])
        )
        for info in walk_tar(path, file):
            name = plain_path(info.name)
            problem = "" if info.isreg() and not info.issparse() else "it is a link or a device"
            if source.add_member(name, info.size, is_folder=info.isdir(), problem=problem):
                places[name] = (info.size, info.offset_data)
        yield source
