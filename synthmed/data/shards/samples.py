"""One shard and its samples: which members belong together, and whether they are what they should be.

Whatever a shard holds, it can only raise a DataError that names the file and the member; no image is decoded here.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NoReturn

from synthmed.data.labels import MAX_CLASSES
from synthmed.data.shards.plan import stats_path
from synthmed.data.shards.tar import walk_tar
from synthmed.data.shards.write import ShardStats
from synthmed.errors import DataError
from synthmed.files.content import parse_json
from synthmed.files.storage import file_size, naming_read_errors, open_to_read, read_range
from synthmed.runtime.progress import printable

IMAGE_EXTENSIONS = ("png", "webp", "jpg", "jpeg")
MAX_LABEL_BYTES = 32
MAX_JSON_BYTES = 64 * 1024
MAX_IMAGE_BYTES = 256 * 1024 * 1024

CODE_EXTENSIONS = frozenset({"pickle", "pkl", "pyd", "pth", "pt"})
"""Members that other readers may unpickle, which can run code."""

MAX_NAME = 1000
# As webdataset divides a name: the key may lie in folders, and everything behind the first dot is the extension.
_MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<extension>[A-Za-z0-9_.-]{1,32})")
# webdataset passes over what lies in such a folder.
_OUTSIDE = re.compile(r"/|(?:.*/)?\.\./|__[^/]*__/")


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample: where its image lies, its label and its group."""

    shard: Path
    key: str
    offset: int
    """Of the image's first byte in the shard."""
    length: int
    """Of the image in bytes."""
    extension: str
    label: int
    group: str
    """Patient or other unit that must not be in two splits; empty where the shard does not say."""
    sha256: bytes = b""
    """Of the image's bytes, as the shard's stats file states it; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample."""

    offset: int
    """Of its data in the shard."""
    size: int
    header: int
    """Where its header begins in the shard."""
    name: str
    """In the shard; the extension may have capital letters."""


def read_image_bytes(entry: Entry) -> bytes:
    """Return the encoded image of a sample.

    Raises:
        DataError: The shard is gone, has become shorter, or holds another image than its stats file states.
    """
    with naming_read_errors(entry.shard):
        data = read_range(entry.shard, entry.offset, entry.length)
    if len(data) != entry.length:
        raise DataError(f"{entry.shard} has become shorter: {entry.key} is cut", "write the shard again")
    if entry.sha256 and hashlib.sha256(data).digest() != entry.sha256:
        raise _not_as_stated(entry.shard, entry.key)
    return data


def _not_as_stated(shard: Path, key: str) -> DataError:
    return DataError(
        f"{shard} has changed since it was written: {key} is not what its stats file states",
        f"make the shard again, or remove {stats_path(shard)} where the change is meant",
    )


def index_shard(
    shard: Path, stats: ShardStats | None = None, stated: Collection[int] = ()
) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """Yield every sample of a shard with its metadata, which is empty where there is no `.json` member.

    Args:
        shard: The file.
        stats: What its stats file says: other labels are refused at once, other images when they are read.
        stated: How many samples it holds, by each of the other files that say so.

    Raises:
        DataError: The file is cut short, is no tar, or holds something else than samples in the contract's form, or
            than what is stated.
    """
    rows = _stated_rows(shard, stats) if stats else {}
    missing = set(rows)
    with open_shard(shard) as file:
        for entry, metadata in _read_samples(shard, file, {*stated, *([stats.num_samples] if stats else [])}):
            if rows:
                entry = _as_stated(entry, rows.get(entry.key, {}))
                missing.discard(entry.key)
            yield entry, metadata
    if missing:
        raise _not_as_stated(shard, min(missing))


def _stated_rows(shard: Path, stats: ShardStats) -> dict[str, Mapping[str, Any]]:
    try:
        return {str(row["key"]): row for row in stats.samples}
    except (KeyError, TypeError) as error:
        raise DataError(f"{stats_path(shard)} is not the stats file of {shard.name}", "remove it") from error


def _as_stated(entry: Entry, row: Mapping[str, Any]) -> Entry:
    """Return a sample with the hash that its image must have."""
    sha256 = row.get("sha256")
    if row.get("label") != entry.label or not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise _not_as_stated(entry.shard, entry.key)
    return replace(entry, sha256=bytes.fromhex(sha256))


def stream_shard(shard: Path, stated: Collection[int] = ()) -> Iterator[tuple[Entry, dict[str, Any], bytes]]:
    """Yield every sample with its metadata and its encoded image, in one pass over the file; see `index_shard`."""
    with open_shard(shard) as file:
        for entry, metadata in _read_samples(shard, file, stated):
            file.seek(entry.offset)
            yield entry, metadata, file.read(entry.length)


def _read_samples(shard: Path, file: IO[bytes], stated: Collection[int]) -> Iterator[tuple[Entry, dict[str, Any]]]:
    count = 0
    for key, members in walk_samples(shard, file, _refuse):
        count += 1
        yield read_sample(shard, file, key, members)
    if wrong := set(stated) - {count}:
        raise DataError(
            f"{shard} holds {count} samples, but {wrong.pop()} are stated", "synthmed verify says which file is wrong"
        )


