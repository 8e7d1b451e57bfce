"""The images of one side of a comparison, wherever they lie: a split of shards, or a folder, zip or tar of images.

Opening decodes every image once, on all cores: a broken one is found before anything is computed. Images stand in the
order of their pixels' hashes, not of their files, so that the same images give the same set, and everything random
drawn from it, whether they come as shards or as files.

images: uint8 [N, 3, H, W]; labels: int64 [N].
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

import synthmed
from synthmed.data.images import ImageArray, decode_image, resize_image
from synthmed.data.labels import Classes
from synthmed.data.pack.labels import read_labels
from synthmed.data.pack.sources import open_source
from synthmed.data.prepare.scan import MIN_SIDE, default_workers, hash_pixels, map_ordered
from synthmed.data.shards.read import SHARD_PATTERN, find_splits, open_folder
from synthmed.data.shards.samples import read_image_bytes
from synthmed.errors import DataError, UsageError
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_json, read_json
from synthmed.files.storage import is_remote, location
from synthmed.runtime.progress import log, progress

CACHE_BYTES = 1 << 29
Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one side of a comparison."""

    name: str
    """As tables show it."""
    kind: str | None
    """real, phantom or synthetic; `None` where the source does not say."""
    dataset: str | None
    split: str | None
    classes: Classes
    labels: NDArray[np.int64]
    """[N]."""
    keys: tuple[str, ...]
    """[N], unique in the set: keys of shards, paths of files."""
    groups: tuple[str, ...]
    """[N], patient or other unit; empty where it is not known."""
    size: Size
    """Height and width of all images once loaded."""
    pixel_hashes: tuple[str, ...]
    """[N], hex SHA-256 of each image as `load` gives it: equal ones are copies to the bit, also in another set."""
    _reader: _Reader = field(repr=False)
    _positions: NDArray[np.int64] = field(repr=False)

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 of the pixels that `load` gives, in order.

        Keys, labels and how the images were stored are no part of it: features do not depend on them.
        """
        return hash_json({"size": list(self.size), "images": list(self.pixel_hashes)})

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, numbers: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return images by position: uint8 [n, 3, H, W].

        Raises:
            DataError: A file is gone or has changed since the set was opened.
        """
        images = np.empty((len(numbers), 3, *self.size), dtype=np.uint8)
        positions = self._positions[np.asarray(numbers, dtype=np.int64)].tolist()
        workers = min(default_workers(), max(1, len(positions)))
        for place, image in zip(images, map_ordered(self._reader.read, positions, workers), strict=True):
            place[...] = image.transpose(2, 0, 1)
        return torch.from_numpy(images)

    def subset(self, numbers: Sequence[int] | NDArray[np.int64]) -> ImageSet:
        """Return the set of the images at some positions, in their order, each at most once."""
        chosen = np.arange(len(self), dtype=np.int64)[np.asarray(numbers, dtype=np.int64)]
        if len(np.unique(chosen)) != len(chosen):
            raise ValueError("an image stands twice in a subset")
        return replace(
            self,
            labels=self.labels[chosen],
            keys=tuple(self.keys[number] for number in chosen),
            groups=tuple(self.groups[number] for number in chosen),
            pixel_hashes=tuple(self.pixel_hashes[number] for number in chosen),
            _positions=self._positions[chosen],
        )


@dataclass(frozen=True)
class _Listing:
    """What a source says about its images before any of them is opened."""

    kind: str | None
    dataset: str | None
    split: str | None
    classes: Classes
    labels: Sequence[int]
    keys: Sequence[str]
    groups: Sequence[str]
    titles: Sequence[str]
    """How errors call an image."""
    read: Callable[[int], bytes]


