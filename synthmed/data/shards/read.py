"""Reading shards, ours or anybody else's in the contract's form: where every image lies, and what belongs to it.

Nothing is unpacked: the tar headers are walked once, and an image is read from its place in the file. Whatever a folder
holds, it can only raise a DataError that names the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from synthmed.data.datasets import check_dataset_name
from synthmed.data.labels import MAX_NAME, Classes
from synthmed.data.shards.plan import RUN_FILE, SPLITS
from synthmed.data.shards.samples import Entry, index_shard, plain_text, sample_kind
from synthmed.data.shards.side_files import stated_lengths
from synthmed.data.shards.write import read_stats
from synthmed.errors import DataError
from synthmed.files.content import hash_file, hash_json, read_json
from synthmed.files.storage import file_size, list_folder, naming_read_errors
from synthmed.runtime.progress import log

MAX_RUN_FILE_BYTES = 8 << 20
SHARD_PATTERN = re.compile(r"(?P<split>[A-Za-z0-9_]+)-(?P<number>[0-9]{1,9})\.tar")


@dataclass(frozen=True)
class ShardFolder:
    """One split of a folder of shards."""

    folder: Path
    split: str
    dataset: str | None
    """None where the folder does not say."""
    classes: Classes
    kind: str | None
    """real, phantom (drawn) or synthetic (by a trained model); None where neither folder nor samples say."""
    entries: tuple[Entry, ...]
    content_hash: str
    """SHA-256 over the names and hashes of the shards, and over the labels where they are not those in the shards."""
    shard_hashes: Mapping[str, str] = field(default_factory=dict)
    """Name of each shard -> SHA-256, as its stats file states it, else computed."""

    @property
    def synthetic(self) -> bool | None:
        """Whether a trained model made the images; None if not known. Drawn phantoms stand in for real ones: False."""
        return None if self.kind is None else self.kind == "synthetic"

    def relabelled(self, classes: Classes, labels: Sequence[int | None]) -> ShardFolder:
        """Return the same samples under other classes.

        Args:
            classes: The new ones.
            labels: New label of each old one; `None` for those without samples.
        """
        if list(labels) == list(range(len(labels))):
            return replace(self, classes=classes)
        new = {old: label for old, label in enumerate(labels) if label is not None}
        entries = tuple(replace(entry, label=new[entry.label]) for entry in self.entries)
        # The same images under other labels are other training data.
        content = hash_json({"shards": self.content_hash, "labels": list(labels)})
        return replace(self, classes=classes, entries=entries, content_hash=content)


def open_folder(folder: Path, split: str) -> ShardFolder:
    """Return where all images of one split lie, without reading any of them.

    Class names come from `.synthmed/run.json`; a folder without it takes them from the samples' `label_name`.

    Args:
        folder: Holds `<split>-NNNNNN.tar`.
        split: train, validation or test.

    Raises:
        DataError: No such split, or a shard is not in the contract's form; the shard and the member are named.
    """
    shards, hashes = find_shards(folder, split), dict[str, str]()
    described = read_description(folder)
    stated = find_lengths(folder, split, shards)
    entries: list[Entry] = []
    names: dict[int, set[str]] = {}
    kinds: set[str] = set()
    for shard in shards:
        stats = read_stats(shard)
        for entry, metadata in index_shard(shard, stats, stated[shard]):
            entries.append(entry)
            if len(called := names.setdefault(entry.label, set())) < 2:
                called.add(plain_text(metadata.get("label_name"))[:MAX_NAME] or str(entry.label))
            kinds.add(sample_kind(metadata))
        hashes[shard.name] = stats.sha256 if stats else hash_file(shard)
    _check_unique(entries)
    classes = _read_classes(folder, described, names)
    kind = described.get("kind") or (kinds.pop() if len(kinds) == 1 else "") or None
    return ShardFolder(
        folder=folder,
        split=split,
        dataset=described.get("dataset"),
        classes=classes,
        kind=kind,
        entries=tuple(entries),
        content_hash=_content_hash(hashes),
        shard_hashes=hashes,
    )


def find_splits(folder: Path) -> list[str]:
    """Return the splits of which a folder has shards: train, validation, test, and other words after them."""
    found, others = _list_tars(folder)
    if found and others:
        log(f"{folder}: {len(others)} tars are passed over, not called SPLIT-NUMBER.tar: {others[0].name}")
    return sort_splits({split for split, _ in found})


def sort_splits(splits: Iterable[str]) -> list[str]:
    """Return splits in the order of SPLITS, then by name."""
    order = {split: place for place, split in enumerate(SPLITS)}
    return sorted(splits, key=lambda split: (order.get(split, len(order)), split))


def find_shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split in the order of their numbers.

    Raises:
        DataError: No such folder or split; the splits that there are, are named.
    """
    found, _ = _list_tars(folder)
    shards = [path for its_split, path in found if its_split == split]
    if not found:
        refuse_without_shards(folder)
    if not shards:
        splits = ", ".join(sort_splits({its_split for its_split, _ in found}))
        raise DataError(f"{folder} has no split {split!r}", f"there are: {splits}")
    return shards


