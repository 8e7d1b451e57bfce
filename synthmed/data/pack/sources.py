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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from synthmed.data.images import IMAGE_SUFFIXES
from synthmed.data.prepare.raw import Problem
from synthmed.data.prepare.scan import need_for_file, read_file
from synthmed.data.prepare.tables import find_files
from synthmed.data.shards.samples import MAX_IMAGE_BYTES
from synthmed.data.shards.tar import walk_tar
from synthmed.errors import DataError
from synthmed.files.zips import open_zip
from synthmed.runtime.progress import printable

STYLEGAN_FILE = "dataset.json"
METADATA_FILE = "metadata.jsonl"
LABEL_FILES = (STYLEGAN_FILE, METADATA_FILE)
MAX_NAME = 1000
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

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
class ImageSource:
    """Images by name, wherever they lie."""

    path: Path
    read_member: Callable[[str], bytes]
    files: dict[str, int] = field(default_factory=dict)
    """Name with '/' -> size in bytes, of images and label files."""
    problems: list[Problem] = field(default_factory=list)
    """Images that are not read for what their name or kind is."""
    num_others: int = 0
    """Files that are no images; they are never opened."""

    def images(self) -> list[str]:
        """Return the names of all images, sorted."""
        return sorted(name for name in self.files if PurePosixPath(name).name not in LABEL_FILES)

    def read(self, name: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            DataError: It cannot be read.
        """
        try:
            need_for_file(self.files[name])
            return self.read_member(name)
        except _BROKEN_ZIP as error:
            raise DataError(f"{name} cannot be read: {error}") from error
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror or error}") from error

    def add(self, name: str, size: int, problem: str = "") -> bool:
        """List a file if it is an image or a label file, or why it is not read; return whether it is listed."""
        parts = PurePosixPath(name).parts
        if any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in parts):
            return False
        wanted = parts and (parts[-1] in LABEL_FILES or PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES)
        if not wanted:
            self.num_others += 1
        elif problem := problem or self._find_problem(name, size):
            self.problems.append(Problem(printable(name)[:MAX_NAME], "refused", problem))
        else:
            self.files[name] = size
            return True
        return False

    def _find_problem(self, name: str, size: int) -> str:
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name):
            return "its name leads out of the source"
        if len(name) > MAX_NAME or not name.isprintable():
            return "its name is too long or cannot be printed"
        if size > MAX_IMAGE_BYTES:
            return f"it has {size} bytes, at most {MAX_IMAGE_BYTES} are read"
        return "there is another file of this name" if name in self.files else ""


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[ImageSource]:
    """Open a folder, a zip or an uncompressed tar of images.

    Raises:
        DataError: It is none of them, or broken.
    """
    if path.is_dir():
        source = ImageSource(path, lambda name: read_file(path / name, name))
        for file in find_files(path):
            problem = "" if file.is_file() else "it is not a file"
            source.add(file.relative_to(path).as_posix(), file.stat().st_size if not problem else 0, problem)
        yield source
        return
    if not path.is_file():
        raise DataError(f"no such folder, zip or tar: {path}")
    with contextlib.ExitStack() as stack:
        try:
            with path.open("rb") as archive:
                start = archive.read(8)
            source = stack.enter_context(_open_zip(path) if start.startswith(b"PK") else _open_tar(path, start))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        yield source


@contextlib.contextmanager
def _open_zip(path: Path) -> Iterator[ImageSource]:
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(open_zip(stack.enter_context(path.open("rb"))))
        except _BROKEN_ZIP as error:
            raise DataError(f"{path} is a broken zip file: {error}") from error
        members: dict[str, zipfile.ZipInfo] = {}
        source = ImageSource(path, lambda name: _read_zip(archive, members[name]))
        for info in archive.infolist():
            if not info.is_dir() and source.add(info.filename, info.file_size, _zip_problem(info)):
                members[info.filename] = info
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
def _open_tar(path: Path, start: bytes) -> Iterator[ImageSource]:
    for magic, program in COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(f"{path} is compressed with {program}", "decompress it: images are read in any order")
    with path.open("rb") as file:
        places: dict[str, tuple[int, int]] = {}
        # Threads read at the same time, so nobody may move a position that others rely on.
        source = ImageSource(path, lambda name: os.pread(file.fileno(), *places[name]))
        for info in walk_tar(path, file):
            name = info.name.removeprefix("./")
            problem = "" if info.isreg() and not info.issparse() else "it is a link or a device"
            if not info.isdir() and source.add(name, info.size, problem):
                places[name] = (info.size, info.offset_data)
        yield source
