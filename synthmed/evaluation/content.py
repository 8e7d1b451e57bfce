"""Sets in the order of their content: what an evaluation draws at random depends on the images alone.

Opening decodes every image once, on all cores: a broken one is found before anything is computed. Images stand in the
order of their pixels' hashes, not of their files, so that the same images give the same set, and everything random
drawn from it, whether they come as shards or as files.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import PIL

from synthmed.data.prepare.scan import MIN_SIDE, default_workers, map_ordered
from synthmed.data.sets.image_set import ImageSet, make_set
from synthmed.data.sets.reader import Reader, Size
from synthmed.data.sets.sources import Listing, list_images
from synthmed.errors import DataError, UsageError
from synthmed.files.atomic import write_json
from synthmed.files.content import hash_json, read_json
from synthmed.runtime import version
from synthmed.runtime.progress import progress

CACHE_BYTES = 1 << 29


def open_by_content(
    where: str | Listing,
    *,
    size: int | Size | None = None,
    cache: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> ImageSet:
    """Return the images of a folder of shards, or of a folder, zip or tar of images with labels.

    Args:
        where: `PLACE` or, of shards, `PLACE:SPLIT`; PLACE may be an address such as s3://bucket/folder. Or its images
            as they were listed before.
        size: Side, or height and width, in pixels; others are resized, with their centre cut out where the proportions
            differ. `None` takes those of the first image.
        cache: Folder on a disk that remembers the pixels' hashes of files, so that the same bytes are not decoded again
            only to know them.
        cache_bytes: Decoded images are kept in memory up to this.

    Raises:
        UsageError: The size is too small, or the address cannot be used.
        DataError: No such place or split, several splits and none named, no images, no labels, or an image that is
            broken or smaller than 16 pixels.
    """
    if size is not None and min(size if isinstance(size, tuple) else (size,)) < MIN_SIDE:
        raise UsageError(f"images cannot be scored at a size of {size} pixels", f"at least {MIN_SIDE}")
    listed = list_images(where) if isinstance(where, str) else where
    listing = replace(listed, min_side=MIN_SIDE)
    height, width = listing.pixels(0).shape[:2]
    shape = (height, width) if size is None else (size, size) if isinstance(size, int) else size
    reader = Reader(listing, shape, cache_bytes=cache_bytes)
    _find_hashes(listing, reader, cache)
    images = make_set(listing, reader, (height, width))
    images.log_resized()
    # Images with the same pixels by class, group and key.
    words = [images.classes[label] for label in images.labels.tolist()]
    marks = list(zip(images.pixel_hashes, words, images.groups, images.keys, strict=True))
    return images.subset(sorted(range(len(marks)), key=marks.__getitem__))


def _find_hashes(listing: Listing, reader: Reader, cache: Path | None) -> None:
    """Have the reader know the hash of every image: by decoding it, or from the cache where the same bytes were."""
    count, path = len(listing), None
    if cache is not None:
        encoded = list(
            map_ordered(lambda index: hashlib.sha256(listing.read(index)).hexdigest(), range(count), default_workers())
        )
        # What another decoder makes of the same bytes may differ by a grey level.
        made_by = {"synthmed": version.__version__, "pillow": PIL.__version__, "size": list(reader.size)}
        path = cache / f"{hash_json({**made_by, 'images': encoded})}.pixels.json"
        if (known := _read_known(path, count)) is not None:
            reader.hashes[:], reader.was_resized[:] = known
            return
    with progress(f"reading {listing.name}", count, "images") as advance:
        for _ in map_ordered(reader.hash, range(count), default_workers()):
            advance(1)
    if path is not None:
        write_json(path, {"hashes": reader.hashes, "was_resized": reader.was_resized.tolist()})


def _read_known(path: Path, count: int) -> tuple[list[str], list[bool]] | None:
    """Return what a file of the cache says of each image; `None` where it does not hold exactly as many."""
    try:
        found = read_json(path)
    except DataError:
        return None
    hashes, resized = (found.get(name) if isinstance(found, dict) else None for name in ("hashes", "was_resized"))
    if not (isinstance(hashes, list) and isinstance(resized, list) and len(hashes) == len(resized) == count):
        return None
    whole = all(isinstance(word, str) and re.fullmatch("[0-9a-f]{64}", word) for word in hashes)
    return (hashes, resized) if whole and all(isinstance(flag, bool) for flag in resized) else None
