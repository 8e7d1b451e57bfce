"""The first pass over a release: every image is decoded once, and what cannot be used is named.

Results are kept in `.synthmed/scan`, a file for every few hundred images, so that an interrupted pass goes on where it
stopped, and that a later run can tell whether the release is still the one that was checked (see `changes`).
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from synthmed.data.images import Decoded, ImageArray, decode, detect_format, is_grey
from synthmed.data.prepare.depth import DepthNote
from synthmed.data.prepare.raw import Problem, RawItem
from synthmed.data.shards.samples import MAX_IMAGE_BYTES
from synthmed.errors import DataError
from synthmed.files.atomic import write_json
from synthmed.files.content import read_json
from synthmed.files.fingerprints import fingerprint, source_changed
from synthmed.files.outputs import STATE_FOLDER
from synthmed.runtime.memory import IMAGES
from synthmed.runtime.progress import Advance, progress
from synthmed.runtime.signals import StopSignal

SCAN_FOLDER = f"{STATE_FOLDER}/scan"
ITEMS_A_CHUNK = 500
MIN_SIDE = 16
JPEG_TINT = 7
"""Grey levels between the channels of a grey image that was stored as a colour JPEG: each of its chroma planes may be
off by 2 levels, which moves blue by 4 one way and green by 3 the other."""

Row = dict[str, Any]
"""`pixels`, the hash of an image that can be used, and whether it is `grey`, or `reason` and `detail` of one that
cannot; beside it `source`, the image's name, `peak` of `Decoded` where it has one, and of a file its `stat`, the
fingerprint, and `sha256`, the hash of its bytes if they could be read."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ordered(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `function(item)` in the order of the items, computed by threads a little ahead of what is taken.

    Pillow decodes, resizes and encodes without holding Python's lock, so threads use all cores.
    """
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(_within_budget, function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _within_budget(function: Callable[[Item], Result], item: Item) -> Result:
    # What an item needs is its own until the function has made something small of it.
    with IMAGES.task():
        return function(item)


def read_file(path: Path, name: str) -> bytes:
    """Return the bytes of a file that should be an image.

    Raises:
        DataError: It cannot be read, is a pipe or a device, or too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{name} is not a file")
        with path.open("rb") as file:
            need_for_file(os.fstat(file.fileno()).st_size)
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(f"{name} is too large", f"at most {MAX_IMAGE_BYTES} bytes")
    return data