class _Reader:
    """Decodes images by position, on any number of threads.

    The first that fit into `cache_bytes` stay in memory. Sets are read from end to end, so that room made for later
    ones would be room taken from those that are needed next.
    """

    def __init__(self, listing: _Listing, size: int | Size | None, cache_bytes: int) -> None:
        self._listing = listing
        self._kept: dict[int, ImageArray] = {}
        first = self._decode(0)
        self.native_size: Size = first.shape[0], first.shape[1]
        self.size: Size = self.native_size if size is None else (size, size) if isinstance(size, int) else size
        self._room = cache_bytes // (3 * self.size[0] * self.size[1])
        self.hashes: list[str | None] = [None] * len(listing.keys)

    def read(self, position: int) -> ImageArray:
        """Return an image [H, W, 3]."""
        if position in self._kept:
            return self._kept[position]
        image = resize_image(self._decode(position), self.size, "crop")
        found = hash_pixels(image)
        expected, self.hashes[position] = self.hashes[position], found
        if expected not in (None, found):
            raise DataError(f"{self._listing.titles[position]} has changed while it was in use", "start again")
        if len(self._kept) < self._room:
            self._kept[position] = image
        return image

    def _decode(self, position: int) -> ImageArray:
        title = self._listing.titles[position]
        image = decode_image(self._listing.read(position), title)
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise DataError(f"{title} has {width} x {height} pixels", f"at least {MIN_SIDE} on each side are needed")
        return image


