"""What a folder of shards holds, how loader workers share it, and a sheet of samples to look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synthmed.data.images import SHARD_KINDS, ImageArray, decode_image, encode_image, resize_image
from synthmed.data.labels import Classes
from synthmed.data.shards.plan import RUN_FILE, SPLITS
from synthmed.data.shards.read import ShardFolder, find_splits, open_folder
from synthmed.data.shards.samples import Entry, index_shard, plain_text, read_image_bytes
from synthmed.data.sheets import contact_sheet
from synthmed.errors import DataError
from synthmed.files.content import read_json

MAX_FACTS = 40
SHEET_COLUMNS = 8
MAX_SHEET_ROWS = 24
MAX_SHEET_SIDE = 256
# Metadata of a single sample, which say nothing about how the folder was made.
_OF_ONE_SAMPLE = {"label", "label_name", "split", "group", "source", "index", "key", "cup_to_disc"}


@dataclass(frozen=True)
class ReaderShare:
    """How the shards of a split are shared by its readers, each of which takes every `readers`-th shard."""

    shards: int
    readers: int
    """Loader workers times ranks."""
    idle: int
    """Readers without a shard."""
    fewest: int
    """Samples of a reader."""
    most: int
    epoch: int
    """Images in one training epoch of timm, which takes equally many from every reader that has any."""
    reached: int
    """Different samples among them."""
    samples: int

    def warning(self) -> str:
        """Return what is wrong with the share; empty where every sample is read once."""
        if self.shards % self.readers == 0:
            return ""
        cause = f"{self.shards} shards do not divide by {self.readers} readers"
        effect = f"{self.idle} get none" if self.idle else f"they hold {self.fewest} to {self.most} samples"
        return (
            f"{cause}: {effect}; an epoch of {self.epoch} images of timm shows {self.reached} of {self.samples} samples"
        )


@dataclass(frozen=True)
class SplitSummary:
    """One split in numbers."""

    counts: Mapping[str, int]
    """Class -> samples."""
    shard_lengths: tuple[int, ...]
    groups: int
    """Patients or other units; 0 where the samples name none."""
    size: int
    """Of the shards in bytes."""


@dataclass(frozen=True)
class FolderSummary:
    """What a folder of shards holds."""

    folder: str
    kind: str | None
    """real, phantom or synthetic; None where it does not say."""
    dataset: str | None
    classes: Classes
    splits: Mapping[str, SplitSummary]
    image_formats: tuple[str, ...]
    width: int
    """Of the first image in pixels, as height."""
    height: int
    made: Mapping[str, str]
    """How it was made: the settings of our own folders, for others the metadata of the first sample."""


def summarise_folder(folder: Path, split: str | None = None) -> tuple[FolderSummary, list[ShardFolder]]:
    """Return what a folder holds, and its opened splits.

    Args:
        folder: Of shards in the contract's form.
        split: Look at this one alone.

    Raises:
        DataError: No such folder or split, or a shard is not in the contract's form.
    """
    opened = [open_folder(folder, name) for name in ([split] if split else find_splits(folder) or SPLITS[:1])]
    first = opened[0]
    image = _decode(first.entries[0])
    # A file that lost its end may lack a part of its last image alone.
    for last in {entry.shard: entry for each in opened for entry in each.entries}.values():
        _decode(last)
    summary = FolderSummary(
        folder=str(folder),
        kind=first.kind,
        dataset=first.dataset,
        classes=max((each.classes for each in opened), key=len),
        splits={each.split: _summarise_split(each) for each in opened},
        image_formats=tuple(sorted({entry.extension for each in opened for entry in each.entries})),
        width=image.shape[1],
        height=image.shape[0],
        made=dict(_made(folder, first.entries[0])),
    )
    return summary, opened


def _summarise_split(folder: ShardFolder) -> SplitSummary:
    labels = Counter(entry.label for entry in folder.entries)
    lengths = Counter(entry.shard for entry in folder.entries)
    return SplitSummary(
        counts={name: labels[label] for label, name in enumerate(folder.classes)},
        shard_lengths=tuple(lengths.values()),
        groups=len({entry.group for entry in folder.entries} - {""}),
        size=sum(shard.stat().st_size for shard in lengths),
    )


def share_shards(lengths: Sequence[int], *, workers: int, ranks: int, batch_size: int) -> ReaderShare:
    """Return how loader workers share shards.

    Of timm (`ReaderWds`): every reader takes ceil(samples / readers), rounded up to whole batches, from its own shards,
    beginning again where they hold fewer.

    Args:
        lengths: Samples of each shard.
        workers: Loader workers of a rank.
        ranks: Training processes.
        batch_size: Of one rank.
    """
    readers = workers * ranks
    held = [sum(lengths[reader::readers]) for reader in range(readers)]
    taken = math.ceil(math.ceil(sum(lengths) / readers) / batch_size) * batch_size
    return ReaderShare(
        shards=len(lengths),
        readers=readers,
        idle=sum(not samples for samples in held),
        fewest=min(held),
        most=max(held),
        epoch=taken * sum(samples > 0 for samples in held),
        reached=sum(min(samples, taken) for samples in held),
        samples=sum(lengths),
    )


def _made(folder: Path, entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of what is known about how the samples were made."""
    path = folder / RUN_FILE
    if path.is_file():
        facts = {name: value for name, value in read_json(path).items() if name not in ("folder", "counts")}
    else:
        metadata = next(metadata for found, metadata in index_shard(entry.shard) if found.key == entry.key)
        facts = {name: value for name, value in metadata.items() if name not in _OF_ONE_SAMPLE}
    for index, (name, value) in enumerate(_leaves(facts)):
        if index < MAX_FACTS and (text := plain_text(value)):
            yield plain_text(name)[:100], text[:200]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of all that is no object."""
    for name, inner in value.items():
        if isinstance(inner, dict) and prefix.count(".") < 4:
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def encode_sheet(folder: ShardFolder) -> bytes:
    """Return a PNG with a row of samples for each class; of synthetic images it says that it is synthetic.

    Raises:
        DataError: An image is broken.
    """
    drawn = folder.kind == "phantom"
    return encode_image(
        _draw_sheet(folder),
        "png",
        synthetic=drawn or folder.kind == "synthetic",
        digital_source="algorithmicMedia" if drawn else "trainedAlgorithmicMedia",
    )


def _draw_sheet(folder: ShardFolder) -> ImageArray:
    """Return the sheet; the samples are taken at even distances over the split."""
    by_class: dict[int, list[Entry]] = {}
    for entry in folder.entries:
        by_class.setdefault(entry.label, []).append(entry)
    rows, titles = [], []
    for label, entries in sorted(by_class.items())[:MAX_SHEET_ROWS]:
        count = min(SHEET_COLUMNS, len(entries))
        chosen = [entries[index * len(entries) // count] for index in range(count)]
        rows.append([_decode(entry) for entry in chosen])
        titles.append(f"{label} {folder.classes[label]}: {len(entries)} of {len(folder.entries)} in {folder.split}")
    side = min(MAX_SHEET_SIDE, max(rows[0][0].shape[:2]))
    blank = np.full((side, side, 3), 32, dtype=np.uint8)
    cells = [
        resize_image(row[column], side, "crop") if column < len(row) else blank
        for row in rows
        for column in range(SHEET_COLUMNS)
    ]
    # The sheet's font has no letters beyond ASCII.
    plain = [title.encode("ascii", "replace").decode() for title in titles]
    return contact_sheet(np.stack(cells), SHEET_COLUMNS, row_titles=plain)


def _decode(entry: Entry) -> ImageArray:
    name = f"{entry.shard}: {entry.key}.{entry.extension}"
    try:
        return decode_image(read_image_bytes(entry), name, kinds=SHARD_KINDS)
    except DataError as error:
        raise DataError(str(error), f"synthmed verify {entry.shard.parent} names all that is wrong") from error