def read_item(item: RawItem) -> bytes:
    """Return the bytes of an item that is a file.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    if item.path is None:
        raise DataError(f"{item.source} is missing")
    return read_file(item.path, item.source)


def need_for_file(num_bytes: int) -> None:
    """Take room for a file of an image, and for what is at least made of it, before it is read."""
    IMAGES.need(3 * min(num_bytes, MAX_IMAGE_BYTES))


def load_file(item: RawItem, bits: int | None = None) -> Decoded:
    """Return the pixels of an item that is a file.

    Args:
        item: The item.
        bits: Depth of 16-bit grey whose header states none.

    Raises:
        DataError: The file cannot be read or decoded.
        ResumeError: It is another one than was checked.
    """
    return decode(refuse_other(item, read_item(item)), item.source, bits=bits)


def refuse_other(item: RawItem, data: bytes) -> bytes:
    """Return the bytes of an item's file if they are those that were checked.

    Raises:
        ResumeError: They are others.
    """
    if item.sha256 and hashlib.sha256(data).digest() != item.sha256:
        raise source_changed(item.source)
    return data


def checked_item(item: RawItem, row: Row) -> RawItem:
    """Return an item that from now on stands for the bytes that were checked alone."""
    return replace(item, sha256=bytes.fromhex(row["sha256"]), grey=row.get("grey"))


def scan_items(
    items: Sequence[RawItem],
    classes: Sequence[str],
    output: Path,
    size: int,
    workers: int,
    stop: StopSignal,
    *,
    bits: int | None = None,
) -> tuple[list[RawItem], list[Problem]]:
    """Return the usable items, and a problem for each of the others, both in the order of the items.

    An image is too small if its short side is below 16 pixels or below half of `size`. Of images with the same pixels
    the first is kept, or none where they are of several classes: nobody knows which label is true.

    Args:
        items: Of all classes.
        classes: Class names in label order.
        output: Folder that keeps what was scanned.
        size: Of the images in the shards, in pixels.
        workers: Threads that decode.
        stop: Ends the pass.

    Raises:
        Interrupted: A signal came; what was scanned is kept.
    """
    # Of a million rows only what is needed behind the last of them is kept.
    checked: list[tuple[RawItem, str | Problem]] = []
    alike: dict[str, dict[int, RawItem]] = {}  # pixels -> label -> the first image of both
    depths = DepthNote(bits)
    min_side = max(MIN_SIDE, size // 2)
    for item, row in scan_rows(items, output, lambda item: _check_item(item, min_side, bits), workers, stop):
        depths.add(row)
        if "pixels" in row:
            item = checked_item(item, row)
            checked.append((item, row["pixels"]))
            alike.setdefault(row["pixels"], {}).setdefault(item.label, item)
        else:
            checked.append((item, Problem(item.source, row["reason"], row["detail"])))
    usable: list[RawItem] = []
    problems: list[Problem] = []
    for item, found in checked:
        if isinstance(found, Problem):
            problems.append(found)
        elif len(of_label := alike[found]) > 1:
            other = next(of_label[label] for label in of_label if label != item.label)
            detail = f"{classes[item.label]} here, same pixels as {other.source}, which is {classes[other.label]}"
            problems.append(Problem(item.source, "label conflict", detail))
        elif (first := of_label[item.label]) is not item:
            problems.append(Problem(item.source, "duplicate", f"same pixels as {first.source}"))
        else:
            usable.append(item)
    depths.log()
    return usable, problems


def scan_rows(
    items: Sequence[RawItem], output: Path, check: Callable[[RawItem], Row], workers: int, stop: StopSignal
) -> Iterator[tuple[RawItem, Row]]:
    """Yield each item with what `check` gives for it, kept in the output folder for an interrupted pass to go on.

    Raises:
        Interrupted: A signal came; what was checked is kept.
    """
    with progress("checking images", len(items), "images") as advance:
        for start in range(0, len(items), ITEMS_A_CHUNK):
            chunk, path = items[start : start + ITEMS_A_CHUNK], chunk_path(output, start)
            yield from zip(chunk, _scan_chunk(chunk, path, check, workers, stop, advance), strict=True)


def chunk_path(output: Path, start: int) -> Path:
    """Return where the results of the items from `start` on are kept."""
    return output / SCAN_FOLDER / f"{start:09d}.json"


def kept_rows(output: Path) -> Iterator[Row]:
    """Yield what an earlier pass found, of the first item on; versions before kept less, which is passed over."""
    start = 0
    while (path := chunk_path(output, start)).is_file():
        rows: list[Row] = read_json(path)
        if not all("source" in row for row in rows):
            return
        yield from rows
        start += ITEMS_A_CHUNK


def _scan_chunk(
    chunk: Sequence[RawItem],
    path: Path,
    check: Callable[[RawItem], Row],
    workers: int,
    stop: StopSignal,
    advance: Advance,
) -> list[Row]:
    if path.is_file():
        rows: list[Row] = read_json(path)
        if [row.get("source") for row in rows] == [item.source for item in chunk]:
            advance(len(rows))
            return rows
    rows = []
    for item, row in zip(chunk, map_ordered(check, chunk, workers), strict=True):
        stop.check("run the same command again to go on")
        rows.append({"source": item.source, **row})
        advance(1)
    write_json(path, rows)
    return rows


def _check_item(item: RawItem, min_side: int, bits: int | None) -> Row:
    """Return what identifies an item's file and pixels, or the reason why it cannot be used."""
    if item.path is None:
        return {"reason": "missing", "detail": "listed, but there is no such file"}
    # Before the file is read: should it be changed meanwhile, it is read again next time.
    found: Row = {"stat": fingerprint(item.path)}
    try:
        data = read_item(item)
        found["sha256"] = hashlib.sha256(data).hexdigest()
        image = decode(data, item.source, bits=bits)
    except DataError as error:
        return {**found, "reason": "unreadable", "detail": str(error)}
    height, width = image.pixels.shape[:2]
    if min(height, width) < min_side:
        detail = f"{width} x {height} pixels, at least {min_side} are needed"
        return {**found, "reason": "wrong size", "detail": detail}
    grey = is_grey(image.pixels, JPEG_TINT if detect_format(data) == "jpg" else 0)
    return {**found, **describe_pixels(image), "grey": grey}


def describe_pixels(image: Decoded) -> Row:
    """Return what a scan remembers of an image that can be used."""
    peak = {} if image.peak is None else {"peak": str(image.peak)}
    return {"pixels": hash_pixels(image.pixels), **peak}


def hash_pixels(image: ImageArray) -> str:
    """Return the SHA-256 of an image's size and pixels."""
    height, width = image.shape[:2]
    digest = hashlib.sha256(f"{width}x{height}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def default_workers() -> int:
    """Return the number of threads to decode with: the cores this process may use, 16 at most."""
    return max(1, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
