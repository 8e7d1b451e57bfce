"""Writing shards: names, keys, the plan of how many, the order of classes, and tars that appear whole.

A shard is a plain USTAR file with the members `<key>.cls`, `<key>.json`, `<key>.<image extension>` of one sample after
the other, sorted by name. Its stats file in `.synthmed` is written after it and means that the shard is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from synthmed.data.shards.plan import KEY_PATTERN, stats_path
from synthmed.errors import DataError
from synthmed.files.atomic import atomic_path, write_bytes
from synthmed.files.content import read_json
from synthmed.files.storage import file_size, is_remote, naming_read_errors, naming_write_errors, read_range

WRITE_BYTES = 1 << 20
MAGIC_PLACE = 257, 5  # offset and length of the word by which a tar is known

MetadataValue = str | int | float | bool


@dataclass(frozen=True)
class Sample:
    """One image with what is known about it, ready to be written."""

    key: str
    image: bytes
    """Encoded image."""
    extension: str
    """png, webp or jpg."""
    label: int
    metadata: dict[str, MetadataValue]
    """The `.json` member: the same keys and types in every sample of a folder, nothing empty."""


@dataclass(frozen=True)
class ShardStats:
    """What a finished shard holds, as its stats file says."""

    shard: str
    num_samples: int
    class_counts: dict[str, int]
    """Label as text -> samples."""
    sha256: str
    """Of the tar."""
    size: int
    """Of the tar in bytes."""
    samples: list[dict[str, Any]]
    """Rows of the manifest: key, shard, label, the SHA-256 of the image's bytes, and the metadata."""


def read_stats(shard: Path) -> ShardStats | None:
    """Return the stats of a finished shard; None where one of both is missing, the sizes differ or the shard is no tar.

    Raises:
        DataError: The stats file is not one of ours.
    """
    path = stats_path(shard)
    with naming_read_errors(shard):
        size = file_size(shard)
        if size is None or file_size(path) is None:
            return None
        # A power cut may leave a file of the right size without its content, which no store does.
        if not is_remote(shard) and read_range(shard, *MAGIC_PLACE) != b"ustar":
            return None
    found = read_json(path)
    if not (isinstance(found, dict) and _are_stats(found) and found["shard"] == shard.name):
        raise DataError(f"{path} is not the stats file of {shard.name}", "delete it to have the shard written again")
    return ShardStats(**found) if found["size"] == size else None


def _are_stats(found: dict[str, Any]) -> bool:
    types = {"shard": str, "num_samples": int, "class_counts": dict, "sha256": str, "size": int, "samples": list}
    if found.keys() != types.keys() or not all(isinstance(found[name], kind) for name, kind in types.items()):
        return False
    return all(isinstance(number, int) for number in found["class_counts"].values())


class _FinishedMeanwhile(Exception):
    """Ends the writing of a shard that another process has finished."""


def write_shard(path: Path, samples: Iterable[Sample]) -> ShardStats:
    """Write one shard and then its stats file, neither of which is ever seen half-written.

    What another process of the same command has finished meanwhile stays as it is: it may be reading it already.

    Args:
        path: Final name of the tar; a stats file of another tar beside it is removed first.
        samples: Taken one at a time, in the order of their keys.

    Raises:
        ValueError: A key breaks the contract, or the keys do not ascend.
    """
    with naming_write_errors(path):
        if file_size(stats_path(path)) is not None and read_stats(path) is None:
            stats_path(path).unlink(missing_ok=True)
    finished = None
    with contextlib.suppress(_FinishedMeanwhile), atomic_path(path) as part:
        rows = _write_tar(part, path.name, samples)
        with open(part, "rb") as file:  # one that is gone is no bad input, as `hash_file` would have it
            sha256, size = hashlib.file_digest(file, "sha256").hexdigest(), part.stat().st_size
        if (finished := read_stats(path)) is not None:
            raise _FinishedMeanwhile
    if finished is not None:
        return finished
    counts = Counter(str(row["label"]) for row in rows)
    stats = ShardStats(path.name, len(rows), dict(sorted(counts.items())), sha256, size, rows)
    # Neither indented nor copied: for thousands of rows that would take longer than writing the images.
    write_bytes(stats_path(path), json.dumps(vars(stats), sort_keys=True).encode() + b"\n")
    return stats


def _write_tar(part: Path, name: str, samples: Iterable[Sample]) -> list[dict[str, Any]]:
    with (
        open(part, "wb", buffering=WRITE_BYTES) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        archive.copybufsize = WRITE_BYTES  # type: ignore[attr-defined]
        return [{**row, "shard": name} for row in append_samples(archive, samples)]


def append_samples(archive: tarfile.TarFile, samples: Iterable[Sample]) -> Iterator[dict[str, Any]]:
    """Append samples to a tar, and yield the manifest row of each when it is written.

    Raises:
        ValueError: A key breaks the contract, or the keys do not ascend.
    """
    previous = ""
    for sample in samples:
        _check_key(sample.key, previous)
        previous = sample.key
        members = {
            "cls": str(sample.label).encode(),
            "json": json.dumps(sample.metadata, sort_keys=True).encode(),
            sample.extension: sample.image,
        }
        for extension in sorted(members):
            _add_member(archive, f"{sample.key}.{extension}", members[extension])
        sha256 = hashlib.sha256(sample.image).hexdigest()
        yield {**sample.metadata, "key": sample.key, "label": sample.label, "sha256": sha256}


def _check_key(key: str, previous: str) -> None:
    if not KEY_PATTERN.fullmatch(key):
        raise ValueError(f"not a key of the shard contract: {key!r}")
    # Members must be sorted: the writer's caller makes keys that ascend in the order it wants.
    if key <= previous:
        raise ValueError(f"keys must ascend within a shard: {key!r} after {previous!r}")


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    # TarInfo's defaults are mtime, uid and gid 0, no names of user and group, mode 0644: the same on every machine.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_lines(file: IO[bytes], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines with a fixed key order."""
    for row in rows:
        file.write((json.dumps(row, sort_keys=True) + "\n").encode())