def refuse_without_shards(folder: Path) -> NoReturn:
    """Say why there are no shards.

    Raises:
        DataError: Always.
    """
    with naming_read_errors(folder):
        tars = [path.name for path in list_folder(folder) if path.suffix == ".tar"]
        if file_size(folder) is not None:
            raise DataError(f"{folder} is a file", "give the folder of shards; synthmed pack makes one of a single tar")
    if not tars and not folder.is_dir():
        raise DataError(f"no such folder of shards: {folder}")
    if not tars:
        raise DataError(f"{folder} holds no shards", "see synthmed prepare --help")
    raise DataError(
        f"{folder} holds tars, but none is called SPLIT-NUMBER.tar, as train-000000.tar is; the first: {tars[0]}",
        f"synthmed pack {folder} -o OUT makes such shards of them",
    )


def find_lengths(folder: Path, split: str, shards: Iterable[Path]) -> dict[Path, list[int]]:
    """Return how many samples of each shard are stated beside the shards, nothing where that is not said.

    Raises:
        DataError: A shard is stated, but missing.
    """
    stated = stated_lengths(folder)
    found = {shard: [stated.pop(shard.name)] if shard.name in stated else [] for shard in shards}
    if missing := [name for name in stated if (match := SHARD_PATTERN.fullmatch(name)) and match["split"] == split]:
        raise DataError(
            f"{folder / missing[0]} is missing, in which {stated[missing[0]]} samples are stated",
            "make or fetch it again; synthmed verify names all that is wrong",
        )
    return found


def _list_tars(folder: Path) -> tuple[list[tuple[str, Path]], list[Path]]:
    """Return the split and path of all shards, by split and number, and the tars that are not called so, by name."""
    found, others = [], []
    with naming_read_errors(folder):
        for path in list_folder(folder):
            if match := SHARD_PATTERN.fullmatch(path.name):
                found.append((match["split"], int(match["number"]), path))
            elif path.suffix == ".tar":
                others.append(path)
    return [(split, path) for split, _, path in sorted(found)], others


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `.synthmed/run.json` says about the folder; nothing where it is another program's.

    Raises:
        DataError: The file does not describe a folder, or a field is not of its type.
    """
    path = folder / RUN_FILE
    with naming_read_errors(path):
        if file_size(path) is None:
            return {}
    run = read_json(path, MAX_RUN_FILE_BYTES)
    described = run.get("folder") if isinstance(run, dict) else None
    if not isinstance(described, dict) or not _is_description(described):
        raise DataError(
            f"{path} does not describe the folder", "remove it to have the class names read from the shards"
        )
    try:
        _described_classes(described, described.get("classes", ()))
        if "dataset" in described:
            check_dataset_name(described["dataset"])
    except DataError as error:
        raise DataError(f"{path} cannot be used: {error}") from error
    return described


def _described_classes(described: Mapping[str, Any], words: Iterable[str]) -> Classes:
    return Classes(tuple(words), described.get("aliases") or {}, described.get("positive") or None)


def _is_description(described: Mapping[str, Any]) -> bool:
    types: dict[str, Any] = {
        "kind": str,
        "dataset": str,
        "classes": list,
        "aliases": dict,
        "size": (int, list),
        "image_format": str,
    }
    if not all(isinstance(described[name], kind) for name, kind in types.items() if name in described):
        return False
    aliases = described.get("aliases", {})
    words = [*described.get("classes", []), *aliases, *aliases.values(), described.get("positive") or ""]
    texts = [*words, described.get("dataset", ""), described.get("image_format", "")]
    known_kind = described.get("kind", "real") in ("real", "phantom", "synthetic")
    size = described.get("size", 0)
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    known_size = all(isinstance(side, int) and side >= 0 for side in sides)
    return known_kind and known_size and all(isinstance(text, str) and text.isprintable() for text in texts)


def _read_classes(folder: Path, described: Mapping[str, Any], names: Mapping[int, set[str]]) -> Classes:
    """Return the classes that the folder describes, else those that its samples name.

    Args:
        folder: To name it in errors.
        described: What `.synthmed/run.json` says.
        names: Label -> what samples call its class.
    """
    words = described.get("classes") or _class_names(names)
    if max(names) >= len(words):
        raise DataError(f"{folder} holds the label {max(names)}, but has {len(words)} classes: {', '.join(words):.500}")
    return _described_classes(described, words)


def _class_names(names: Mapping[int, set[str]]) -> list[str]:
    """Return what samples call the classes, or the labels as words where they do not agree."""
    labels = range(max(names) + 1)
    words = [min(names.get(label, {str(label)})) for label in labels]
    consistent = all(len(found) == 1 for found in names.values()) and len(set(words)) == len(words)
    return words if consistent else [str(label) for label in labels]


def _check_unique(entries: Iterable[Entry]) -> None:
    seen: dict[str, Path] = {}
    for entry in entries:
        if entry.key in seen:
            raise DataError(f"the key {entry.key} stands twice: in {seen[entry.key]} and in {entry.shard}")
        seen[entry.key] = entry.shard
    if not seen:
        raise DataError("the shards hold no samples")


def _content_hash(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {sha256}\n" for name, sha256 in hashes.items()).encode()).hexdigest()