def open_image_set(
    where: str,
    *,
    size: int | Size | None = None,
    name: str | None = None,
    split: str | None = None,
    classes: Sequence[str] = (),
    cache: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> ImageSet:
    """Return the images of a folder of shards, or of a folder, zip or tar of images with labels.

    Args:
        where: `PLACE` or, of shards, `PLACE:SPLIT`; PLACE may be an address such as s3://bucket/folder.
        size: Side, or height and width, in pixels; others are resized, with their centre cut out where the proportions
            differ. `None` takes those of the first image.
        name: What tables call it; by default the last part of PLACE, with the split where there are several.
        split: The one to take where `where` names none and the shards have several.
        classes: Class names in label order, for files that name none or other ones; see `pack_labels.read_labels`.
        cache: Folder on a disk that remembers the pixels' hashes of files, so that the same bytes are not decoded again
            only to know them.
        cache_bytes: Decoded images are kept in memory up to this.

    Raises:
        UsageError: The size is too small, `classes` do not fit, or the address cannot be used.
        DataError: No such place or split, several splits and none named, no images, no labels, or an image that is
            broken or smaller than 16 pixels.
    """
    if size is not None and min(size if isinstance(size, tuple) else (size,)) < MIN_SIDE:
        raise UsageError(f"images cannot be scored at a size of {size} pixels", f"at least {MIN_SIDE}")
    place, named = split_place(where)
    splits = find_splits(place)
    if splits or is_remote(place):
        listing = _list_shards(place, named or _only_split(place, splits, split))
    else:
        listing = _list_files(place, named, classes)
    if not name:
        name = place.name or place.resolve().name
        name += f":{listing.split}" if len(splits) > 1 else ""
    reader = _Reader(listing, size, cache_bytes)
    if reader.size != reader.native_size:
        log("{}: images of {} x {} pixels are resized to {} x {}".format(name, *reader.native_size, *reader.size))
    _find_hashes(name, listing, reader, cache)
    return _in_order(name, listing, reader)


def split_place(where: str) -> tuple[Path, str | None]:
    """Return place and split of `PLACE:SPLIT`; the split is `None` where none is named.

    The last colon counts, and only where nothing of a path stands behind it: neither the one of `s3://` nor that of a
    port, nor one in the name of a folder that there is.
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


def _list_shards(place: Path, split: str) -> _Listing:
    shards = open_folder(place, split)
    entries = shards.entries
    return _Listing(
        kind=shards.kind,
        dataset=shards.dataset,
        split=split,
        classes=shards.classes,
        labels=[entry.label for entry in entries],
        keys=[entry.key for entry in entries],
        groups=[entry.group for entry in entries],
        titles=[f"{entry.shard}: {entry.key}.{entry.extension}" for entry in entries],
        read=lambda position: read_image_bytes(entries[position]),
    )


def _list_files(place: Path, split: str | None, classes: Sequence[str]) -> _Listing:
    if (shard := SHARD_PATTERN.fullmatch(place.name)) and place.is_file():
        raise DataError(f"{place} is one shard", f"give the folder it lies in: {place.parent}:{shard['split']}")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(place))
        if split is not None:
            raise DataError(f"{place} holds no shards, so no split {split!r}", "give the folder of that split itself")
        labels = read_labels(source, classes)
        if not labels.labels:
            raise DataError(f"{place} holds none of the images that are listed")
        # An archive stays open for as long as its images may be asked for.
        open_archive = stack.pop_all()
    names = sorted(labels.labels)
    if problems := [*source.problems, *labels.problems]:
        log(f"{place}: {len(problems)} images are not used, e.g. {problems[0].source}: {problems[0].detail}")
    if labels.num_unlisted:
        log(f"{place}: {labels.num_unlisted} images are not listed and are not used")

    def read(position: int) -> bytes:
        return source.read(names[position])

    weakref.finalize(read, open_archive.close)
    return _Listing(
        kind=None,
        dataset=None,
        split=None,
        classes=labels.classes,
        labels=[labels.labels[name] for name in names],
        keys=names,
        groups=[labels.groups.get(name, "") for name in names],
        titles=[f"{place}: {name}" for name in names],
        read=read,
    )


def _find_hashes(name: str, listing: _Listing, reader: _Reader, cache: Path | None) -> None:
    """Have the reader know the hash of every image: by decoding it, or from the cache where the same bytes were."""
    count, path = len(listing.keys), None
    if cache is not None:
        encoded = list(map_ordered(lambda number: _hash_bytes(listing.read(number)), range(count), default_workers()))
        # What another decoder makes of the same bytes may differ by a grey level.
        made_by = {"synthmed": synthmed.__version__, "pillow": PIL.__version__, "size": list(reader.size)}
        path = cache / f"{hash_json({**made_by, 'images': encoded})}.pixels.json"
        if (known := _read_hashes(path, count)) is not None:
            reader.hashes[:] = known
            return
    with progress(f"reading {name}", count, "images") as advance:
        for _ in map_ordered(reader.read, range(count), default_workers()):
            advance(1)
    if path is not None:
        write_json(path, reader.hashes)


def _hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_hashes(path: Path, count: int) -> list[str] | None:
    """Return the hashes in a file of the cache; `None` where it does not hold exactly as many."""
    try:
        found = read_json(path)
    except DataError:
        return None
    if not isinstance(found, list) or len(found) != count:
        return None
    whole = all(isinstance(word, str) and re.fullmatch("[0-9a-f]{64}", word) for word in found)
    return found if whole else None


def _in_order(name: str, listing: _Listing, reader: _Reader) -> ImageSet:
    """Return the set in the order of its pixels' hashes; images with the same pixels by class, group and key."""
    hashes = [str(found) for found in reader.hashes]
    words = [listing.classes[label] for label in listing.labels]
    marks = list(zip(hashes, words, listing.groups, listing.keys, strict=True))
    order = sorted(range(len(marks)), key=marks.__getitem__)
    return ImageSet(
        name=name,
        kind=listing.kind,
        dataset=listing.dataset,
        split=listing.split,
        classes=listing.classes,
        labels=np.asarray([listing.labels[number] for number in order], dtype=np.int64),
        keys=tuple(listing.keys[number] for number in order),
        groups=tuple(listing.groups[number] for number in order),
        size=reader.size,
        pixel_hashes=tuple(hashes[number] for number in order),
        _reader=reader,
        _positions=np.asarray(order, dtype=np.int64),
    )