@contextlib.contextmanager
def open_shard(shard: Path) -> Iterator[IO[bytes]]:
    """Open a shard for reading.

    Raises:
        DataError: It is no file, or the disk or store fails, also later while the block runs.
    """
    with naming_read_errors(shard):
        # Opening a pipe would wait for ever.
        if file_size(shard) is None and shard.exists():
            raise DataError(f"cannot read {shard}: it is not a file")
        with open_to_read(shard) as file:
            yield file


def walk_samples(
    shard: Path, file: IO[bytes], report: Callable[[DataError], object]
) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield (key, extension -> member) of every sample, in the order of the file.

    Args:
        shard: To name it in errors.
        file: The open shard.
        report: Called with what is wrong about one member, which is then left out; it may raise.

    Raises:
        DataError: The file is not a whole tar.
    """
    key, members, empty = "", dict[str, Member](), True
    for info in walk_tar(shard, file):
        if info.isdir():
            continue
        empty, match = False, _MEMBER.fullmatch(info.name)
        if match is None or (problem := _member_problem(info, match)):
            problem = "is not named <key>.<extension>" if match is None else problem
            report(DataError(f"{shard}: member {info.name[:200]!r} {problem}", "synthmed pack passes over such files"))
            continue
        extension = match["extension"].lower()
        if match["key"] != key:
            if key:
                yield key, members
            key, members = match["key"], {}
        if extension in members:
            report(DataError(f"{shard} holds {info.name} twice"))
            continue
        members[extension] = Member(info.offset_data, info.size, info.offset, info.name)
    if key:
        yield key, members
    if empty:
        report(DataError(f"{shard} holds no samples"))


def _refuse(error: DataError) -> NoReturn:
    raise error


def _member_problem(info: tarfile.TarInfo, match: re.Match[str]) -> str:
    """Return why a member is none of a sample; empty where all is well."""
    if not info.isreg() or info.issparse():
        return "is not a plain file"
    if match["extension"].lower().rpartition(".")[2] in CODE_EXTENSIONS:
        return "may be code that another reader would run"
    if _OUTSIDE.match(info.name) or not info.name.isprintable() or len(info.name) > MAX_NAME:
        return "is not named <key>.<extension>: it leads elsewhere, is too long or cannot be printed"
    return ""


def read_sample(shard: Path, file: IO[bytes], key: str, members: Mapping[str, Member]) -> tuple[Entry, dict[str, Any]]:
    """Return where a sample's image lies, its label and its metadata.

    Raises:
        DataError: Not one image and a label, or a member is too large or not what its name says.
    """
    images = [extension for extension in IMAGE_EXTENSIONS if extension in members]
    if len(images) != 1 or "cls" not in members:
        problem = f"{shard}: sample {key} needs one image and a .cls, but holds: {', '.join([*members][:10])}"
        raise DataError(problem, _sample_remedy(members))
    extension = images[0]
    image = members[extension]
    if image.size > MAX_IMAGE_BYTES:
        raise DataError(f"{shard}: {key}.{extension} has {image.size} bytes", f"at most {MAX_IMAGE_BYTES}")
    label = _parse_label(shard, key, _read_member(shard, file, key, members, "cls", MAX_LABEL_BYTES))
    metadata: dict[str, Any] = {}
    if "json" in members:
        metadata = _parse_metadata(shard, key, _read_member(shard, file, key, members, "json", MAX_JSON_BYTES))
    if not image.size:
        raise DataError(f"{shard}: {key}.{extension} is empty")
    return Entry(shard, key, image.offset, image.size, extension, label, plain_text(metadata.get("group"))), metadata


def _sample_remedy(members: Mapping[str, Member]) -> str | None:
    if any("." in extension for extension in members):
        return "a key holds no dot: all behind the first one is the extension"
    return "synthmed pack makes shards of these, with the label in the .json" if "json" in members else None


def _read_member(
    shard: Path, file: IO[bytes], key: str, members: Mapping[str, Member], extension: str, limit: int
) -> bytes:
    member = members[extension]
    if member.size > limit:
        raise DataError(f"{shard}: {key}.{extension} has {member.size} bytes", f"at most {limit}")
    file.seek(member.offset)
    return file.read(member.size)


def _parse_label(shard: Path, key: str, data: bytes) -> int:
    text = data.decode("ascii", "replace").strip()
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) >= MAX_CLASSES:
        raise DataError(f"{shard}: {key}.cls is not a label: {text!r}", f"an integer from 0 to {MAX_CLASSES - 1}")
    return int(text)


def _parse_metadata(shard: Path, key: str, data: bytes) -> dict[str, Any]:
    metadata = parse_json(data, f"{shard}: {key}.json")
    if not isinstance(metadata, dict):
        raise DataError(f"{shard}: {key}.json is not an object")
    return metadata


def sample_kind(metadata: Mapping[str, Any]) -> str:
    """Return real, phantom or synthetic, as a sample's metadata say; empty where they do not."""
    synthetic = metadata.get("synthetic")
    if not isinstance(synthetic, bool):
        return ""
    if not synthetic:
        return "real"
    return "phantom" if metadata.get("generator") == "phantom" else "synthetic"


def plain_text(value: object) -> str:
    """Return a value from a `.json` as text that can be printed; empty where it is neither text nor number."""
    return printable(str(value)) if isinstance(value, str | int | float) else ""
