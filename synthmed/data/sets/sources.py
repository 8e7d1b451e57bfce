"""Where the images of a set come from: a split of shards, or a folder, zip or tar of images with labels.

A listing says what a source holds before any image is opened, and gives each image when asked.
"""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from synthmed.data.images import ImageArray, decode_image
from synthmed.data.labels import Classes
from synthmed.data.pack.labels import read_labels
from synthmed.data.pack.sources import open_source
from synthmed.data.shards.read import SHARD_PATTERN, ShardFolder, find_splits, open_folder
from synthmed.data.shards.samples import Entry, read_image_bytes
from synthmed.errors import DataError, UsageError
from synthmed.files.storage import is_remote, location
from synthmed.runtime.progress import log, printable


@dataclass(frozen=True, eq=False)
class Listing:
    """What a source says about its images, in its own order."""

    name: str
    """What tables call it unless they are told otherwise."""
    kind: str | None
    dataset: str | None
    split: str | None
    classes: Classes
    labels: Sequence[int]
    keys: Sequence[str]
    groups: Sequence[str]
    read: Callable[[int], bytes]
    """Encoded image at an index."""
    title: Callable[[int], str]
    """What errors call the image at an index."""
    min_side: int = 1
    """In pixels; smaller images are refused."""

    def __len__(self) -> int:
        return len(self.keys)

    def pixels(self, index: int) -> ImageArray:
        """Return one image [H, W, 3], of whatever size it has.

        Raises:
            DataError: It cannot be read, is broken or is too small.
        """
        image = decode_image(self.read(index), self.title(index))
        height, width = image.shape[:2]
        if min(height, width) < self.min_side:
            raise DataError(
                f"{self.title(index)} has {width} x {height} pixels",
                f"at least {self.min_side} on each side are needed",
            )
        return image


def list_shards(shards: ShardFolder) -> Listing:
    """Return the images of one split of shards. The listing can be handed to other processes."""
    entries = shards.entries
    return Listing(
        name=shards.folder.name or shards.folder.resolve().name,
        kind=shards.kind,
        dataset=shards.dataset,
        split=shards.split,
        classes=shards.classes,
        labels=[entry.label for entry in entries],
        keys=[entry.key for entry in entries],
        groups=[entry.group for entry in entries],
        read=functools.partial(_read_entry, entries),
        title=functools.partial(_entry_title, entries),
    )


def _read_entry(entries: Sequence[Entry], index: int) -> bytes:
    return read_image_bytes(entries[index])


def _entry_title(entries: Sequence[Entry], index: int) -> str:
    entry = entries[index]
    return f"{entry.shard}: {entry.key}.{entry.extension}"


def list_images(
    where: str, *, split: str | None = None, classes: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Listing:
    """Return the images of any place.

    Args:
        where: `PLACE` or, of shards, `PLACE:SPLIT`; PLACE may be an address such as s3://bucket/folder.
        split: The one to take where `where` names none and the shards have several.
        classes: Class names in label order, for files that name none or other ones; see `data.pack.labels.read_labels`.
        exclude: Shell patterns of files and folders to pass over; see `data.names.excluded_by`.

    Raises:
        UsageError: `classes` do not fit, or the address cannot be used.
        DataError: No such place or split, several splits and none named, no images, or no labels.
    """
    place, named = split_place(where)
    splits = find_splits(place)
    if not splits and not is_remote(place):
        return _list_files(place, named, classes, exclude)
    chosen = named or _only_split(place, splits, split)
    listing = list_shards(open_folder(place, chosen))
    return listing if len(splits) < 2 else replace(listing, name=f"{listing.name}:{chosen}")


def split_place(where: str) -> tuple[Path, str | None]:
    """Return place and split of `PLACE:SPLIT`; the split is `None` where none is named.

    The last colon counts, and only where no part of a path follows it: neither the one of `s3://` nor that of a port,
    nor one in the name of an existing folder.
    """
    place, colon, split = where.rpartition(":")
    authority = place.rpartition("/")[0].endswith(":/") and split.isdigit()  # http://host:9000
    if not colon or not place or "/" in split or authority or ("://" not in where and os.path.exists(where)):
        return location(where), None
    if not split:
        raise UsageError(f"no split is named behind the colon: {where}", "e.g. shards:test")
    return location(place), split


def _only_split(place: Path, splits: Sequence[str], default: str | None) -> str:
    if default in splits:
        return str(default)
    if len(splits) > 1:
        raise DataError(f"{place} has several splits: {', '.join(splits)}", f"name one, e.g. {place}:{splits[0]}")
    return splits[0] if splits else default or "train"


def _list_files(place: Path, split: str | None, classes: Sequence[str], exclude: Sequence[str]) -> Listing:
    if (shard := SHARD_PATTERN.fullmatch(place.name)) and place.is_file():
        raise DataError(f"{place} is one shard", f"give the folder it lies in: {place.parent}:{shard['split']}")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(place, exclude))
        if split is not None:
            raise DataError(f"{place} holds no shards, so no split {split!r}", "give the folder of that split itself")
        labels = read_labels(source, classes)
        if not labels.labels:
            raise DataError(f"{place} holds none of the images that are listed{source.explain()}")
        # An archive stays open for as long as its images may be asked for.
        open_archive = stack.pop_all()
    names = sorted(labels.labels)
    if problems := [*source.problems, *labels.problems]:
        log(f"{place}: {len(problems)} images are not used, e.g. {problems[0].source}: {problems[0].detail}")
    for note in source.notes():
        log(f"{place}: {note}")
    if labels.num_unlisted:
        log(f"{place}: {labels.num_unlisted} images are not listed and are not used")

    def read(index: int) -> bytes:
        return source.read(names[index])

    weakref.finalize(read, open_archive.close)
    return Listing(
        name=printable(place.name or place.resolve().name),
        kind=None,
        dataset=None,
        split=None,
        classes=labels.classes,
        labels=[labels.labels[name] for name in names],
        keys=names,
        groups=[labels.groups.get(name, "") for name in names],
        read=read,
        title=lambda index: f"{place}: {names[index]}",
    )
