"""One shard against the shard contract: every member is read, every image decoded; what is wrong is named."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from synthmed.data.images import SHARD_KINDS, check_checksums, decode_image, detect_format
from synthmed.data.shards.plan import KEY_PATTERN
from synthmed.data.shards.samples import Entry, Member, open_shard, read_sample, sample_kind, walk_samples
from synthmed.data.shards.write import ShardStats
from synthmed.data.verify.findings import Findings, show
from synthmed.errors import DataError
from synthmed.files.content import hash_file

USTAR_MAGIC = b"ustar\x0000"
PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)

NAME_RULE = "some readers need keys of letters, digits, - and _, at most 90, and extensions in lower case"

Form = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]
"""Extensions of a sample, and the keys of its `.json` with their types."""


@dataclass(frozen=True)
class Stated:
    """What a folder says of all its samples; None, 0 or empty where it does not."""

    kind: str | None
    classes: tuple[str, ...]
    size: tuple[int, int]
    """Height and width."""
    image_format: str

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> Stated:
        """Return it from `.synthmed/run.json`."""
        size = described.get("size", 0)
        height, width = size if isinstance(size, list) else (size, size)
        classes = tuple(described.get("classes", ()))
        return cls(described.get("kind"), classes, (height, width), described.get("image_format", ""))


@dataclass(frozen=True, slots=True)
class FoundSample:
    """A sample as it is in its shard."""

    shard: str
    label: int
    sha256: str
    """Of the image's bytes."""


@dataclass
class FoundShard:
    """A shard as it is."""

    path: Path
    split: str
    size: int = 0
    sha256: str = ""
    samples: dict[str, FoundSample] = field(default_factory=dict)
    """In the order of the file."""
    forms: Counter[Form] = field(default_factory=Counter)
    first_of_form: dict[Form, str] = field(default_factory=dict)
    """Form -> the first key that has it."""
    findings: Findings = field(default_factory=Findings)

    def stats(self) -> ShardStats:
        """Return what the shard's stats file should say, but for the samples."""
        counts = Counter(str(sample.label) for sample in self.samples.values())
        return ShardStats(self.path.name, len(self.samples), dict(counts), self.sha256, self.size, [])

    def report(self, problem: str | DataError) -> None:
        """Note what is wrong; the shard's path, with which an error may begin, is not repeated."""
        text = str(problem).removeprefix(str(self.path)).lstrip(": ")
        self.findings.add(self.path.name, text)


def check_shard(path: Path, split: str, stated: Stated, advance: Callable[[int], object]) -> FoundShard:
    """Return what a shard holds and what is wrong with it.

    Args:
        path: The shard.
        split: The word in its name.
        stated: What its samples should be.
        advance: Called with the number of bytes just read.
    """
    found = FoundShard(path, split)
    try:
        with open_shard(path) as file:
            found.size, found.sha256 = path.stat().st_size, hash_file(path)
            checker = _SampleChecker(found, stated, file)
            done = 0
            for key, members in walk_samples(path, file, found.report):
                checker.check(key, members)
                end = max(member.offset + member.size for member in members.values())
                advance(end - done)
                done = end
            advance(found.size - done)
    except DataError as error:
        found.report(error)
    return found


@dataclass
class _SampleChecker:
    """Checks one sample after the other; what would be said of every sample is said of the first."""

    found: FoundShard
    stated: Stated
    file: IO[bytes]
    last_name: str = ""
    said: set[str] = field(default_factory=set)

    def check(self, key: str, members: Mapping[str, Member]) -> None:
        found, shard = self.found, self.found.path
        self._check_members(key, members)
        try:
            entry, metadata = read_sample(shard, self.file, key, members)
            data = self._read(entry)
            sample = FoundSample(shard.name, entry.label, hashlib.sha256(data).hexdigest())
            if found.samples.setdefault(key, sample) is not sample:
                found.report(f"sample {key} stands twice")
            self._check_metadata(entry, metadata)
            self._check_image(entry, data)
        except DataError as error:
            found.report(error)
            return
        form = tuple(members), tuple(sorted((name, _type_name(value)) for name, value in metadata.items()))
        found.forms[form] += 1
        found.first_of_form.setdefault(form, key)

    def _check_members(self, key: str, members: Mapping[str, Member]) -> None:
        for extension, member in members.items():
            name = member.name
            if not KEY_PATTERN.fullmatch(key) or name != f"{key}.{extension}":
                self._say_once("key", f"{name}: {NAME_RULE}; synthmed pack makes such names")
            if name <= self.last_name:
                self._say_once("sorted", f"members are not sorted: {name} after {self.last_name}")
            self.last_name = name
            self.file.seek(member.header)
            header = self.file.read(tarfile.BLOCKSIZE)
            if header[257:265] != USTAR_MAGIC or header[156:157] not in PLAIN_TYPES:
                self._say_once("ustar", f"{name} is not plain USTAR: PAX or GNU headers; rewrite with format=USTAR")

    def _say_once(self, about: str, problem: str) -> None:
        if about not in self.said:
            self.said.add(about)
            self.found.report(problem)

    def _read(self, entry: Entry) -> bytes:
        self.file.seek(entry.offset)
        return self.file.read(entry.length)

    def _check_metadata(self, entry: Entry, metadata: Mapping[str, Any]) -> None:
        classes, label = self.stated.classes, entry.label
        if classes and label >= len(classes):
            self.found.report(f"{entry.key}.cls is {label}, but there are {len(classes)} classes")
        wanted: dict[str, Any] = {"label": label}
        if label < len(classes):
            wanted |= {"label_name": classes[label], "split": self.found.split}
        for name, value in wanted.items():
            if name in metadata and metadata[name] != value:
                self.found.report(f"{entry.key}.json: {name} is {show(metadata[name])}, but should be {show(value)}")
        for name, value in metadata.items():
            if value is None or value in ([], {}):
                self.found.report(f"{entry.key}.json: {show(name)} is empty")
        kind = sample_kind(metadata)
        if kind and self.stated.kind and kind != self.stated.kind:
            self.found.report(f"{entry.key}.json says {kind}, but the folder is {self.stated.kind}")

    def _check_image(self, entry: Entry, data: bytes) -> None:
        name = f"{entry.key}.{entry.extension}"
        height, width = decode_image(data, name, kinds=SHARD_KINDS).shape[:2]
        check_checksums(data, name)
        size, stated_format = self.stated.size, self.stated.image_format
        if any(size) and (height, width) != size:
            self.found.report(f"{name} has {width} x {height} pixels, but {size[1]} x {size[0]} are stated")
        if stated_format and entry.extension != stated_format:
            self.found.report(f"{name} is not {stated_format}, the folder's image format")
        if detect_format(data) != entry.extension.replace("jpeg", "jpg"):
            self.found.report(f"{name} is not what its extension says, but {detect_format(data) or 'something else'}")


_TYPE_NAMES = {str: "text", bool: "bool", int: "int", float: "float", list: "list", dict: "object"}


def _type_name(value: object) -> str:
    return _TYPE_NAMES.get(type(value), "null")
